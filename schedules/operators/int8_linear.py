"""Quantized linear layer; `int8_layer` and `word_linear` have its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.quantization import RoundedBefore
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.int8_layer import Int8Layer, Steps, integers_for
from tvm_sparse.schedules.operators.word_linear import WordLinear
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.tilings.int8 import AnyInt8LinearTiling, int8_family
from tvm_sparse.tilings.layer import Layer

if TYPE_CHECKING:
    import tvm


def int8_linear(
    source: Tensor,
    n: int,
    steps: Steps,
    epilogue: Epilogue,
    cpu: CpuProfile,
    tiling: AnyInt8LinearTiling,
    *,
    is_shifted: bool = False,
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a quantized linear layer.

    Parameters
    ----------
    source, n, steps, epilogue, cpu, tiling, is_shifted
        As `Int8Linear`.

    Returns
    -------
    PrimFunc
        ``(x [rows, K, lanes], *weight, scales [N], corrections [N], [shifts [N]], [run_time_steps
        [2]], [bias [N]], [residual [rows, N, lanes]], y [rows, N, lanes])``; weight and corrections
        from `packed_int8`, shifts from `shifts_of`, scales and steps float32, and the others of the
        source's type, or of the type of `steps` if x consists of words.
    """
    return kernel(Int8Linear(source, n, steps, epilogue, cpu, tiling, is_shifted=is_shifted))


class Int8Linear(Int8Layer, WordLinear):
    """A quantized linear layer.

    Parameters
    ----------
    source : Tensor
        The input, float32 or float16, or words.
    n : int
        Output channels.
    steps : Quantization or RoundedBefore
        The numbers that the input is rounded to, or that it consists of words already.
    epilogue : Epilogue
        The bias, residual and activation that follow the product.
    cpu : CpuProfile
        Gives the instructions and the number of cores.
    tiling : Int8LinearTiling, AmxInt8LinearTiling or SparseInt8LinearTiling
        The tiling that the weight was packed with.
    density : float
        Share of the weight's words that are not zero; only the costs depend on it.
    is_shifted : bool
        Whether the weights were shifted, so that they fit in bytes.

    Raises
    ------
    ValueError
        If the family of the tiling refuses the layer.
    """

    def __init__(
        self,
        source: Tensor,
        n: int,
        steps: Steps,
        epilogue: Epilogue,
        cpu: CpuProfile,
        tiling: AnyInt8LinearTiling,
        density: float = 1.0,
        *,
        is_shifted: bool = False,
    ) -> None:
        images, rows, k, lanes = source.images, source.rows, source.channels, source.lanes
        is_dynamic, dtype = isinstance(steps, RoundedBefore), source.dtype
        if isinstance(steps, RoundedBefore):
            k, dtype = steps.channels, steps.dtype
        super().__init__(source, n, epilogue, cpu, dtype)
        problem = Linear(images * rows, lanes, n, k, dtype)
        self.layer = Layer(
            problem, density, is_quantized=True, word_density=density, is_dynamic=is_dynamic
        )
        self.tiling = tiling
        self.family = int8_family(tiling)
        self.name = self.family.name
        if reason := self.family.refusal(self.layer, cpu):
            raise ValueError(reason)
        self.words = integers_for(steps, tiling, cpu)
        column_lanes = self.column_lanes_of(tiling, cpu)
        self.cut(column_lanes, -(-lanes // column_lanes), self.family.pass_rows(problem, cpu))
        words = -(-source.channels // self.words.per_word)
        self.of_integers(steps, tiling, words, is_shifted=is_shifted)

    def cycles(self) -> float:
        """Return the compute cycles of all rows, summed over cores."""
        product = self.family.cycles(self.layer, self.tiling, self.cpu)
        return product + self.epilogue.cycles(self.tensor, self.cpu)
