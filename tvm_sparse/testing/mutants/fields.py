"""Changes of single fields of a protobuf message: sizes, axes, types, names, weights."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from tvm_sparse.testing.mutants import raw_bytes

WIDE = (0, 1, -1, 2, 3, 7, -2, 2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))
"""Integers near which programs go wrong."""

_REALS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, -1e38, float("nan"), float("inf"), float("-inf"))

_NAMES = ("", "x", "y", "no such name", "../../etc/passwd", "/dev/zero", "a\nb\x1b[31m", "é" * 300)

Site = tuple[Any, Any]
"""A message, and the descriptor of one of its fields that is set."""


def mutate(rng: random.Random, message: Any) -> None:
    """Change one field of a message, or of one of those in it."""
    sites = list(_sites(message))
    names = sorted({field.full_name for _, field in sites})
    # Each kind of field comes as often as others, though a model has more nodes than opsets.
    name = rng.choice(names)
    owner, field = rng.choice([site for site in sites if site[1].full_name == name])
    if field.is_repeated:
        _mutate_repeated(rng, owner, field, sites)
    elif field.type == field.TYPE_MESSAGE:
        _mutate_message(rng, owner, field, sites)
    else:
        _set(owner, field, _changed(rng, getattr(owner, field.name), field, sites))


def _sites(message: Any) -> Iterator[Site]:
    for field, value in message.ListFields():
        yield message, field
        if field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                yield from _sites(inner)


def _mutate_repeated(rng: random.Random, owner: Any, field: Any, sites: list[Site]) -> None:
    values = getattr(owner, field.name)
    at = rng.randrange(len(values))
    what = rng.choice(("change", "change", "change", "remove", "repeat", "clear", "swap", "append"))
    is_message = field.type == field.TYPE_MESSAGE
    if what == "remove":
        del values[at]
    elif what == "clear":
        owner.ClearField(field.name)
    elif what in ("repeat", "append") or (what == "change" and is_message):
        one = _copy(values[at] if what == "repeat" else _other(rng, values[at], field, sites))
        if what == "change":
            del values[at]
        values.append(one)
    elif what == "swap":
        other = rng.randrange(len(values))
        all_values = [_copy(value) for value in values]
        all_values[at], all_values[other] = all_values[other], all_values[at]
        owner.ClearField(field.name)
        getattr(owner, field.name).extend(all_values)
    else:
        values[at] = _fitting(field, _changed(rng, values[at], field, sites))


def _mutate_message(rng: random.Random, owner: Any, field: Any, sites: list[Site]) -> None:
    if rng.random() < 0.4:
        owner.ClearField(field.name)
    else:
        other = _copy(_other(rng, getattr(owner, field.name), field, sites))
        getattr(owner, field.name).CopyFrom(other)


def _copy(value: Any) -> Any:
    if not hasattr(value, "CopyFrom"):
        return value
    copy = type(value)()
    copy.CopyFrom(value)
    return copy


def _other(rng: random.Random, value: Any, field: Any, sites: list[Site]) -> Any:
    """Return another value of the model that could stand in a field; often of another field."""
    return rng.choice(_alike(value, field, sites))


def _alike(value: Any, field: Any, sites: list[Site]) -> list[Any]:
    found = [value]
    for owner, other in sites:
        is_kind = other.type == field.type and other.message_type == field.message_type
        if is_kind:
            values = getattr(owner, other.name)
            found += list(values) if other.is_repeated else [values]
    return found


def _changed(rng: random.Random, value: Any, field: Any, sites: list[Site]) -> Any:
    if isinstance(value, str):
        known = _alike(value, field, sites)
        return rng.choice((*known, rng.choice(_NAMES), value + "_", value[:-1]))
    if isinstance(value, bytes):
        return raw_bytes.mutated(rng, value)
    if isinstance(value, float):
        return rng.choice((rng.choice(_REALS), -value, value * 1e6))
    return rng.choice(
        (rng.choice(WIDE), value + 1, value - 1, -value, value * 2, rng.randrange(24))
    )


def _set(owner: Any, field: Any, value: Any) -> None:
    setattr(owner, field.name, _fitting(field, value))


def _fitting(field: Any, value: Any) -> Any:
    """Return a number as the field can hold it."""
    if field.cpp_type == field.CPPTYPE_ENUM:
        known = [one.number for one in field.enum_type.values]
        return known[value % len(known)]
    if field.cpp_type == field.CPPTYPE_INT32:
        return (value + 2**31) % 2**32 - 2**31
    if field.cpp_type == field.CPPTYPE_INT64:
        return (value + 2**63) % 2**64 - 2**63
    if field.cpp_type == field.CPPTYPE_UINT64:
        return value % 2**64
    if field.cpp_type == field.CPPTYPE_UINT32:
        return value % 2**32
    return value
