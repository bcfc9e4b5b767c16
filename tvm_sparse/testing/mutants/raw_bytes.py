"""Changes of bytes, which know no format."""

from __future__ import annotations

import random


def mutated(rng: random.Random, content: bytes) -> bytes:
    """Return the bytes after one to three changes."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        content = rng.choice(_CHANGES)(rng, content)
    return content


def _flip(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 16))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    if changed:
        start = rng.randrange(len(changed))
        length = rng.choice((1, 4, 8, 64))
        fill = rng.choice((b"\x00", b"\xff", b"\x7f", b"\x80", b"\n"))
        changed[start : start + length] = fill * min(length, len(changed) - start)
    return bytes(changed)


def _truncate(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _remove(rng: random.Random, content: bytes) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.choice((1, 2, 8, 100)) :]


def _repeat(rng: random.Random, content: bytes) -> bytes:
    start = rng.randrange(len(content) + 1)
    part = content[start : start + rng.choice((1, 8, 100))]
    return content[:start] + part * rng.choice((2, 3, 50)) + content[start:]


def _insert(rng: random.Random, content: bytes) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + rng.randbytes(rng.choice((1, 4, 30))) + content[start:]


_CHANGES = (_flip, _flip, _overwrite, _truncate, _remove, _repeat, _insert)
