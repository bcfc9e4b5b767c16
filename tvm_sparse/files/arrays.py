"""Arrays in files of NumPy's formats, which strangers may have written."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from tvm_sparse.errors import InputError, border
from tvm_sparse.files.reading import open_regular
from tvm_sparse.files.writing import replacing


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], read: Iterable[Path] = ()) -> None:
    """Write arrays by name.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    contents: dict[str, Any] = dict(arrays)
    with replacing(path, read=read) as temporary, temporary.open("wb") as file:
        np.savez(file, **contents)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read arrays by name that `numpy.savez` wrote.

    Raises
    ------
    InputError
        If there is no such file, or it holds no arrays by name, or they are larger than the memory.
    """
    with (
        open_regular(path, InputError) as file,
        border(InputError, f"{path}: no arrays by name", "write it with numpy.savez"),
        zipfile.ZipFile(file) as archive,
    ):
        found = {}
        _check_memory(sum(entry.file_size for entry in archive.infolist()), path)
        for entry in archive.infolist():
            with archive.open(entry) as member:
                name = entry.filename.removesuffix(".npy")
                found[name] = _read_array(member, entry.file_size, f"{path}: {name}")
        return found


def read_npy(path: Path) -> np.ndarray:
    """Read an array that `numpy.save` wrote.

    Raises
    ------
    InputError
        If there is no such file, or it holds no array, or one that is larger than the memory.
    """
    with (
        open_regular(path, InputError) as file,
        border(InputError, f"{path}: not an array", "write it with numpy.save"),
    ):
        size = os.fstat(file.fileno()).st_size
        _check_memory(size, path)
        return _read_array(file, size, str(path))


def _read_array(file: IO[bytes], size: int, where: str) -> np.ndarray:
    """Return the array in a file of `size` bytes; its header is believed only if they are there."""
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise InputError(f"{where}: version {version} of NumPy's format is not known")
    shape, is_fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise InputError(f"{where}: holds Python objects, which are not read; write plain numbers")
    count = 1
    for extent in shape:
        count *= extent
    length = count * dtype.itemsize
    if any(extent < 0 for extent in shape) or length > size - file.tell():
        raise InputError(f"{where}: truncated, or its header does not fit its content")
    content = np.empty(length, np.uint8)
    view = memoryview(content)  # type: ignore[arg-type]
    while view:
        read = file.readinto(view)  # type: ignore[attr-defined]
        if not read:
            raise InputError(f"{where}: truncated")
        view = view[read:]
    return content.view(dtype).reshape(shape, order="F" if is_fortran else "C")


def _check_memory(size: int, path: Path) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise InputError(f"{path}: {size / 1e9:.0f} GB are more than the memory of this machine")
