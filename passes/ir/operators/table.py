"""The list of all operators that can work on panels, and what follows from it."""

from __future__ import annotations

from tvm import relax

from tvm_sparse.passes.ir.operators.amx_linear import AMX_LINEAR
from tvm_sparse.passes.ir.operators.attention import ATTENTION, ROUNDED_ATTENTION
from tvm_sparse.passes.ir.operators.block_experts import BLOCK_EXPERTS, PACKED_BLOCK_EXPERTS
from tvm_sparse.passes.ir.operators.block_matmul import BLOCK_MATMUL
from tvm_sparse.passes.ir.operators.block_rows import BLOCK_ROWS
from tvm_sparse.passes.ir.operators.cached_attention import CACHED_ATTENTION
from tvm_sparse.passes.ir.operators.conv2d import (
    AMX_CONV2D,
    CONV2D,
    DEPTHWISE_CONV2D,
    FLAT_CONV2D,
    JOINED_CONV2D,
    SPARSE_CONV2D,
)
from tvm_sparse.passes.ir.operators.dynamic_range import DYNAMIC_RANGE
from tvm_sparse.passes.ir.operators.elementwise import CONCAT, ELEMENTWISE, SLICE
from tvm_sparse.passes.ir.operators.expert_linear import EXPERT_LINEAR, SPARSE_EXPERT_LINEAR
from tvm_sparse.passes.ir.operators.int8 import INT8_OPERATORS
from tvm_sparse.passes.ir.operators.int8_rows import INT8_ROW_LINEAR
from tvm_sparse.passes.ir.operators.layer_norm import LAYER_NORM
from tvm_sparse.passes.ir.operators.layouts import (
    FROM_PANELS,
    IMAGE_TO_PANELS,
    PANELS_TO_IMAGE,
    TO_PANELS,
)
from tvm_sparse.passes.ir.operators.linear import LINEAR, SPARSE_LINEAR
from tvm_sparse.passes.ir.operators.operator import Operator
from tvm_sparse.passes.ir.operators.packed_attention import PACKED_ATTENTION, SENTENCE_ATTENTION
from tvm_sparse.passes.ir.operators.pool2d import (
    AVG_POOL2D,
    GLOBAL_AVG_POOL2D,
    GLOBAL_MAX_POOL2D,
    MAX_POOL2D,
)
from tvm_sparse.passes.ir.operators.quantize_to_even import QUANTIZE_TO_EVEN
from tvm_sparse.passes.ir.operators.quantized import QUANTIZED_CONV2D, QUANTIZED_MATMUL
from tvm_sparse.passes.ir.operators.recurrent import RECURRENT
from tvm_sparse.passes.ir.operators.resize2d import BILINEAR2D, DEPTH_TO_SPACE, UPSAMPLE2D
from tvm_sparse.passes.ir.operators.rounded_words import DEQUANTIZE_WORDS, QUANTIZE_WORDS
from tvm_sparse.passes.ir.operators.row_linear import ROW_LINEAR, SPARSE_ROW_LINEAR
from tvm_sparse.passes.ir.operators.strips import FROM_STRIPS, RECUT_STRIPS, TO_STRIPS

RECORDS = (
    *(TO_PANELS, FROM_PANELS, IMAGE_TO_PANELS, PANELS_TO_IMAGE, TO_STRIPS, FROM_STRIPS),
    RECUT_STRIPS,
    *(SPARSE_LINEAR, LINEAR, AMX_LINEAR, SPARSE_ROW_LINEAR, ROW_LINEAR),
    *(SPARSE_CONV2D, JOINED_CONV2D, CONV2D, FLAT_CONV2D, AMX_CONV2D, DEPTHWISE_CONV2D),
    *(*INT8_OPERATORS, INT8_ROW_LINEAR),
    *(BLOCK_MATMUL, *BLOCK_ROWS),
    *(LAYER_NORM, ATTENTION, ROUNDED_ATTENTION, CACHED_ATTENTION),
    *(PACKED_ATTENTION, SENTENCE_ATTENTION),
    *(MAX_POOL2D, AVG_POOL2D, GLOBAL_AVG_POOL2D, GLOBAL_MAX_POOL2D),
    *(UPSAMPLE2D, BILINEAR2D, DEPTH_TO_SPACE),
    RECURRENT,
    *(EXPERT_LINEAR, SPARSE_EXPERT_LINEAR, BLOCK_EXPERTS, *PACKED_BLOCK_EXPERTS),
    *(QUANTIZED_MATMUL, QUANTIZED_CONV2D, QUANTIZE_TO_EVEN),
    *(DYNAMIC_RANGE, QUANTIZE_WORDS, DEQUANTIZE_WORDS),
    *(CONCAT, SLICE, *ELEMENTWISE.values()),
)
OPERATORS: dict[str, Operator] = {operator.name: operator for operator in RECORDS}
"""Every record, by the name of its operator in Relax."""

WITH_EPILOGUE = tuple(name for name, operator in OPERATORS.items() if operator.with_epilogue)
"""The operators whose attributes `bias`, `residual` and `activation` describe an epilogue."""

for _operator in OPERATORS.values():
    _operator.register()


def operator_of(call: relax.Expr) -> Operator | None:
    """Return the record of the operator that an expression calls, or None if there is none."""
    name = getattr(call.op, "name", None) if isinstance(call, relax.Call) else None
    return OPERATORS.get(name) if name is not None else None
