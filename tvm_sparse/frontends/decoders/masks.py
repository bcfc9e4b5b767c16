"""What an attention mask says, found by computing it.

Exporters write masks in many ways. Whatever they write, for a number of past and new tokens a mask
is an array. Where it hides what a causal attention hides, a session needs no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.decoders.evaluation import computed
from tvm_sparse.frontends.submodel import needed

HIDDEN = -1e4
"""A mask that is added to scores hides a position by this number, or a smaller one."""


def window_of(
    model: onnx.ModelProto,
    folder: Path,
    masks: Sequence[str],
    rows: int,
    past: int,
    is_causal: bool,
) -> int:
    """Return how many tokens a token attends to by its masks; 0 if it attends to all before it.

    Parameters
    ----------
    model : onnx.ModelProto
        A decoder whose inputs have static shapes.
    folder : Path
        The folder that the locations of external weights are relative to.
    masks : sequence of str
        Values, boolean (true is visible) or float (added to scores), whose last two axes are new
        tokens and all tokens.
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
    for mask in masks:
        visible = visible & _visible(mask, _computed(model, folder, mask, past + rows), causal)
    window = int(visible[-1].sum())
    if not np.array_equal(visible, causal & (position > own - window)):
        raise ModelError(
            f"the mask {masks[0]!r} hides other tokens than the later ones and those before a "
            "window; such decoders are not supported"
        )
    return 0 if window == past + rows else window


def _visible(
    mask: str, values: NDArray[np.generic], causal: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return which tokens a mask shows to each new token."""
    values = values.reshape(-1, *values.shape[-2:])
    if len(values) != 1:
        raise ModelError(f"the mask {mask!r} differs from head to head, which is not supported")
    if values.dtype == bool:
        visible = values[0]
    else:
        visible = values[0] == 0
        if not (visible | (values[0] <= HIDDEN)).all():
            raise ModelError(f"the mask {mask!r} adds other numbers to scores than 0 and -10000")
    # A cache in place has room for later tokens.
    return np.broadcast_to(visible[:, : causal.shape[1]], causal.shape)


def _computed(model: onnx.ModelProto, folder: Path, name: str, total: int) -> NDArray[np.generic]:
    """Return a value that depends on masks, positions and shapes, for a sequence without holes."""

    def fed(value: onnx.ValueInfoProto) -> NDArray[np.generic]:
        kind = value.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if "position" in value.name and len(shape) == 2:
            return np.arange(total - shape[1], total)[None].astype(dtype)
        return np.ones(shape, dtype) if "mask" in value.name else np.zeros(shape, dtype)

    (result,) = computed(model, folder, needed(model.graph.node, name), [name], fed)
    return result
