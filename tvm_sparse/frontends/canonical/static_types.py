"""Element types and static shapes of values, as ONNX's shape inference finds them."""

from __future__ import annotations

import onnx

from tvm_sparse.frontends.canonical.known_values import Shape
from tvm_sparse.frontends.canonical.light import with_light_weights


def static_types(model: onnx.ModelProto) -> dict[str, tuple[int, Shape | None]]:
    """Return element types and static shapes of the values of the main graph.

    A shape that is not static is None. Nothing is known where shape inference gives up.
    """
    found: dict[str, tuple[int, Shape | None]] = {}

    def infer(light: onnx.ModelProto) -> onnx.ModelProto:
        graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
        for value in (*graph.input, *graph.value_info, *graph.output):
            tensor = value.type.tensor_type
            dims = tensor.shape.dim
            is_static = tensor.HasField("shape") and all(d.HasField("dim_value") for d in dims)
            shape = tuple(d.dim_value for d in dims) if is_static else None
            found[value.name] = tensor.elem_type, shape
        return light

    try:
        with_light_weights(model, infer)
    except RuntimeError:
        return {}
    for tensor in model.graph.initializer:
        found[tensor.name] = tensor.data_type, tuple(tensor.dims)
    return found
