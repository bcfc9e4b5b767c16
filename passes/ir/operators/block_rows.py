"""Products of a few rows and packed weights of few bits, on panels of one lane."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.bitmaps import BitmapBlocks
from tvm_sparse.formats.groups import GroupedBlocks
from tvm_sparse.formats.pairs import PairBlocks
from tvm_sparse.formats.sliding import SlidingBlocks
from tvm_sparse.passes.ir.operators.epilogue import epilogue_of, tiling_attributes, tiling_for
from tvm_sparse.passes.ir.operators.operator import (
    EPILOGUE_OPERANDS,
    PREFIX,
    Operator,
    tensor_type,
)
from tvm_sparse.passes.ir.shapes import known_shape
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.packed_rows import Frame, packed_rows
from tvm_sparse.sizes.block_linear import BlockLinear, Form
from tvm_sparse.tilings.block_forms import block_rows_family

PackedBlocks: TypeAlias = GroupedBlocks | PairBlocks | SlidingBlocks | BitmapBlocks
"""A packed weight of few bits."""

_ARRAYS = {
    Form.DENSE: ("codes", "scales"),
    Form.PAIRS: ("codes", "scales"),
    Form.WINDOWS: ("codes", "windows", "starts", "scales"),
    Form.BITMAPS: ("masks", "codes", "starts", "scales"),
}
"""The arrays of a packed weight, in the order of a kernel's arguments."""


def block_rows(
    x: relax.Expr, packed: PackedBlocks, problem: BlockLinear, tiling: Mapping[str, Any]
) -> relax.Call:
    """Multiply rows by a packed weight of few bits.

    Parameters
    ----------
    x : relax.Expr
        Panels of one lane, ``[rows, in_channels, 1]``.
    packed : GroupedBlocks, PairBlocks, SlidingBlocks or BitmapBlocks
        The weight.
    problem : BlockLinear
        The sizes, with the form of `packed`.
    tiling : mapping
        The fields of the tiling of the form's family.
    """
    operator, arrays = packed_operands(packed, problem)
    fields = {**dataclasses.asdict(problem), "form": str(problem.form)}
    return operator.call(x, *arrays, problem=fields, **tiling_attributes(tiling))


def packed_operands(
    packed: PackedBlocks, problem: BlockLinear
) -> tuple[Operator, list[relax.Constant]]:
    """Return the operator that multiplies by a packed weight, and its operands behind `x`."""
    operator = _OPERATORS[problem.form]
    if isinstance(packed, GroupedBlocks) and packed.zeros is not None:
        operator = _WITH_ZEROS
    return operator, [relax.const(getattr(packed, name)) for name in operator.operands[1:]]


def _problem_of(call: relax.Call) -> BlockLinear:
    texts = {"activations": str, "form": Form}
    fields: dict[str, Any] = {
        name: texts.get(name, int)(value) for name, value in call.attrs["problem"].items()
    }
    return BlockLinear(**fields)


def _infer(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    rows, _, lanes = known_shape(call.args[0])
    return tensor_type(rows, _problem_of(call).n, lanes)


def _kernel_of(form: Form, **how: Any) -> Callable[[relax.Call, CpuProfile], tvm.tirx.PrimFunc]:
    """Return what makes the kernels of a form."""
    make_of: dict[Form, Callable[..., tvm.tirx.PrimFunc]] = {
        Form.DENSE: schedules.block_row_linear,
        Form.PAIRS: schedules.pair_row_linear,
        Form.WINDOWS: schedules.sliding_row_linear,
        Form.BITMAPS: schedules.bitmap_row_linear,
    }
    # Decoders have dozens of layers of one size.
    make = functools.lru_cache(maxsize=64)(make_of[form])

    def kernel(call: relax.Call, cpu: CpuProfile, frame: Frame = packed_rows) -> tvm.tirx.PrimFunc:
        family = block_rows_family(form)
        scales = call.args[1 + _ARRAYS[form].index("scales")].ty.dtype
        epilogue = epilogue_of(call) if "activation" in call.attrs else Epilogue()
        form_of = _problem_of(call), tiling_for(call, family), epilogue
        return make(*form_of, family.dots(cpu), str(scales), **how, frame=frame)

    return kernel


def _operator(name: str, form: Form, *more: str, **how: Any) -> Operator:
    return Operator(
        PREFIX + name,
        ("x", *_ARRAYS[form], *more),
        EPILOGUE_OPERANDS,
        infer=_infer,
        kernel=_kernel_of(form, **how),
        with_epilogue=True,
    )


_OPERATORS = {form: _operator(block_rows_family(form).name, form) for form in Form}
_WITH_ZEROS = _operator("block_row_linear_with_zeros", Form.DENSE, "zeros", has_zeros=True)
BLOCK_ROWS = (*_OPERATORS.values(), _WITH_ZEROS)
ROW_KERNELS = tuple(operator.name for operator in BLOCK_ROWS)
"""The names in Relax of these products."""
