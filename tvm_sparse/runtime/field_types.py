"""Whether the fields of dataclasses have the types that they are declared with.

Who fills them from a file knows only then that the file says what it should.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any


def check_fields(value: Any) -> None:
    """Check the fields of a dataclass, and those of dataclasses in it.

    Raises
    ------
    TypeError
        If a field has another type than the declared one; the message names it.
    """
    dataclass: Any = type(value)
    for name, kind in _declared(dataclass).items():
        if not _is(getattr(value, name), kind):
            raise TypeError(f"{type(value).__name__}.{name}")


@functools.cache
def _declared(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _is(value: Any, kind: Any) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(_is(value, one) for one in inner)
    if origin is tuple:  # of any length, all of one type
        return isinstance(value, tuple) and all(_is(one, inner[0]) for one in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _is(key, inner[0]) and _is(one, inner[1]) for key, one in value.items()
        )
    if kind is int:  # bool is a subclass of int
        return type(value) is int
    if not isinstance(value, kind):
        return False
    if dataclasses.is_dataclass(kind):
        check_fields(value)
    return True
