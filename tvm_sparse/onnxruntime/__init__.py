"""ONNX Runtime's Python interface, with sessions that run compiled code.

import tvm_sparse.onnxruntime as ort          # was: import onnxruntime as ort
session = ort.InferenceSession("model.onnx")

Everything but `InferenceSession` is ONNX Runtime's own. `take_over` lets libraries that make their
sessions themselves make these.
"""

from typing import Any

from tvm_sparse.onnx_runtime import onnxruntime
from tvm_sparse.onnxruntime.session import InferenceSession
from tvm_sparse.onnxruntime.taking_over import give_back, take_over

__all__ = ["InferenceSession", "give_back", "take_over"]


def __getattr__(name: str) -> Any:
    return getattr(onnxruntime, name)
