"""Quantized convolution; `int8_layer` and `word_conv2d` have its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.quantization import RoundedBefore
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.int8_layer import Int8Layer, Steps, integers_for
from tvm_sparse.schedules.operators.word_conv2d import WordConv2d
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.tilings.int8 import AnyInt8Conv2dTiling, int8_family
from tvm_sparse.tilings.layer import Layer

if TYPE_CHECKING:
    import tvm


def int8_conv2d(
    problem: Conv2d,
    steps: Steps,
    epilogue: Epilogue,
    cpu: CpuProfile,
    tiling: AnyInt8Conv2dTiling,
    *,
    is_shifted: bool = False,
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a quantized convolution.

    Parameters
    ----------
    problem, steps, epilogue, cpu, tiling, is_shifted
        As `Int8Conv2d`.

    Returns
    -------
    PrimFunc
        ``(x [N * H, C, lanes_in], *weight, distances [words], scales [Co], corrections [Co],
        [shifts [Co]], [run_time_steps [2]], [bias [Co]], [residual [N * Ho, Co, lanes_out]], y [N *
        Ho, Co, lanes_out])``; weight and corrections from `packed_int8` of the window's `matrix`,
        distances, int32, its `offsets`, shifts from `shifts_of`, scales and steps float32, and the
        others of the problem's type; x may consist of words.
    """
    return kernel(Int8Conv2d(problem, steps, epilogue, cpu, tiling, is_shifted=is_shifted))


class Int8Conv2d(Int8Layer, WordConv2d):
    """A quantized convolution, whose image is padded with the zero point.

    Parameters
    ----------
    problem : Conv2d
        The convolution, of one group.
    steps : Quantization or RoundedBefore
        The numbers that the input is rounded to, or that it consists of words already.
    epilogue : Epilogue
        The bias, residual and activation that follow the product.
    cpu : CpuProfile
        Gives the instructions and the number of cores.
    tiling : Int8Conv2dTiling, AmxInt8Conv2dTiling or SparseInt8Conv2dTiling
        The tiling that the weight was packed with.
    density : float
        Share of the weight's words that are not zero; only the costs depend on it.
    is_shifted : bool
        Whether the weights were shifted, so that they fit in bytes.
    reads_image, writes_image : bool
        Whether input and output are images instead of panels.

    Raises
    ------
    ValueError
        If the family of the tiling refuses the layer.
    """

    def __init__(
        self,
        problem: Conv2d,
        steps: Steps,
        epilogue: Epilogue,
        cpu: CpuProfile,
        tiling: AnyInt8Conv2dTiling,
        density: float = 1.0,
        *,
        is_shifted: bool = False,
        reads_image: bool = False,
        writes_image: bool = False,
    ) -> None:
        self.family = int8_family(tiling)
        is_dynamic = isinstance(steps, RoundedBefore)
        self.layer = Layer(
            problem.planned, density, is_quantized=True, word_density=density, is_dynamic=is_dynamic
        )
        self.tiling = tiling
        self.name = self.family.name
        if reason := self.family.refusal(self.layer, cpu):
            raise ValueError(reason)
        window = self.family.window(problem, cpu)
        images = {"reads_image": reads_image, "writes_image": writes_image}
        super().__init__(window, epilogue, cpu, takes_words=is_dynamic, **images)
        self.words = integers_for(steps, tiling, cpu)
        column_lanes = self.column_lanes_of(tiling, cpu)
        self.cut(column_lanes, window.columns, self.family.pass_rows(window))
        self.of_integers(steps, tiling, window.words, is_shifted=is_shifted)

    def cycles(self) -> float:
        """Return the compute cycles of all rows, summed over cores."""
        product = self.family.cycles(self.layer, self.tiling, self.cpu)
        return product + self.epilogue.cycles(self.tensor, self.cpu)
