"""Dense linear layers on the matrix unit AMX: how their channels are cut, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.amx import TILE_CHANNELS, TILE_INPUTS, tiles_of
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.layer import Layer

TILE_LANES = 16
"""Lanes of a tile of a panel."""

DEFAULT_INPUTS = 256
"""Input channels of a block: 16 KB of weights, which stay in L1 while all lanes meet them. Measured
on a Xeon of the Sapphire Rapids class: 1.5 TF/s a core with 256, 1.4 with 192, 1.3 with 384, 1.2
with 768."""

TILE_CYCLES = 38.0
"""Cycles in which a core loads and multiplies a tile of a weight and a tile of a panel, of which 16
are the unit's own."""

CONVERSION_CYCLES = 6.0
"""Cycles in which a core makes a vector of 16 pairs of bfloat16 values from float16 panels."""


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
        if not cpu.has_matrix_unit:
            return "the target has no AMX bf16 unit"
        if problem.dtype != DType.FLOAT16:
            return f"the matrix unit takes float16 panels, not {problem.dtype}"
        if problem.lanes % TILE_LANES:
            return f"{problem.lanes} lanes are not a multiple of {TILE_LANES}"
        return ""

    def cuts_evenly(self, problem: Linear, tiling: AmxLinearTiling) -> bool:
        """Return whether the blocks consist of whole tiles."""
        del problem
        return tiling.inputs % TILE_INPUTS == 0

    def default(self, layer: Layer[Linear], cpu: CpuProfile) -> AmxLinearTiling:
        """Return blocks of about `DEFAULT_INPUTS` input channels, as equal as can be."""
        del cpu
        tiles = tiles_of(layer.problem.k, TILE_INPUTS)
        blocks = max(1, round(tiles * TILE_INPUTS / DEFAULT_INPUTS))
        return AmxLinearTiling(-(-tiles // blocks) * TILE_INPUTS)

    def tilings(self, layer: Layer[Linear], cpu: CpuProfile) -> Iterator[AmxLinearTiling]:
        """Yield the default and blocks from 128 to 512 input channels."""
        yield self.default(layer, cpu)
        most = tiles_of(layer.problem.k, TILE_INPUTS) * TILE_INPUTS
        for inputs in (128, 192, 256, 320, 384, 512):
            yield AmxLinearTiling(min(inputs, most))

    def cycles(self, layer: Layer[Linear], tiling: AmxLinearTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores."""
        del tiling, cpu
        problem = layer.problem
        columns = problem.rows * problem.lanes / TILE_LANES
        inputs = tiles_of(problem.k, TILE_INPUTS)
        products = columns * inputs * tiles_of(problem.n, TILE_CHANNELS)
        vectors = columns * inputs * TILE_INPUTS / 2
        return products * TILE_CYCLES + vectors * CONVERSION_CYCLES

    def register_tile(self, tiling: AmxLinearTiling) -> tuple[object, ...]:
        """Return the input channels of a block."""
        return (tiling.inputs,)


AMX_LINEAR_FAMILY = AmxLinearFamily()
