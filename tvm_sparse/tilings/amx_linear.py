"""Dense linear layers on the matrix unit AMX: how their channels are cut, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.amx import TILE_INPUTS, tiles_of
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.amx import (
    CONVERSION_CYCLES,
    TILE_LANES,
    equal_blocks,
    product_cycles,
    refusal_of_panels,
)
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.layer import Layer

PASS_LANES = 128
"""Lanes that meet a part of the weight while it is in L1; measured on a Xeon of the Sapphire Rapids
class: 1.5 TF/s a core with 128, 1.2 with 64, 1.6 with 256, which gains nothing in networks."""


@dataclass(frozen=True)
class AmxLinearTiling:
    """Blocks of a dense linear layer on AMX.

    Attributes
    ----------
    inputs : int
        Input channels that a block of output channels meets at a time, a multiple of 32.
    """

    inputs: int


class AmxLinearFamily(Family[Linear, AmxLinearTiling]):
    """Dense linear layers of float16 panels in bfloat16, summed in float32."""

    name = "amx_linear"
    sizes, tiling = Linear, AmxLinearTiling

    def refusal_of_sizes(self, problem: Linear, cpu: CpuProfile) -> str:
        """Return why the unit cannot compute a layer; an empty string if it can."""
        return refusal_of_panels(cpu, problem.dtype, problem.lanes)

    def cuts_evenly(self, problem: Linear, tiling: AmxLinearTiling) -> bool:
        """Return whether the blocks consist of whole tiles."""
        del problem
        return tiling.inputs % TILE_INPUTS == 0

    def default(self, layer: Layer[Linear], cpu: CpuProfile) -> AmxLinearTiling:
        """Return blocks of about `DEFAULT_INPUTS` input channels, as equal as can be."""
        del cpu
        return AmxLinearTiling(equal_blocks(layer.problem.k))

    def tilings(self, layer: Layer[Linear], cpu: CpuProfile) -> Iterator[AmxLinearTiling]:
        """Yield the default and blocks from 128 to 512 input channels."""
        yield self.default(layer, cpu)
        most = tiles_of(layer.problem.k, TILE_INPUTS) * TILE_INPUTS
        for inputs in (128, 192, 256, 320, 384, 512):
            yield AmxLinearTiling(min(inputs, most))

    def cycles(self, layer: Layer[Linear], tiling: AmxLinearTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores."""
        del cpu
        problem = layer.problem
        columns = problem.rows * problem.lanes / TILE_LANES
        passes = -(-problem.rows // self.pass_rows(problem))
        vectors = columns * tiles_of(problem.k, TILE_INPUTS) * TILE_INPUTS / 2
        product = product_cycles(problem.n, problem.k, tiling.inputs, columns, passes)
        return product + vectors * CONVERSION_CYCLES

    def pass_rows(self, problem: Linear) -> int:
        """Return the rows that are computed together."""
        return max(1, PASS_LANES // problem.lanes)

    def register_tile(self, tiling: AmxLinearTiling) -> tuple[object, ...]:
        """Return the input channels of a block."""
        return (tiling.inputs,)


AMX_LINEAR_FAMILY = AmxLinearFamily()
