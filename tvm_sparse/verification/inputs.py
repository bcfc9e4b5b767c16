"""Inputs that fit a model, made from its graph.

Floating-point inputs are normal numbers. Integers that select rows of a table are smaller than the
table; lengths of sequences are at most as long as the sequences; booleans, and integers that are
compared or become numbers, are masks of ones and zeros. Other integers are ones, by which anything
can be divided. Images of eight bits have all values. Operands that decide about shapes, such as the
starts of a slice, cannot be made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import EncodeError

from tvm_sparse.specs import TensorSpec

_CARRIERS = (
    *("Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze"),
    *("Tile", "Transpose", "Unsqueeze"),
)
"""Operators whose results hold the values of their first operand; of all operands for Concat."""

_RECURRENT = ("LSTM", "GRU", "RNN")

_MASKED = ("Cast", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Where")
"""Operators that can read a mask."""

_SHAPED = (
    *("CenterCropPad", "Col2Im", "CumSum", "DFT", "Expand", "MaxUnpool", "NonMaxSuppression"),
    *("OneHot", "Pad", "Reshape", "Resize", "STFT", "Slice", "Split", "Squeeze", "Tile", "TopK"),
    *("Trilu", "Unsqueeze", "Upsample"),
)
"""Operators whose operands, but for the first one, decide about shapes or positions."""
_SHAPED_BY_ALL = (
    *("BlackmanWindow", "ConstantOfShape", "EyeLike", "HammingWindow", "HannWindow", "Loop"),
    *("MelWeightMatrix", "Range"),
)

Readers = Mapping[str, Sequence[tuple[onnx.NodeProto, int]]]


class UnknownInput(Exception):
    """No values of an input are known to fit; the text is the reason."""


def example_inputs(
    model: onnx.ModelProto, specs: Sequence[TensorSpec], seed: int = 0
) -> dict[str, np.ndarray]:
    """Return random inputs that fit a model.

    Parameters
    ----------
    model : onnx.ModelProto
        The model, with static shapes of its inputs.
    specs : sequence of TensorSpec
        Names, shapes and dtypes of the inputs.
    seed : int
        Seed of the random numbers.

    Raises
    ------
    UnknownInput
        If an input decides about shapes, so that it has no values that fit.
    """
    rng = np.random.default_rng(seed)
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in _nodes(model.graph):
        for position, name in enumerate(node.input):
            readers[name].append((node, position))
    shapes = _Shapes(model)
    return {spec.name: _example(spec, readers, shapes, rng) for spec in specs}


def _example(
    spec: TensorSpec, readers: Readers, shapes: _Shapes, rng: np.random.Generator
) -> np.ndarray:
    limits, lengths, is_mask = _limits(spec.name, readers, shapes)
    if not spec.dtype.startswith(("int", "uint", "bool")):
        return np.asarray(rng.standard_normal(spec.static_shape).astype(_numpy_dtype(spec.dtype)))
    dtype = np.dtype(spec.dtype)
    if limits:
        return np.asarray(rng.integers(0, max(min(limits), 1), spec.static_shape).astype(dtype))
    if lengths:
        return np.asarray(
            rng.integers(1, max(min(lengths), 1) + 1, spec.static_shape).astype(dtype)
        )
    if dtype.kind in "iu" and dtype.itemsize == 1 and len(spec.shape) > 2:
        info = np.iinfo(dtype)
        return np.asarray(rng.integers(info.min, info.max + 1, spec.static_shape).astype(dtype))
    if not is_mask and dtype.kind != "b":
        return np.ones(spec.static_shape, dtype)
    mask = np.asarray(rng.integers(0, 2, spec.static_shape))
    if mask.ndim:
        mask[..., 0] = 1  # a row that is masked as a whole has no softmax
    return mask.astype(dtype)


def _numpy_dtype(name: str) -> Any:
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        return getattr(ml_dtypes, name)


def _limits(name: str, readers: Readers, shapes: _Shapes) -> tuple[list[int], list[int], bool]:
    """Return the limits of a tensor as indices and as lengths, and whether it can be a mask."""
    indices: list[int] = []
    lengths: list[int] = []
    is_mask, is_divisor = False, False
    source = name
    queue, seen = [name], {name}
    while queue:
        for node, position in readers.get(queue.pop(), ()):
            if node.op_type in _SHAPED_BY_ALL or (node.op_type in _SHAPED and position):
                raise UnknownInput(
                    f"input {source!r} decides about shapes or positions in node {node.name!r} "
                    f"({node.op_type})"
                )
            is_mask = is_mask or node.op_type in _MASKED
            is_divisor = is_divisor or (node.op_type in ("Div", "Mod") and position == 1)
            if node.op_type in _CARRIERS and (position == 0 or node.op_type == "Concat"):
                queue += [out for out in node.output if out not in seen]
                seen.update(node.output)
            elif node.op_type in ("Gather", "GatherElements") and position == 1:
                indices += shapes.sizes(node.input[0], [_attribute(node, "axis", 0)])
            elif node.op_type == "GatherND" and position == 1:
                indices += shapes.sizes(node.input[0], range(_attribute(node, "batch_dims", 0), 8))
            elif node.op_type == "EmbedLayerNormalization" and position < 2:
                indices += shapes.sizes(node.input[2 if position == 0 else 4], [0])
            elif node.op_type in _RECURRENT and position == 4:
                lengths += shapes.sizes(node.input[0], [_attribute(node, "layout", 0)])
            elif node.op_type == "ReverseSequence" and position == 1:
                lengths += shapes.sizes(node.input[0], [_attribute(node, "time_axis", 0)]) or [1]
    return indices, lengths, is_mask and not is_divisor


class _Shapes:
    """The shapes of the tensors of a graph; intermediate ones are inferred when first asked for."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.known = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        for node in _nodes(model.graph):
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        self.known[node.output[0]] = tuple(attribute.t.dims)
        self.known |= _declared(model.graph.input)
        self.is_inferred = False

    def sizes(self, name: str, axes: Sequence[int]) -> list[int]:
        """Return the sizes of a tensor along axes that it has; none if they are unknown."""
        if name not in self.known and not self.is_inferred:
            self.is_inferred = True
            try:
                inferred = onnx.shape_inference.infer_shapes(self.model)
                self.known |= _declared(inferred.graph.value_info)
            except (EncodeError, ValueError, onnx.shape_inference.InferenceError):
                pass  # the model is too large for a message, or outside of the standard
        shape = self.known.get(name, ())
        sizes = [shape[axis] for axis in axes if -len(shape) <= axis < len(shape)]
        return [size for size in sizes if size > 0]


def _declared(values: Sequence[onnx.ValueInfoProto]) -> dict[str, tuple[int, ...]]:
    return {
        value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _nodes(inner)
