"""Libraries that make sessions of ONNX Runtime themselves make ours."""

from __future__ import annotations

from tvm_sparse.onnx_runtime import onnxruntime
from tvm_sparse.onnxruntime.session import InferenceSession, Original


def take_over() -> None:
    """Let ``onnxruntime.InferenceSession`` be ours in this process.

    Call it before libraries are imported that take the class out of the package, such as optimum.
    """
    onnxruntime.InferenceSession = InferenceSession


def give_back() -> None:
    """Let ``onnxruntime.InferenceSession`` be its own again; sessions that exist remain."""
    onnxruntime.InferenceSession = Original
