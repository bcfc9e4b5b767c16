"""Dense linear layer on the matrix unit AMX: ``y[r, n, :] = act(sum_k w[n, k] x[r, k, :] + ...)``.

`tvm_sparse.schedules.operators.word_linear` has the loops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.schedules.emit import amx
from tvm_sparse.schedules.emit.amx_product import COLUMN_LANES, AmxProduct
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.words import Bfloat16Pairs
from tvm_sparse.schedules.operators.word_linear import WordLinear
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.tilings.amx_linear import AMX_LINEAR_FAMILY, AmxLinearTiling
from tvm_sparse.tilings.layer import Layer

if TYPE_CHECKING:
    import tvm


def amx_linear(
    rows: int,
    lanes: int,
    n: int,
    k: int,
    epilogue: Epilogue,
    cpu: CpuProfile,
    tiling: AmxLinearTiling | None = None,
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a dense linear layer on AMX.

    Parameters
    ----------
    rows, lanes, k : int
        Rows, lanes and channels of the input.
    n, epilogue, cpu, tiling
        As `AmxLinear`.

    Returns
    -------
    PrimFunc
        ``(x [rows, K, lanes], weight [tiles, 16, 32], [bias [N]], [residual [rows, N, lanes]],
        y [rows, N, lanes])``, all float16 but the weight, which is uint16 from
        `tvm_sparse.formats.amx.pack_amx_linear`.
    """
    source = Tensor(1, rows, k, lanes, DType.FLOAT16)
    return kernel(AmxLinear(source, n, epilogue, cpu, tiling))


class AmxLinear(WordLinear):
    """A dense linear layer on AMX.

    Parameters
    ----------
    source : Tensor
        The input, float16, whose lanes are a multiple of 16.
    n : int
        Output channels.
    epilogue : Epilogue
        The bias, residual and activation that follow the product.
    cpu : CpuProfile
        Gives the number of cores.
    tiling : AmxLinearTiling, optional
        The tiling that the weight was packed with; by default, the family's.

    Raises
    ------
    ValueError
        If the family refuses the layer.
    """

    name = "amx_linear"
    preparations = (amx.ask_permission,)
    words = Bfloat16Pairs()

    def __init__(
        self,
        source: Tensor,
        n: int,
        epilogue: Epilogue,
        cpu: CpuProfile,
        tiling: AmxLinearTiling | None = None,
    ) -> None:
        images, rows, k, lanes = source.images, source.rows, source.channels, source.lanes
        super().__init__(source, n, epilogue, cpu)
        self.layer = Layer(Linear(images * rows, lanes, n, k, source.dtype))
        if reason := AMX_LINEAR_FAMILY.refusal(self.layer, cpu):
            raise ValueError(reason)
        self.tiling = tiling or AMX_LINEAR_FAMILY.default(self.layer, cpu)
        row_columns = -(-lanes // COLUMN_LANES)
        self.cut(COLUMN_LANES, row_columns, AMX_LINEAR_FAMILY.pass_rows(self.layer.problem))
        cut = -(-k // 2), self.tiling.inputs // 2, row_columns, self.chunks
        self.product = AmxProduct(n, *cut, amx.BFLOAT16)

    def cycles(self) -> float:
        """Return the compute cycles of all rows, summed over cores."""
        product = AMX_LINEAR_FAMILY.cycles(self.layer, self.tiling, self.cpu)
        return product + self.epilogue.cycles(self.tensor, self.cpu)
