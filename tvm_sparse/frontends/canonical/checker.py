"""Whether a model that ONNX Runtime refuses is a valid one."""

from __future__ import annotations

import onnx

from tvm_sparse.frontends.canonical.light import with_light_weights


def fault(model: onnx.ModelProto) -> str:
    """Return what ``onnx.checker`` finds wrong with a model, types and shapes included, or ""."""

    def check(light: onnx.ModelProto) -> onnx.ModelProto:
        # The checker wants a shape of each output; what nodes compute has one without being told.
        outputs = [v for v in light.graph.output if v.type.tensor_type.HasField("shape")]
        del light.graph.output[:]
        light.graph.output.extend(outputs)
        onnx.checker.check_model(light, full_check=True)
        return light

    try:
        with_light_weights(model, check)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[0] if lines else type(error).__name__
    return ""
