"""A decoder at fixed numbers of new and past tokens, with what depends on them computed.

Exporters compute shapes and masks from the lengths of inputs. At fixed lengths, ONNX Runtime
computes what it can before anything runs, and what is left are the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.onnx_file import tensor_array
from tvm_sparse.frontends.onnx_importer import Refused, simplified
from tvm_sparse.sizes.decoder import ROWS

PASTS = tuple((1 << power) - ROWS[-1] * (power < 14) for power in range(14, 4, -1))
"""The past tokens at which decoders are looked at; the first number that a decoder takes counts.
Those with tables of a fixed size, such as GPT-Neo's masks, take no more than the tables hold. A
larger window of a mask would not be seen, so sessions hold no more."""


class TooLong(ModelError):
    """A decoder does not take as many past tokens."""


def pasts_of(model: onnx.ModelProto) -> list[tuple[int, int]]:
    """Return pairs of numbers of past tokens at which a decoder may be looked at.

    Whatever else than attention depends on the past shows in a difference of the two.

    Raises
    ------
    ModelError
        If its caches have room for fewer tokens than a call has.
    """
    room = room_of(model)
    if not room:
        return [(past, past * 3 // 4) for past in PASTS]
    if room < ROWS[-1] + 2:
        raise ModelError(f"its caches have room for {room} tokens, and {ROWS[-1] + 2} are needed")
    return [(room - ROWS[-1], room - ROWS[-1] - 1)]


def room_of(model: onnx.ModelProto) -> int:
    """Return the tokens that the caches of a decoder have room for, 0 if the file does not say."""
    shapes = [value.type.tensor_type.shape.dim for value in model.graph.input]
    return min((dims[2].dim_value for dims in shapes if len(dims) == 4), default=0)


def at_lengths(
    model: onnx.ModelProto, folder: Path, scratch: Path, rows: int, past: int
) -> onnx.ModelProto:
    """Return a simplified decoder, whose large weights lie in it or in a file in `scratch`.

    Parameters
    ----------
    model : onnx.ModelProto
        The decoder, which stays as it is.
    folder, scratch : Path
        The folder of the model's external weights, and that of the result's.
    rows, past : int
        New tokens and past ones.

    Raises
    ------
    ModelError
        If an input has another shape than those of decoders; `TooLong` if ONNX Runtime refuses the
        model.
    """
    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    in_place = {
        node.input[0]
        for node in model.graph.node
        if node.op_type == "TensorScatter" and node.domain == ""
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for value in bound.graph.input:
        dims = value.type.tensor_type.shape.dim
        rank, is_float = len(dims), value.type.tensor_type.elem_type not in _INTEGERS
        if rank == 4 and is_float and dims[1].dim_value and dims[3].dim_value:
            # A cache in place has room for the new tokens.
            extent = dims[2].dim_value or past + (rows if value.name in in_place else 0)
            shapes[value.name] = (1, dims[1].dim_value, extent, dims[3].dim_value)
        elif rank == 2:
            shapes[value.name] = (1, past + rows if "mask" in value.name else rows)
        elif rank == 1:
            shapes[value.name] = (dims[0].dim_value or 1,)
        else:
            raise ModelError(f"the input {value.name!r} is none that decoders have")
    for value in bound.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            dim.dim_value = size
    # What the file says of other lengths would contradict.
    del bound.graph.value_info[:]
    for value in bound.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    try:
        simple = simplified(bound, folder, scratch)
    except Refused as error:
        raise TooLong(f"ONNX Runtime refuses the decoder: {error}") from error
    for value, given in zip(simple.graph.output, model.graph.output, strict=True):
        value.CopyFrom(given)
    return simple


def check_independent(
    first: onnx.ModelProto, second: onnx.ModelProto, folders: tuple[Path, Path]
) -> None:
    """Check that two rewritten decoders, looked at with other numbers of past tokens, are equal.

    Parameters
    ----------
    first, second : onnx.ModelProto
        The decoders.
    folders : tuple of Path
        The folders that the locations of their external weights are relative to.

    Raises
    ------
    ModelError
        If they are not.
    """
    nodes = [
        [(n.op_type, *n.input, *n.output, *map(str, n.attribute)) for n in model.graph.node]
        for model in (first, second)
    ]
    weights = [
        {tensor.name: tensor for tensor in model.graph.initializer} for model in (first, second)
    ]
    names = sorted(
        name
        for name in weights[0].keys() | weights[1].keys()
        if not _are_equal([held.get(name) for held in weights], folders)
    )
    if names or nodes[0] != nodes[1]:
        what = f" ({names[0]!r} does)" if names else ""
        raise ModelError(
            f"something else than attention depends on the number of past tokens{what}; a decoder "
            "must take positions from its input 'position_ids'"
        )


def _are_equal(tensors: Sequence[onnx.TensorProto | None], folders: tuple[Path, Path]) -> bool:
    """Return whether two weights are; those that were computed lie anywhere in their files."""
    first, second = tensors
    if first is None or second is None:
        return False
    if first.SerializeToString() == second.SerializeToString():
        return True
    return (first.dims, first.data_type) == (second.dims, second.data_type) and np.array_equal(
        tensor_array(first, folders[0]), tensor_array(second, folders[1])
    )


_INTEGERS = (TensorProto.INT32, TensorProto.INT64)
