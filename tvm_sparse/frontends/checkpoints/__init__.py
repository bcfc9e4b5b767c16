"""Files of language models that are no ONNX: GGUF, and folders in Hugging Face's layout.

A checkpoint is sizes and named weights. It becomes an ONNX file of `tvm_sparse.decoders`, and from
there goes the way of every ONNX file.
"""

from tvm_sparse.frontends.checkpoints.checkpoint import Checkpoint
from tvm_sparse.frontends.checkpoints.opening import (
    as_onnx,
    checkpoint_files,
    is_checkpoint,
    open_checkpoint,
)

__all__ = ["Checkpoint", "as_onnx", "checkpoint_files", "is_checkpoint", "open_checkpoint"]
