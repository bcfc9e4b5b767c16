"""Parts of a model in a form that ONNX Runtime's optimizers take.

Where shapes are known, the optimizers look into branches that are never taken for these shapes, and
may find the types in them inconsistent. They do not where shapes are open.
"""

from __future__ import annotations

import onnx

from tvm_sparse.frontends.canonical.subgraphs import subgraphs
from tvm_sparse.onnx_runtime import exact_options, onnxruntime


def optimizable(part: onnx.ModelProto) -> onnx.ModelProto:
    """Return a part whose inputs have open dimensions if only then ONNX Runtime optimizes it.

    Parameters
    ----------
    part : onnx.ModelProto
        A model of at most 2 GB, with its weights.
    """
    if not any(True for node in part.graph.node for _ in subgraphs(node)) or _is_optimized(part):
        return part
    opened = onnx.ModelProto()
    opened.CopyFrom(part)
    for value in opened.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    return opened if _is_optimized(opened) else part


def _is_optimized(part: onnx.ModelProto) -> bool:
    options = exact_options()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(
            part.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    # ONNX Runtime's errors share no base class below Exception.
    except Exception:
        return False
    return True
