"""Sparse or dense: what either kernel of a layer is expected to cost, and which one is worth it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm_sparse.cpu.rates import LAUNCH_CYCLES


@dataclass(frozen=True)
class Choice:
    """Sparse or dense, and why.

    Attributes
    ----------
    sparse : bool
        Whether the sparse kernel is expected to be worth it.
    reason : str
        One sentence for people.
    sparse_cycles, dense_cycles : float
        Expected cycles of both kernels, summed over the cores; infinite where there is no kernel.
    """

    sparse: bool
    reason: str
    sparse_cycles: float
    dense_cycles: float

    @property
    def cycles(self) -> float:
        """Return the expected cycles of the kernel that was chosen."""
        return self.sparse_cycles if self.sparse else self.dense_cycles

    @property
    def is_refused(self) -> bool:
        """Return whether there is no sparse kernel."""
        return self.sparse_cycles == math.inf


def choose(
    density: float, sparse: float, dense: float, word_density: float | None = None
) -> Choice:
    """Return the choice between kernels of `sparse` and `dense` cycles.

    `word_density` is that of the words of a quantized weight, which its sparse kernel skips.
    """
    zeros = f"{1 - density:.0%} zeros"
    if word_density is not None and density < 0.95:
        zeros += f" ({1 - word_density:.0%} of the words of integers)"
    if dense - sparse >= LAUNCH_CYCLES:  # a smaller gain is not worth another kernel
        gain = f"{dense / sparse:.1f}x faster sparse" if sparse else "a sparse kernel has no work"
        return Choice(True, f"{zeros}: {gain}", sparse, dense)
    if dense > sparse:
        return Choice(False, f"{zeros}, but too small a layer to gain from it", sparse, dense)
    return Choice(False, f"{zeros}: {sparse / dense:.1f}x slower sparse", sparse, dense)
