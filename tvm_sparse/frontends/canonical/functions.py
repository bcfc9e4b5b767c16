"""Functions of a model are written out where they are called."""

from __future__ import annotations

import onnx
import onnx.inliner

from tvm_sparse.frontends.canonical.light import with_light_weights


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model without functions of its own."""
    if not model.functions:
        return model
    return with_light_weights(model, onnx.inliner.inline_local_functions)
