"""The seal at the end of a library: what the library is, its length, and its checksum.

The system's loader believes a file: one that is damaged crashes the process, and one of a stranger
runs code as soon as it is loaded. So a library is loaded only after its seal was checked. The seal
shows damage; it is no signature, and does not show who made the library.

The file is the shared object, then the description of the library as JSON, then a footer: the
lengths of both (8 and 4 bytes), the checksum of all that stands before it (4 bytes), and `_MAGIC`;
all numbers are little-endian. The system's loader ignores what follows the shared object.

The content is words of 8 bytes in squares, each of 256 rows of 512 words. The sums of all rows and
of all columns, modulo 2**64, go into one CRC-32, and so do the bytes after the last square. A word
that is changed or moved changes both a sum of a row and one of a column. NumPy adds words three
times as fast as zlib takes bytes into a CRC: docs/measurements.md has the figures.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.errors import LibraryError

_MAGIC = b"tvmsprs2"
_FOOTER = struct.Struct("<QII8s")

_ROWS, _COLUMNS = 256, 512
_WORDS = _ROWS * _COLUMNS
_SQUARE_BYTES = 8 * _WORDS
"""A square stays in the cache of the second level between both of its sums."""

_WINDOW_BYTES = 16 * _SQUARE_BYTES
"""The file is mapped by windows, which are the memory that the checksum takes."""


def add_seal(path: Path, description: str) -> None:
    """Append the seal to a shared object.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    text = description.encode()
    with path.open("rb+") as file:
        length = file.seek(0, os.SEEK_END)
        file.write(text)
        file.flush()
        file.write(_FOOTER.pack(length, len(text), _checksum(file, length + len(text)), _MAGIC))


def read_seal(file: BinaryIO, path: Path) -> str:
    """Return the description in the seal of a library whose content is whole.

    Parameters
    ----------
    file : binary file
        The library, open.
    path : Path
        Its path, for messages.

    Raises
    ------
    LibraryError
        If there is no seal, or the file is truncated or damaged.
    OSError
        If the file cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    footer = os.pread(file.fileno(), _FOOTER.size, max(size - _FOOTER.size, 0))
    if len(footer) < _FOOTER.size or not footer.endswith(_MAGIC):
        raise LibraryError(
            f"{path}: truncated, or not a library that this version of tvm-sparse compiled; copy "
            "or compile it again"
        )
    length, description, checksum, _ = _FOOTER.unpack(footer)
    sealed = size - _FOOTER.size
    if length + description != sealed or _checksum(file, sealed) != checksum:
        raise LibraryError(f"{path}: damaged; copy or compile it again")
    try:
        return os.pread(file.fileno(), description, length).decode()
    except UnicodeDecodeError:
        raise LibraryError(f"{path}: damaged; copy or compile it again") from None


def _checksum(file: BinaryIO, length: int) -> int:
    end = length // _SQUARE_BYTES * _SQUARE_BYTES
    checksum = zlib.crc32(os.pread(file.fileno(), length - end, end))
    for start in range(0, end, _WINDOW_BYTES):
        size = min(_WINDOW_BYTES, end - start)
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ, offset=start) as window:
            words = np.frombuffer(window, "<u8")
            for first in range(0, len(words), _WORDS):
                checksum = _with_square(words[first : first + _WORDS], checksum)
            del words  # The window cannot be unmapped while a variable refers to it.
    return checksum


def _with_square(words: NDArray[np.uint64], checksum: int) -> int:
    """Return a checksum with the sums of a square's rows and columns."""
    square = words.reshape(_ROWS, _COLUMNS)
    for axis in (0, 1):
        checksum = zlib.crc32(np.add.reduce(square, axis), checksum)
    return checksum
