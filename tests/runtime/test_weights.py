"""Weights beside the code of a library: written behind it, and mapped."""

import json
import mmap
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st

import tvm_sparse
from tvm_sparse.errors import LibraryError
from tvm_sparse.runtime.weights import ALIGNMENT, Weights, append_weights, map_weights
from tvm_sparse.testing.models import write_mlp
from tvm_sparse.testing.tiny_decoders import TinyDecoder

DTYPES = st.sampled_from(["float32", "float16", "uint8", "int32"])
SHAPES = st.lists(st.integers(0, 9), min_size=1, max_size=3)


def tensors_of(arrays):
    return [tvm.runtime.tensor(array) for array in arrays]


@given(
    st.lists(st.tuples(DTYPES, SHAPES), min_size=1, max_size=5),
    st.binary(min_size=1, max_size=5000),
)
def test_round_trip(tmp_path_factory, kinds, before):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 100, shape).astype(dtype) for dtype, shape in kinds]
    path = tmp_path_factory.mktemp("weights") / "library"
    path.write_bytes(before)
    weights = Weights.of(tensors_of(arrays), {"f": (0,)})
    weights = append_weights(path, weights, arrays)
    assert path.read_bytes()[: len(before)] == before
    assert Weights.from_fields(json.loads(json.dumps(weights.to_fields()))) == weights
    with path.open("rb") as file:
        mapped = map_weights(file, weights)
    for tensor, array in zip(mapped, arrays, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert np.from_dlpack(tensor).ctypes.data % ALIGNMENT == 0


def test_a_file_that_is_too_short(tmp_path):
    arrays = [np.zeros(5000, "float32")]
    path = tmp_path / "library"
    path.write_bytes(b"code")
    weights = append_weights(path, Weights.of(tensors_of(arrays), {}), arrays)
    with path.open("rb+") as file:
        file.truncate(weights.start + 100)
        with pytest.raises(ValueError, match="smaller than requested"):
            map_weights(file, weights)


def maps_of(name):
    """Return the parts of a file that this process has mapped."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if name in line]


def page_of(weights):
    """Return the byte of a file at which the page begins where its weights do."""
    return weights.start // mmap.PAGESIZE * mmap.PAGESIZE


def copied_bytes(path, start):
    """Return how much of the mapped part of a file that begins at `start` is no page of it."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    is_mapped = any(f" {start:08x} " in line and line.endswith(f" {path}") for line in lines)
    assert is_mapped, "the part is not mapped"
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    path = TinyDecoder(vocabulary=256).write(folder / "tiny.onnx")
    tvm_sparse.compile(path, threads=2).save(folder / "tiny.so")
    return folder / "tiny.so"


def test_a_network_reads_its_weights_in_the_file(tmp_path):
    """Compiled code computes from the pages of the file, which all processes share."""
    path = write_mlp(tmp_path / "mlp.onnx", density=1)
    compiled = tvm_sparse.compile(path, {"x": (1, 20, 32)}, threads=1)
    compiled.save(tmp_path / "mlp.so")
    engine = tvm_sparse.load(tmp_path / "mlp.so", threads=1)
    weights = engine.info.weights
    assert weights.read_by.keys() == {"main"}
    assert weights.start + weights.table[-1].offset < (tmp_path / "mlp.so").stat().st_size
    x = np.random.default_rng(0).standard_normal((1, 20, 32)).astype("float32")
    for expected, got in zip(compiled.run([x]).values(), engine.run([x]).values(), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert copied_bytes(tmp_path / "mlp.so", page_of(weights)) == 0


def test_engines_of_a_file_share_its_pages(library):
    """The weights lie in the file's own pages, and a session reads them there."""
    engine = tvm_sparse.load(library)
    weights = engine.info.weights
    assert set(weights.read_by) == {"rows_1", "rows_4", "rows_16", "last_4", "last_16"}
    mapped = [line for line in maps_of("tiny.so") if f" {page_of(weights):08x} " in line]
    assert len(mapped) == 1
    again = tvm_sparse.load(library)
    first, second = (one.session(tokens=8).step([1, 2, 3]) for one in (engine, again))
    np.testing.assert_array_equal(first, second)
    assert [line for line in maps_of("tiny.so") if line in mapped] == mapped


@pytest.mark.parametrize(
    "damage",
    [
        {"start": -1},
        {"start": "64"},
        {"table": [[0, [2, 3], "flo~at32"]]},
        {"table": [[0, [2, -3], "float32"]]},
        {"table": [[0.5, [2, 3], "float32"]]},
        {"table": [[0, [2, 3]]]},
        {"read_by": {"main": [1]}},
        {"read_by": {"main": [-1]}},
    ],
    ids=str,
)
def test_fields_that_describe_no_weights(damage):
    fields = Weights.of(tensors_of([np.zeros((2, 3), "float32")]), {"main": (0,)}).to_fields()
    assert Weights.from_fields(fields).table[0].dtype == "float32"
    with pytest.raises((KeyError, TypeError, ValueError)):
        Weights.from_fields(fields | damage)


def test_damaged_weights(library, tmp_path):
    content = bytearray(library.read_bytes())
    content[tvm_sparse.load(library).info.weights.start + 10] ^= 1
    (tmp_path / "damaged.so").write_bytes(content)
    with pytest.raises(LibraryError, match="damaged"):
        tvm_sparse.load(tmp_path / "damaged.so")
