"""PackBlockWeights: block_matmul(x, w) => from_panels(block_row_linear(to_panels(x), pack(w)))

The panels have one lane. All such layers have a kernel: `ExpandBlocks` made floats of the others.
The module attribute ``tvm_sparse.layers`` gets one entry for each of them, as by `SparsifyWeights`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tvm
from tvm import relax

from tvm_sparse.formats.groups import GroupedBlocks, scales_type
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, rewrite_layers
from tvm_sparse.passes.ir.shapes import known_shape
from tvm_sparse.passes.sparsify.sparsify_weights import LAYERS
from tvm_sparse.passes.sparsify.weights_pass import WeightsPass
from tvm_sparse.tilings.block_row_linear import BLOCK_ROW_LINEAR_FAMILY
from tvm_sparse.tilings.layer import Layer


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
            decision, result = self._packed(call, name, emit)
            decisions.append(decision)
            return result

        rewritten = rewrite_layers(mod, pack)
        return rewritten.with_attr(LAYERS, [*(mod.attrs or {}).get(LAYERS, ()), *decisions])

    def _packed(self, call: relax.Call, name: str, emit: Emit) -> tuple[dict[str, Any], relax.Expr]:
        """Return what was decided for a layer, and its result."""
        x, weight = call.args[0], operators.block_codes_of(call)
        problem = operators.block_linear_of(call, math.prod(known_shape(x)[:-1]))
        layer = Layer(problem, weight.density)
        family = BLOCK_ROW_LINEAR_FAMILY
        tiling: Any = self.kernel_for(layer) or family.default(layer, self.cpu)
        scales = scales_type(weight.scales, may_round=problem.activations == "int8")
        packed = GroupedBlocks.pack(weight, scales)
        panels = emit(operators.to_panels(x, 1))
        product = operators.block_row_linear(panels, packed, problem, dataclasses.asdict(tiling))
        product = emit(operators.of_layer(product, name))
        cycles = family.cycles(layer, tiling, self.cpu)
        decision = {
            "layer": name,
            "shape": list(weight.shape),
            "density": layer.density,
            "kernel": family.name,
            "reason": f"{packed.nbytes * 8 / math.prod(weight.shape):.2f} bits a weight",
            "is_refused": False,
            "precision": problem.activations,
            "seconds": cycles / (self.cpu.cores * self.cpu.memory_system.clock_hz),
        }
        return decision, operators.from_panels(product, known_shape(call))
