"""Panels of words: integers that an inference rounds activations to, see `dynamic_range`.

======================== ===============================================================
`quantize_words(p, s)`   panels of activations to panels of words, of all integers of the steps
`dequantize_words(w, s)` its inverse, but for the rounding
======================== ===============================================================
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.words import WordForm
from tvm_sparse.passes.ir.operators.layouts import panels_of
from tvm_sparse.passes.ir.operators.operator import PREFIX, Operator, dtype_of, tensor_type
from tvm_sparse.passes.ir.shapes import known_extents
from tvm_sparse.schedules.stage import Stage


def quantize_words(
    panels: relax.Expr, steps: relax.Expr, form: WordForm, *, covers: bool
) -> relax.Call:
    """Round panels.

    Parameters
    ----------
    panels : relax.Expr
        ``[rows, channels, lanes]``, float32 or float16.
    steps : relax.Expr
        ``(2,)``, as from `dynamic_range`.
    form : WordForm
        What words look like.
    covers : bool
        Whether the steps reach from the least value of the panels to the largest one.
    """
    return QUANTIZE_WORDS.call(panels, steps, form=dataclasses.asdict(form), covers=covers)


def dequantize_words(
    words: relax.Expr, steps: relax.Expr, form: WordForm, channels: int, dtype: DType
) -> relax.Call:
    """Return panels ``[rows, channels, lanes]`` of the numbers that words stand for."""
    fields = {"form": dataclasses.asdict(form), "channels": channels, "dtype": str(dtype)}
    return DEQUANTIZE_WORDS.call(words, steps, **fields)


def _form_of(call: relax.Call) -> WordForm:
    form = call.attrs["form"]
    return WordForm(int(form["per_word"]), bool(form["is_signed"]))


def _infer_words(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    rows, channels, lanes = known_extents(call.args[0])
    return tensor_type(rows, _form_of(call).words(channels), lanes, dtype=DType.WORDS)


def _infer_panels(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    rows, _, lanes = known_extents(call.args[0])
    return tensor_type(rows, int(call.attrs["channels"]), lanes, dtype=DType(call.attrs["dtype"]))


def _quantize(call: relax.Call, cpu: CpuProfile) -> Any:
    source = panels_of(QUANTIZE_WORDS.operand(call, "x"), 1)
    return schedules.quantize_words(source, _form_of(call), bool(call.attrs["covers"]), cpu)


def _dequantize(call: relax.Call, images: int, cpu: CpuProfile) -> Stage:
    source = panels_of(DEQUANTIZE_WORDS.operand(call, "x"), images)
    channels = int(call.attrs["channels"])
    return schedules.DequantizeWords(source, channels, _form_of(call), dtype_of(call), cpu)


QUANTIZE_WORDS = Operator(
    PREFIX + "quantize_words",
    ("x", "steps"),
    infer=_infer_words,
    kernel=_quantize,
    sizes=lambda call: known_extents(call.args[0])[:1],
    takes_sizes=True,
)
DEQUANTIZE_WORDS = Operator(
    PREFIX + "dequantize_words",
    ("x", "steps"),
    infer=_infer_panels,
    stage=_dequantize,
    kernel=lambda call, cpu: schedules.kernel(_dequantize(call, 1, cpu)),  # of one lane, too
    sizes=lambda call: known_extents(call.args[0])[:1],
    takes_sizes=True,
)
