"""What the kernel families of the matrix unit AMX share: their rates, and what they refuse."""

from __future__ import annotations

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.amx import TILE_CHANNELS, TILE_INPUTS, tiles_of

TILE_LANES = 16
"""Lanes of a tile of a panel."""

NARROW_LANES = 8
"""Lanes of which two rows make a tile."""

DEFAULT_INPUTS = 256
"""Input channels of a block: 16 KB of weights, which stay in L1 while all lanes meet them. Measured
on a Xeon of the Sapphire Rapids class: 1.5 TF/s a core with 256, 1.4 with 192, 1.3 with 384, 1.2
with 768."""

TILE_CYCLES = 33.0
"""Cycles in which a core multiplies a tile of a weight by a tile of a panel, of which 16 are the
unit's own; the rest are loads. Measured, as all constants here, on a Xeon of the Sapphire Rapids
class, with weights that come from L3.

This constant and the next one are 1.1 times what was measured, as the cycles of sparse linear
layers are 1.2 times: 12 layers of 768 x 768 at 128 tokens take 1.29 ms on the unit, and 1.14 and
1.47 ms with 85 and 80 % zeros."""

WEIGHT_CYCLES = 66.0
"""Further cycles for each tile of a weight and each pass over it, to bring it from L3. With 2, 4, 8
and 16 tiles of panels, a tile of a weight took 119, 177, 293 and 533 cycles."""

MEMORY_CYCLES = 130.0
"""Further cycles for each tile of a weight, to bring it from memory in the first pass. In
BERT-base, whose weights take 170 MB, a layer of 768 x 768 at 128 tokens takes 87 us on two cores,
and the sparse layer of 80 % zeros takes 66 us."""

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
    odd = [count for count in lanes if count % TILE_LANES and count != NARROW_LANES]
    return f"{odd[0]} lanes are not a multiple of {TILE_LANES}" if odd else ""


def joined_rows(lanes: int) -> int:
    """Return how many rows of some lanes share a tile."""
    return max(1, TILE_LANES // lanes)


def equal_blocks(inputs: int) -> int:
    """Return the inputs of blocks of about `DEFAULT_INPUTS`, of whole tiles, as equal as can be."""
    tiles = tiles_of(inputs, TILE_INPUTS)
    blocks = max(1, round(tiles * TILE_INPUTS / DEFAULT_INPUTS))
    return -(-tiles // blocks) * TILE_INPUTS


def product_cycles(
    n: int,
    k: int,
    inputs: int,
    columns: float,
    passes: float,
    memory_cycles: float = MEMORY_CYCLES,
) -> float:
    """Return the cycles of the product of a weight ``[N, K]`` and columns of pairs.

    Parameters
    ----------
    n, k : int
        Output and input channels.
    inputs : int
        Input channels of a block.
    columns : float
        Tiles of panels, of 16 lanes, that meet every tile of the weight.
    passes : float
        Passes over the weight that bring it from L3.
    memory_cycles : float
        Further cycles for each tile of the weight, to bring it from memory.
    """
    down, across = tiles_of(n, TILE_CHANNELS), tiles_of(k, TILE_INPUTS)
    parts = -(-across * TILE_INPUTS // inputs)
    brought = passes * WEIGHT_CYCLES + memory_cycles
    tiles = down * across * (columns * TILE_CYCLES + brought)
    return tiles + down * columns * parts * RESULT_CYCLES
