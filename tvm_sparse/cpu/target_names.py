"""The names of targets: their suffixes, and the nearest name to one that is wrong.

``sapphirerapids-amx`` is that processor without its AMX. For cross-compiling, ``+fp16``, ``+amx``,
``+vnni`` and ``+dotprod`` add what a profile's processor may or may not have; ``-`` takes it away.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping

from tvm_sparse.cpu.instruction_sets import DOT_PRODUCTS, HALF, MATRIX_UNIT, VNNI
from tvm_sparse.errors import TargetError

SUFFIXES: dict[str, Mapping[str, tuple[str, ...]]] = {
    "fp16": HALF,
    "amx": {"x86_64": (*MATRIX_UNIT["x86_64"], "amx-int8")},
    "vnni": VNNI,
    "dotprod": DOT_PRODUCTS,
}
"""The instruction sets of each suffix, by architecture."""

_ABOUT = "a target's name may end in " + ", ".join(f"+{name}, -{name}" for name in SUFFIXES)


def split(name: str, is_known: Callable[[str], bool]) -> tuple[str, tuple[str, ...]]:
    """Return the name of a profile and the suffixes behind it, such as ``"+fp16"``.

    Raises
    ------
    TargetError
        If something else stands behind a ``+``.
    """
    base = name
    suffixes: list[str] = []
    while not is_known(base) and (found := re.fullmatch(r"(.+)([+-][^+-]+)", base)):
        base = found[1]
        suffixes.insert(0, found[2])
    if not is_known(base):
        return name.split("+")[0], ()
    for suffix in suffixes:
        if suffix[1:] not in SUFFIXES:
            if suffix[0] == "-":
                return name, ()
            raise TargetError(f"{name!r} has the unknown suffix {suffix!r}: {_ABOUT}")
    return base, tuple(suffixes)


def attributes(
    target: str, suffixes: tuple[str, ...], architecture: str, vector_bits: int
) -> tuple[str, ...]:
    """Return the LLVM attributes that suffixes stand for on a processor.

    Raises
    ------
    TargetError
        If a suffix adds what processors of this kind never have.
    """
    found: list[str] = []
    for suffix in suffixes:
        names = SUFFIXES[suffix[1:]].get(architecture, ())
        is_short = architecture == "x86_64" and vector_bits < 512
        if is_short and suffix[1:] == "vnni":
            names, is_short = ("avxvnni",), False
        if suffix[0] == "+" and (not names or is_short):
            kind = f"{architecture} with vectors of {vector_bits} bits" if names else architecture
            raise TargetError(f"{target!r}: no processor of {kind} has {suffix[1:]}")
        # What AMX uses beside itself stays when AMX goes.
        found += [f"{suffix[0]}{name}" for name in names if suffix[0] == "+" or suffix[1:] in name]
    return tuple(found)


def joined(mattr: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """Return attributes with more of them, which win where they contradict."""
    named = {attribute[1:] for attribute in more}
    return (*(a for a in mattr if a[1:] not in named), *more)


def unknown(name: str, words: Mapping[str, str]) -> TargetError:
    """Return the error about a name that no target has.

    Parameters
    ----------
    name : str
        The name.
    words : mapping of str to str
        The names of targets, by what a person may call them.
    """
    near = difflib.get_close_matches(name.lower(), words, n=1)
    hint = f"did you mean {words[near[0]]!r}? " if near else ""
    return TargetError(f"unknown target {name!r}: {hint}`tvm-sparse targets` lists all of them")
