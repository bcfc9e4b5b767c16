"""What a library says about its model: inputs and outputs, and the nodes that fall back.

The check of a caller's arrays is here too.
"""

from __future__ import annotations

import difflib
import functools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import numpy as np

from tvm_sparse.errors import InputError, border

FallbackOption = Literal["onnxruntime", "off"]
"""What becomes of nodes that are not compiled: ONNX Runtime runs them, or they are an error."""

CacheOption = Literal["auto", "float32", "float16", "int8"]
"""The type in which a decoder keeps keys and values of past tokens."""

PaddingOption = Literal["keep", "drop", "auto"]
"""What becomes of the tokens that a mask leaves out: they are computed, or not."""

RUN_SUBMODEL = "tvm_sparse.onnxruntime.run"
"""The name of the function that compiled code calls for a part that ONNX Runtime runs."""

MEASURED_BY_GENERATE = (
    "the model is a decoder, whose steps are no inferences: `tvm-sparse generate` measures tokens "
    "a second"
)
"""What is said where the time of an inference of a decoder is asked for."""

HOST_FUNCTIONS = "tvm_sparse.host."
"""What the names of the functions in Python begin with that compute operators not compiled."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model.

    Attributes
    ----------
    name : str
        The name in the model.
    shape : tuple of int or str
        The dimensions. One that inputs may choose is a name, such as ``"batch"``; a dimension that
        is known only at run time, and has no name, is -1.
    dtype : str
        The name of the element type in NumPy.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{self._dimensions}]"

    @property
    def _dimensions(self) -> str:
        return ", ".join("?" if size == -1 else str(size) for size in self.shape)

    @functools.cached_property
    def _dtype(self) -> np.dtype:
        return np.dtype(self.dtype)

    @property
    def is_static(self) -> bool:
        """Whether all dimensions are numbers that are known."""
        return all(isinstance(size, int) and size >= 0 for size in self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The dimensions, all of which are known.

        Raises
        ------
        ValueError
            If one is not.
        """
        if not self.is_static:
            raise ValueError(f"{self} has dimensions that are known at run time only")
        return tuple(size for size in self.shape if isinstance(size, int))

    @property
    def numbers(self) -> tuple[int, ...]:
        """The dimensions, with -1 in place of names."""
        return tuple(size if isinstance(size, int) else -1 for size in self.shape)

    def at(self, sizes: Mapping[str, int]) -> TensorSpec:
        """Return the spec with sizes in place of names."""
        shape = tuple(
            sizes.get(size, size) if isinstance(size, str) else size for size in self.shape
        )
        return replace(self, shape=shape)

    def check(self, value: object, sizes: Sizes | None = None) -> np.ndarray:
        """Return `value` as an array of exactly this dtype, and of a shape that fits.

        Parameters
        ----------
        value : array_like
            What a caller gives.
        sizes : Sizes, optional
            Holds the sizes of the named dimensions, and gets those of `value`.

        Raises
        ------
        InputError
            If `value` has another shape or dtype; nothing is converted silently.
        """
        if type(value) is np.ndarray and value.dtype == self._dtype and value.shape == self.shape:
            return value
        # Importing numpy.ma takes as long as an inference; who has such an array has imported it.
        masked = sys.modules.get("numpy.ma")
        if masked is not None and isinstance(value, masked.MaskedArray):
            raise InputError(
                f"input {self.name!r}: a masked array, whose mask would be lost; give its .filled()"
            )
        with border(InputError, f"input {self.name!r}: not an array", f"expected {self}"):
            array = np.asarray(value)
        if array.dtype != self._dtype:
            raise InputError(
                f"input {self.name!r}: expected dtype {self.dtype}, got {array.dtype}; "
                f"convert it with .astype({self.dtype!r})"
            )
        if array.shape == self.shape:
            return array
        fits = len(array.shape) == len(self.shape) and all(
            not isinstance(size, int) or size in (-1, given)
            for size, given in zip(self.shape, array.shape, strict=False)
        )
        if not fits or self.is_static:
            expected = self.shape if self.is_static else f"({self._dimensions})"
            fixed = "the shapes are fixed when the model is compiled (shapes=, --shape)"
            raise InputError(
                f"input {self.name!r}: expected shape {expected}, got {array.shape}; "
                + (fixed if self.is_static else "its numbers are fixed, and names stand for any")
            )
        for size, given in zip(self.shape, array.shape, strict=True):
            if isinstance(size, str):
                (Sizes() if sizes is None else sizes).bind(size, given, self.name)
        return array


def check_cache(cache: str) -> None:
    """Refuse what is no type of a cache.

    Raises
    ------
    InputError
        If `cache` is none of `CacheOption`.
    """
    _check_option("cache", cache, get_args(CacheOption))


def check_padding(padding: str) -> None:
    """Refuse what says nothing about padded tokens.

    Raises
    ------
    InputError
        If `padding` is none of `PaddingOption`.
    """
    _check_option("padding", padding, get_args(PaddingOption))


def _check_option(name: str, value: str, options: Sequence[str]) -> None:
    if value not in options:
        raise InputError(f"{name} must be one of {', '.join(map(repr, options))}; got {value!r}")


def allowed(bounds: Mapping[str, int], tables: Mapping[str, int]) -> dict[str, int]:
    """Return the largest sizes by name, of those that a user gives and those of a model's tables.

    Raises
    ------
    InputError
        If a user's bound is larger than the model allows.
    """
    for name, most in bounds.items():
        if most > tables.get(name, most):
            raise InputError(
                f"bounds= lets {name!r} be up to {most}, and the model has a table of "
                f"{tables[name]} entries for it"
            )
    return {**tables, **bounds}


Hints: TypeAlias = Mapping[str, int | Sequence[int]]
"""Sizes to plan for by name: one, or several of which each gets a plan of its own."""


def each_hint(hints: Hints) -> list[dict[str, int]]:
    """Return the sizes of each plan by name; those that have one value have it in all plans.

    Raises
    ------
    InputError
        If names have different numbers of values.
    """
    several = {name: [v] if isinstance(v, int) else list(v) for name, v in hints.items()}
    counts = {len(values) for values in several.values()} - {1}
    if len(counts) > 1 or 0 in counts:
        raise InputError(
            "hints= gives several sizes to plan for, and names have different numbers of them: "
            f"{', '.join(f'{name!r} {len(values)}' for name, values in several.items())}"
        )
    (count,) = counts or {1}
    return [
        {name: values[i % len(values)] for name, values in several.items()} for i in range(count)
    ]


def check_sizes(option: str, sizes: Mapping[str, int], inputs: Iterable[TensorSpec]) -> None:
    """Refuse what gives sizes to names that no dimension of the inputs has.

    Parameters
    ----------
    option : str
        What the sizes were given by, for the message.
    sizes : mapping of str to int
        Sizes by name.
    inputs : iterable of TensorSpec
        The inputs of a model.

    Raises
    ------
    InputError
        If a name is unknown, or a size is no number from 1 on.
    """
    known = dict.fromkeys(size for spec in inputs for size in spec.shape if isinstance(size, str))
    for name, size in sizes.items():
        if name not in known:
            has = f"they are {', '.join(known)}" if known else "all of them are fixed"
            raise InputError(
                f"{option} names {name!r}, which is no dimension of the model's inputs: {has}"
            )
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"{option} gives {name!r} the size {size!r}; it must be a number >= 1")


class Sizes:
    """The sizes of named dimensions in one call of a model.

    Parameters
    ----------
    bounds : mapping of str to int, optional
        The largest sizes that are allowed.
    multiples : mapping of str to int, optional
        The numbers that must divide sizes.
    """

    def __init__(
        self,
        bounds: Mapping[str, int] | None = None,
        multiples: Mapping[str, int] | None = None,
    ) -> None:
        self._bounds, self._multiples = bounds or {}, multiples or {}
        self._found: dict[str, tuple[int, str]] = {}

    def bind(self, name: str, size: int, where: str) -> None:
        """Take the size of a dimension of the input `where`.

        Raises
        ------
        InputError
            If another input has another size by this name, or the size is out of bounds or no
            multiple of what it must be.
        """
        known, other = self._found.setdefault(name, (size, where))
        if known != size:
            raise InputError(
                f"input {where!r}: {name!r} is {size}, and {known} in input {other!r}; the sizes "
                "of one name must be equal"
            )
        if size < 1:
            raise InputError(f"input {where!r}: {name!r} is {size}; it must be at least 1")
        multiple = self._multiples.get(name, 1)
        if size % multiple:
            raise InputError(
                f"input {where!r}: {name!r} is {size}, and the strides of the network need a "
                f"multiple of {multiple}; resize or pad the image"
            )
        most = self._bounds.get(name, size)
        if size > most:
            raise InputError(
                f"input {where!r}: {name!r} is {size}, and the library was compiled for up to "
                f"{most} (bounds=, --bound)"
            )


@dataclass(frozen=True)
class Fallback:
    """Nodes of a model that ONNX Runtime runs, inside of the library.

    Attributes
    ----------
    nodes : tuple of str
        The names of the nodes, in the order of the model.
    operator : str
        Their operator, with its domain if that is not ONNX's own.
    reason : str
        Why they are not compiled.
    """

    nodes: tuple[str, ...]
    operator: str
    reason: str

    def __str__(self) -> str:
        shown = ", ".join(map(repr, self.nodes[:3])) + (", ..." if len(self.nodes) > 3 else "")
        return f"{len(self.nodes)} {self.operator} ({shown}): {self.reason}"


def unknown_input(name: object, known: Iterable[str], dimensions: Iterable[str] = ()) -> InputError:
    """Return the error for an input called `name`, which the model does not have.

    Parameters
    ----------
    name : object
        The name.
    known : iterable of str
        The inputs.
    dimensions : iterable of str
        Dimensions, where their names would do as well.
    """
    names, sizes = list(known), list(dimensions)
    if not names:
        return InputError(f"unknown input {name!r}: the model has no inputs")
    near = difflib.get_close_matches(str(name), [*names, *sizes], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    also = f", and its dimensions {', '.join(sizes)}" if sizes else ""
    return InputError(
        f"unknown input {name!r}: {hint}the model's inputs are {', '.join(names)}{also}"
    )
