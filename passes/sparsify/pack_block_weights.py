"""PackBlockWeights: block_matmul(x, w) => from_panels(block_rows(to_panels(x), pack(w)))

The panels have one lane. All such layers have a kernel: `ExpandBlocks` made floats of the others.
The cost model chooses the form in which a weight is packed by the weight alone, so that functions
on one, four and sixteen rows can share it. The module attribute ``tvm_sparse.layers`` gets one
entry for each of the layers, as by `SparsifyWeights`.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import tvm
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.bitmaps import BitmapBlocks, can_have_bitmaps, code_bytes
from tvm_sparse.formats.blocks import BlockCodes
from tvm_sparse.formats.groups import GroupedBlocks, scales_type
from tvm_sparse.formats.pairs import PairBlocks, is_pairs
from tvm_sparse.formats.sliding import SlidingBlocks, can_slide
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.operators.block_rows import PackedBlocks
from tvm_sparse.passes.ir.rewriting import Emit, rewrite_layers
from tvm_sparse.passes.ir.shapes import known_shape
from tvm_sparse.passes.sparsify.decisions import decision, with_decisions
from tvm_sparse.passes.sparsify.weights_pass import WeightsPass
from tvm_sparse.sizes.block_linear import BlockLinear, Form
from tvm_sparse.tilings.block_forms import best_form, block_rows_family
from tvm_sparse.tilings.block_rows import SPARSE_BITMAP_FAMILY
from tvm_sparse.tilings.layer import Layer

MOST_DENSITY = 0.65
"""The largest density of a weight for which windows and bitmaps are tried: others need about as
many bytes as all codes."""

MOST_BESIDE_OTHERS = 0.4
"""That density for windows and bitmaps where pairs are possible, which take 3.1 bits a weight and
few instructions, and for windows where bitmaps are. At a density of 0.3, windows take 3.4 bits and
bitmaps 2.5. Packing windows takes most of the time of a layer."""


@tvm.transform.module_pass(opt_level=0, name="PackBlockWeights")
class PackBlockWeights(WeightsPass):
    """Pack the weights of few bits.

    Parameters are those of `WeightsPass`.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with the layers of few bits on panels of one lane."""
        decisions: list[dict[str, Any]] = []

        def pack(call: relax.Call, name: str, emit: Emit) -> relax.Expr | None:
            if not is_call_to(call, operators.BLOCK_MATMUL.name):
                return None
            decided, result = self._packed(call, name, emit)
            decisions.append(decided)
            return result

        rewritten = rewrite_layers(mod, pack)
        return with_decisions(rewritten, decisions)

    def _packed(self, call: relax.Call, name: str, emit: Emit) -> tuple[dict[str, Any], relax.Expr]:
        """Return what was decided for a layer, and its result."""
        x, weight = call.args[0], operators.block_codes_of(call)
        problem = operators.block_linear_of(call, math.prod(known_shape(x)[:-1]))
        problem, packed = best_packed(weight, problem, self.cpu)
        family, layer = block_rows_family(problem.form), Layer(problem, weight.density)
        tiling: Any = self.kernel_for(layer) or family.default(layer, self.cpu)
        panels = emit(operators.to_panels(x, 1))
        product = operators.block_rows(panels, packed, problem, dataclasses.asdict(tiling))
        product = emit(operators.of_layer(product, name))
        cycles, bits = family.cycles(layer, tiling, self.cpu), 8 * packed.nbytes
        zeros, a_weight = 1 - layer.density, bits / weight.codes.size
        seconds = cycles / (self.cpu.cores * self.cpu.memory_system.clock_hz)
        rate = packed.nbytes / seconds / 1e9
        decided = decision(
            name,
            weight.shape,
            layer.density,
            family.name,
            f"{zeros:.0%} zeros: {a_weight:.2f} bits a weight, {rate:.0f} GB/s expected",
            seconds,
            precision=problem.activations,
        )
        return decided, operators.from_panels(product, known_shape(call))


def best_packed(
    weight: BlockCodes, problem: BlockLinear, cpu: CpuProfile
) -> tuple[BlockLinear, PackedBlocks]:
    """Return a layer in its fastest form, and its weight in that form.

    Parameters
    ----------
    weight : BlockCodes
        The weight.
    problem : BlockLinear
        The layer; the form does not depend on its rows.
    cpu : CpuProfile
        The processor.
    """
    kept = _KEPT.get()
    if kept is None:
        return _best_packed(weight, problem, cpu)
    key = weight.digest(), replace(problem, rows=1), cpu.name
    if key not in kept:
        kept[key] = _best_packed(weight, problem, cpu)
    best, packed = kept[key]
    return replace(best, rows=problem.rows), packed


@contextlib.contextmanager
def packing_once() -> Iterator[None]:
    """Keep the packed weights of modules that are compiled inside, which often have the same."""
    before = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(before)


_KEPT: contextvars.ContextVar[dict[Any, tuple[BlockLinear, PackedBlocks]] | None]
_KEPT = contextvars.ContextVar("packed weights", default=None)


def _best_packed(
    weight: BlockCodes, problem: BlockLinear, cpu: CpuProfile
) -> tuple[BlockLinear, PackedBlocks]:
    scales = scales_type(weight.scales, may_round=problem.activations == "int8")
    forms: dict[Form, BlockLinear] = {Form.DENSE: problem}
    packed: dict[Form, PackedBlocks] = {}
    if is_pairs(weight):
        forms[Form.PAIRS] = replace(problem, form=Form.PAIRS)
    most = MOST_DENSITY if len(forms) == 1 else MOST_BESIDE_OTHERS
    if can_have_bitmaps(weight) and weight.density <= most:
        bitmaps = replace(problem, form=Form.BITMAPS, steps=code_bytes(weight))
        if not SPARSE_BITMAP_FAMILY.refusal(Layer(replace(bitmaps, rows=1)), cpu):
            forms[Form.BITMAPS] = bitmaps
    most = MOST_DENSITY if len(forms) == 1 else MOST_BESIDE_OTHERS
    if can_slide(weight) and weight.density <= most:
        windows = SlidingBlocks.pack(weight, scales)
        packed[Form.WINDOWS] = windows
        forms[Form.WINDOWS] = replace(problem, form=Form.WINDOWS, steps=windows.steps)
    best = best_form(forms.values(), cpu)
    if best.form in packed:
        return best, packed[best.form]
    return best, _PACKERS[best.form].pack(weight, scales)


_PACKERS: Mapping[Form, type[GroupedBlocks | PairBlocks | BitmapBlocks]] = {
    Form.DENSE: GroupedBlocks,
    Form.PAIRS: PairBlocks,
    Form.BITMAPS: BitmapBlocks,
}
