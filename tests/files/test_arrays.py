"""Files of arrays that are damaged, hostile or of another kind give one error."""

import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from tvm_sparse.errors import InputError
from tvm_sparse.files import read_npy, read_npz, write_npz


def header(text, version=1):
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode("latin1")


def described(shape, descr="<f4"):
    return header(f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n")


ARRAYS = {
    "whole": np.arange(6, dtype="float32").reshape(2, 3),
    "scalar": np.array(1.5),
    "empty": np.zeros((0, 3), "int64"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big": np.arange(3, dtype=">i4"),
    "half": np.ones(3, "float16"),
    "bools": np.array([True, False]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back(name, tmp_path):
    np.save(tmp_path / "x.npy", ARRAYS[name])
    found = read_npy(tmp_path / "x.npy")
    np.testing.assert_array_equal(found, ARRAYS[name])
    assert found.dtype == ARRAYS[name].dtype and found.flags.writeable


def test_arrays_by_name_come_back(tmp_path):
    write_npz(tmp_path / "x.npz", ARRAYS)
    np.savez_compressed(tmp_path / "y.npz", **ARRAYS)
    for path in (tmp_path / "x.npz", tmp_path / "y.npz"):
        found = read_npz(path)
        assert [*found] == [*ARRAYS]
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(found[name], array)


BAD = {
    "empty": b"",
    "text": b"hello, I am no array" * 10,
    "terabytes": described((1 << 40, 4)),
    "more than any memory": described((1 << 62, 1 << 62)),
    "negative": described((-1,)) + bytes(100),
    "no shape": header("{'descr': '<f4'}"),
    "no header": header("(" * 5000),
    "no numbers": described((2,), "|O") + pickle.dumps([print, print]),
    "nothing": described((2,), "|V0"),
    "no dtype": described((2,), "<q9"),
    "truncated": described((100,)) + bytes(399),
    "no version": b"\x93NUMPY\x09\x00" + bytes(100),
    "long header": header("{" + " " * 100_000 + "}", 2),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_array(name, tmp_path):
    (tmp_path / "x.npy").write_bytes(BAD[name])
    with pytest.raises(InputError, match=r"x\.npy: "):
        read_npy(tmp_path / "x.npy")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", BAD[name])
    with pytest.raises(InputError, match=r"x\.npz: "):
        read_npz(tmp_path / "x.npz")


def test_every_truncation_and_many_damages(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(4.0), b=np.arange(3))
    whole, path = buffer.getvalue(), tmp_path / "x.npz"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_npz(path)
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            read_npz(path)
        except InputError as error:
            assert str(error).startswith(str(path))


def test_a_small_archive_with_more_than_the_memory(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(1000), b=np.zeros(1000))
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    with pytest.raises(InputError, match="more than the memory of this machine"):
        read_npz(tmp_path / "x.npz")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (read_npy, read_npz):
        for path in (tmp_path / "pipe", type(tmp_path)("/dev/zero"), tmp_path):
            with pytest.raises(InputError, match="it is a folder, a device or a pipe"):
                read(path)
        with pytest.raises(InputError, match="No such file"):
            read(tmp_path / "no.npy")
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path / "a\0b")
