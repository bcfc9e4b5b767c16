"""TensorIR schedules, one operator family a file."""

from tvm_sparse.schedules.attention import attention
from tvm_sparse.schedules.default import default_schedule
from tvm_sparse.schedules.layer_norm import layer_norm
from tvm_sparse.schedules.linear import linear, pack_linear
from tvm_sparse.schedules.panels import from_panels, to_panels
from tvm_sparse.schedules.sparse_linear import sparse_linear

__all__ = [
    "attention",
    "default_schedule",
    "from_panels",
    "layer_norm",
    "linear",
    "pack_linear",
    "sparse_linear",
    "to_panels",
]
