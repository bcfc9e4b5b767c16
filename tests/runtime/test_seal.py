"""The seal shows every damage of a file, wherever it is."""

import numpy as np
import pytest

from tvm_sparse.errors import LibraryError
from tvm_sparse.runtime import seal

SIZES = (0, 1, 4095, seal._SQUARE_BYTES, 2 * seal._SQUARE_BYTES + 12345)


@pytest.fixture(params=SIZES)
def sealed(request, tmp_path):
    path = tmp_path / "a.so"
    path.write_bytes(np.random.default_rng(0).bytes(request.param))
    seal.add_seal(path, "what it is")
    return path


def read(path):
    with path.open("rb") as file:
        return seal.read_seal(file, path)


def refused(path, content):
    path.write_bytes(content)
    with pytest.raises(LibraryError, match=r"a\.so: (damaged|truncated)"):
        read(path)


def test_a_whole_file(sealed):
    assert read(sealed) == "what it is"


def test_single_bits(sealed):
    whole, rng = sealed.read_bytes(), np.random.default_rng(1)
    for place in rng.integers(len(whole), size=60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        refused(sealed, damaged)


def test_what_was_moved_or_lost(sealed):
    whole, rng = sealed.read_bytes(), np.random.default_rng(2)
    for length in (8, 512, 4096, seal._SQUARE_BYTES):
        for _ in range(5 if len(whole) > 2 * length + 100 else 0):
            here, there = sorted(rng.integers((len(whole) - 40) // length, size=2) * length)
            if here == there:
                continue
            swapped = bytearray(whole)
            swapped[here : here + length], swapped[there : there + length] = (
                whole[there : there + length], whole[here : here + length]
            )  # fmt: skip
            if len(swapped) == len(whole):
                refused(sealed, swapped)
            zeroed = bytearray(whole)
            zeroed[here : here + length] = bytes(length)
            refused(sealed, zeroed)
            refused(sealed, whole[:here] + whole[here + length :])


def test_two_words_of_a_row_that_change_by_the_same(tmp_path):
    """The sum of the row stays; those of the columns do not."""
    content = np.random.default_rng(3).integers(2**60, size=seal._WORDS, dtype="<u8")
    path = tmp_path / "a.so"
    path.write_bytes(content.tobytes())
    seal.add_seal(path, "what it is")
    whole = path.read_bytes()
    content[5] += np.uint64(7)
    content[9] -= np.uint64(7)
    refused(path, content.tobytes() + whole[seal._SQUARE_BYTES :])
