"""What an attention mask says, found by computing it.

Exporters write masks in many ways. Whatever they write, for a number of past and new tokens a mask
is an array. Where it hides what a causal attention hides, a session needs no mask; nor does it
where the mask adds positions times the slope of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.decoders.evaluation import computed
from tvm_sparse.frontends.nodes import needed

HIDDEN = -1e4
"""A mask that is added to scores hides a position by this number, or a smaller one."""


@dataclass(frozen=True)
class Mask:
    """What the masks of an attention say.

    Attributes
    ----------
    window : int
        How many tokens a token attends to; 0 if it attends to all before it.
    slopes : tuple of float
        For each head what is added to its scores from position to position (ALiBi), if anything is.
        What else is added to all scores of a token changes nothing.
    """

    window: int = 0
    slopes: tuple[float, ...] = ()


def mask_of(
    model: onnx.ModelProto,
    folder: Path,
    masks: Mapping[str, float],
    rows: int,
    past: int,
    is_causal: bool,
) -> Mask:
    """Return what masks say.

    Parameters
    ----------
    model : onnx.ModelProto
        A decoder whose inputs have static shapes.
    folder : Path
        The folder that the locations of external weights are relative to.
    masks : mapping of str to float
        Values whose last two axes are new tokens and all tokens, and their factors. Floats are
        multiplied by the factor and added to scores. True is visible, or hidden with a negative
        factor.
    rows, past : int
        The new tokens and the past ones.
    is_causal : bool
        Whether the attention hides later tokens by itself.

    Raises
    ------
    ModelError
        If the masks do anything else.
    """
    own, position = np.arange(past, past + rows)[:, None], np.arange(past + rows)
    causal = position <= own
    visible = causal if is_causal else np.ones_like(causal)
    slopes = np.zeros(1)
    for mask, factor in masks.items():
        values = _computed(model, folder, mask, past + rows)
        values = values.reshape(-1, *values.shape[-2:])
        if values.dtype == bool and len(values) != 1:
            raise ModelError(f"the mask {mask!r} differs from head to head, which is not supported")
        # A cache in place has room for later tokens.
        values = values[..., : past + rows]
        shown = values[0] if values.dtype != bool or factor > 0 else ~values[0]
        if values.dtype != bool:
            found = np.array([_slope(head[-1].astype(float)) for head in values])
            slopes = slopes + factor * found
            shown = _shown(mask, values.astype(float), found, own, position)
        visible = visible & np.broadcast_to(shown, causal.shape)
    window = int(visible[-1].sum())
    if not np.array_equal(visible, causal & (position > own - window)):
        raise ModelError(
            f"the mask {next(iter(masks))!r} hides other tokens than the later ones and those "
            "before a window; such decoders are not supported"
        )
    return Mask(
        0 if window == past + rows else window, tuple(slopes.tolist()) if slopes.any() else ()
    )


def _slope(row: NDArray[np.floating]) -> float:
    """Return by what a mask grows from position to position, for the last token.

    Where it is 0, at the first position or the last one, the difference to the next one is not
    rounded, so that it does not depend on the number of past tokens.
    """
    if len(row) < 2 or row[-1] == row[-2]:
        return 0.0
    return float(row[1] if row[0] == 0 and row[1] > HIDDEN else row[-1] - row[-2])


def _shown(
    mask: str,
    values: NDArray[np.floating],
    slopes: NDArray[np.floating],
    own: NDArray[np.int_],
    position: NDArray[np.int_],
) -> NDArray[np.bool_]:
    """Return which tokens a mask shows to each new token.

    Raises
    ------
    ModelError
        If it adds anything else than a line to the scores of visible tokens.
    """
    values = np.broadcast_to(values, (len(values), len(own), len(position)))
    start = np.take_along_axis(values, np.broadcast_to(own, (len(values), len(own), 1)), 2)
    line = slopes[:, None, None] * (position - own)
    with np.errstate(invalid="ignore"):
        rest = values - start - line
    # Positions times slopes are rounded to float32.
    visible = np.abs(rest) <= 1e-6 * (np.abs(values) + np.abs(line)) + 1e-3 * np.abs(
        slopes[:, None, None]
    )
    if not (visible | (rest <= HIDDEN)).all():
        raise ModelError(
            f"the mask {mask!r} adds other numbers to scores than 0, -10000 and slopes times "
            "positions"
        )
    if not (visible == visible[:1]).all():
        raise ModelError(f"the mask {mask!r} differs from head to head, which is not supported")
    shown: NDArray[np.bool_] = visible[0]
    return shown


def _computed(model: onnx.ModelProto, folder: Path, name: str, total: int) -> NDArray[np.generic]:
    """Return a value that depends on masks, positions and shapes, for a sequence without holes."""

    def fed(value: onnx.ValueInfoProto) -> NDArray[np.generic]:
        kind = value.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if "position" in value.name and len(shape) == 2:
            return np.arange(total - shape[1], total)[None].astype(dtype)
        return np.ones(shape, dtype) if "mask" in value.name else np.zeros(shape, dtype)

    (result,) = computed(model, folder, needed(model.graph.node, [name]), [name], fed)
    return result
