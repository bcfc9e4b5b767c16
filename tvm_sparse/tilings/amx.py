"""What the kernel families of the matrix unit AMX share: their rates, and what they refuse."""

from __future__ import annotations

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.amx import TILE_INPUTS, tiles_of

TILE_LANES = 16
"""Lanes of a tile of a panel."""

DEFAULT_INPUTS = 256
"""Input channels of a block: 16 KB of weights, which stay in L1 while all lanes meet them. Measured
on a Xeon of the Sapphire Rapids class: 1.5 TF/s a core with 256, 1.4 with 192, 1.3 with 384, 1.2
with 768."""

TILE_CYCLES = 36.0
"""Cycles in which a core loads and multiplies a tile of a weight and a tile of a panel, of which 16
are the unit's own. Measured on a Xeon of the Sapphire Rapids class, with the next constants: within
15 % of ten layers of BERT and ResNet-50, whose weights come from L3."""

RESULT_CYCLES = 20.0
"""Cycles in which a core stores a tile of sums, and loads it for the next block of inputs."""

CONVERSION_CYCLES = 6.0
"""Cycles in which a core makes a vector of 16 pairs of bfloat16 values from float16 panels."""


def refusal_of_panels(cpu: CpuProfile, dtype: DType, *lanes: int) -> str:
    """Return why the unit takes no panels of a type and some lanes; an empty string if it does."""
    if not cpu.has_matrix_unit:
        return "the target has no AMX bf16 unit"
    if dtype != DType.FLOAT16:
        return f"the matrix unit takes float16 panels, not {dtype}"
    odd = [count for count in lanes if count % TILE_LANES]
    return f"{odd[0]} lanes are not a multiple of {TILE_LANES}" if odd else ""


def equal_blocks(inputs: int) -> int:
    """Return the inputs of blocks of about `DEFAULT_INPUTS`, of whole tiles, as equal as can be."""
    tiles = tiles_of(inputs, TILE_INPUTS)
    blocks = max(1, round(tiles * TILE_INPUTS / DEFAULT_INPUTS))
    return -(-tiles // blocks) * TILE_INPUTS
