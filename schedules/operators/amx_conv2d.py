"""Dense convolution on the matrix unit AMX: `word_conv2d` has the loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.word_window import WordWindow
from tvm_sparse.schedules.emit import amx
from tvm_sparse.schedules.emit.amx_product import COLUMN_LANES, AmxProduct
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.words import Bfloat16Pairs
from tvm_sparse.schedules.operators.word_conv2d import WordConv2d
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.tilings.amx_conv2d import AMX_CONV2D_FAMILY, AmxConv2dTiling
from tvm_sparse.tilings.layer import Layer

if TYPE_CHECKING:
    import tvm


def amx_conv2d(
    problem: Conv2d, epilogue: Epilogue, cpu: CpuProfile, tiling: AmxConv2dTiling | None = None
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a dense convolution on AMX.

    Parameters
    ----------
    problem, epilogue, cpu, tiling
        As `AmxConv2d`.

    Returns
    -------
    PrimFunc
        ``(x [N * H, C, lanes_in], weight [tiles, 16, 32], distances [words], [bias [Co]],
        [residual [N * Ho, Co, lanes_out]], y [N * Ho, Co, lanes_out])``, float16 but for the
        weight, which is uint16 from `pack_amx_linear` of the window's `matrix`, and for its
        `offsets`, int32.
    """
    return kernel(AmxConv2d(problem, epilogue, cpu, tiling))


class AmxConv2d(WordConv2d):
    """A dense convolution on AMX.

    Parameters
    ----------
    problem : Conv2d
        The convolution, float16 and of one group.
    epilogue : Epilogue
        The bias, residual and activation that follow the product.
    cpu : CpuProfile
        Gives the number of cores.
    tiling : AmxConv2dTiling, optional
        The tiling that the weight was packed with; by default, the family's.
    reads_image, writes_image : bool
        Whether input and output are images instead of panels.

    Raises
    ------
    ValueError
        If the family refuses the layer.
    """

    name = "amx_conv2d"
    preparations = (amx.ask_permission,)
    words = Bfloat16Pairs()

    def __init__(
        self,
        problem: Conv2d,
        epilogue: Epilogue,
        cpu: CpuProfile,
        tiling: AmxConv2dTiling | None = None,
        *,
        reads_image: bool = False,
        writes_image: bool = False,
    ) -> None:
        images = {"reads_image": reads_image, "writes_image": writes_image}
        super().__init__(WordWindow(problem), epilogue, cpu, **images)
        self.layer = Layer(self.problem)
        if reason := AMX_CONV2D_FAMILY.refusal(self.layer, cpu):
            raise ValueError(reason)
        self.tiling = tiling or AMX_CONV2D_FAMILY.default(self.layer, cpu)
        columns = self.window.columns
        pass_rows = AMX_CONV2D_FAMILY.pass_rows(self.window, self.tiling)
        self.cut(COLUMN_LANES, columns, pass_rows)
        cut = self.window.words, self.tiling.inputs // 2, columns, self.chunks
        self.product = AmxProduct(problem.out_channels, *cut, amx.BFLOAT16)

    def cycles(self) -> float:
        """Return the compute cycles of all rows, summed over cores."""
        product = AMX_CONV2D_FAMILY.cycles(self.layer, self.tiling, self.cpu)
        return product + self.epilogue.cycles(self.tensor, self.cpu)
