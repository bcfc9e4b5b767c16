"""What a library says about its model: inputs and outputs, and the nodes that fall back.

The check of a caller's arrays is here too.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tvm_sparse.errors import InputError, border

FallbackOption = Literal["onnxruntime", "off"]
"""What becomes of nodes that are not compiled: ONNX Runtime runs them, or they are an error."""

RUN_SUBMODEL = "tvm_sparse.onnxruntime.run"
"""The name of the function that compiled code calls for a part that ONNX Runtime runs."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model.

    Attributes
    ----------
    name : str
        The name in the model.
    shape : tuple of int
        The dimensions. A dimension of an output is -1 if it is known only at run time.
    dtype : str
        The name of the element type in NumPy.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"

    def check(self, value: object) -> np.ndarray:
        """Return `value` as an array of exactly this shape and dtype.

        Raises
        ------
        InputError
            If `value` has another shape or dtype; nothing is converted silently.
        """
        # Importing numpy.ma takes as long as an inference; who has such an array has imported it.
        masked = sys.modules.get("numpy.ma")
        if masked is not None and isinstance(value, masked.MaskedArray):
            raise InputError(
                f"input {self.name!r}: a masked array, whose mask would be lost; give its .filled()"
            )
        with border(InputError, f"input {self.name!r}: not an array", f"expected {self}"):
            array = np.asarray(value)
        if array.dtype != np.dtype(self.dtype):
            raise InputError(
                f"input {self.name!r}: expected dtype {self.dtype}, got {array.dtype}; "
                f"convert it with .astype({self.dtype!r})"
            )
        if array.shape != self.shape:
            raise InputError(
                f"input {self.name!r}: expected shape {self.shape}, got {array.shape}; "
                "the shapes are fixed when the model is compiled (shapes=, --shape)"
            )
        return array


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


def unknown_input(name: object, known: Iterable[str]) -> InputError:
    """Return the error for an input called `name`, which the model does not have."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"unknown input {name!r}: {hint}the model's inputs are {', '.join(names)}")
