"""Dense linear layer on the matrix unit AMX: ``y[r, n, :] = act(sum_k w[n, k] x[r, k, :] + ...)``.

Its columns are 16 lanes of a row; `tvm_sparse.schedules.operators.amx_layer` has the loops.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.amx import TILE_INPUTS
from tvm_sparse.schedules.emit.amx_product import COLUMN_LANES, Part
from tvm_sparse.schedules.emit.bfloat16_pairs import pairs_of
from tvm_sparse.schedules.emit.buffers import filled, vector
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.panel_memory import Tile
from tvm_sparse.schedules.operators.amx_layer import AmxLayer, side_by_side
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.sizes.tensor import RowMap, Tensor
from tvm_sparse.tilings.amx_linear import AMX_LINEAR_FAMILY, AmxLinearTiling
from tvm_sparse.tilings.layer import Layer

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr

CONVERTED_LANES = 32
"""Lanes of a row that are converted together: a vector of float16 values."""


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


class AmxLinear(AmxLayer):
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

    def __init__(
        self,
        source: Tensor,
        n: int,
        epilogue: Epilogue,
        cpu: CpuProfile,
        tiling: AmxLinearTiling | None = None,
    ) -> None:
        images, rows, k, lanes = source.images, source.rows, source.channels, source.lanes
        super().__init__(source, RowMap(), replace(source, channels=n), epilogue, cpu)
        self.layer = Layer(Linear(images * rows, lanes, n, k, source.dtype))
        if reason := AMX_LINEAR_FAMILY.refusal(self.layer, cpu):
            raise ValueError(reason)
        self.tiling = tiling or AMX_LINEAR_FAMILY.default(self.layer, cpu)
        pairs = -(-k // 2)
        pass_rows = AMX_LINEAR_FAMILY.pass_rows(self.layer.problem)
        self.cut(pairs, self.tiling.inputs, -(-lanes // COLUMN_LANES), pass_rows)

    def cycles(self) -> float:
        """Return the compute cycles of all rows, summed over cores."""
        product = AMX_LINEAR_FAMILY.cycles(self.layer, self.tiling, self.cpu)
        return product + self.epilogue.cycles(self.tensor, self.cpu)

    def key(self) -> str:
        """Return the text that tuning records know the stage by; the tensors are not part of it."""
        return f"{self.name} channels={self.source.channels} {self.epilogue.key}"

    def fill(self, part: Part, image: Expr, row: Expr, rows: Expr) -> None:
        """Store the pairs of a part of the input channels of rows."""
        first = T.bind(T.int64(0) + part.first * TILE_INPUTS)
        inputs = part.tiles * TILE_INPUTS
        if part.ends:
            inputs = self.source.channels - part.first * TILE_INPUTS
        with T.serial(T.int64(0), self.column_rows(rows)) as i:
            sources = [self.x.tile(image, row + at) for at in self.rows_of(i, rows)]
            column = T.bind(i * self.row_columns)

            def read(channel: Expr, lane: int, lanes: int, of: list[Tile] = sources) -> Expr:
                at = vector(T.int64(lane), lanes // len(of))
                return side_by_side([source[0, channel, at] for source in of])

            with T.serial(T.int64(0), T.int64(inputs // 2)) as pair:
                for lane, lanes in self._pieces():
                    even, odd = (read(first + (pair * 2 + e), lane, lanes) for e in (0, 1))
                    self._keep(column, lane, pair, pairs_of(even, odd))
            if inputs % 2:
                for lane, lanes in self._pieces():
                    last = read(first + (inputs - 1), lane, lanes)
                    zeros = filled(0, lanes, self.source.dtype)
                    self._keep(column, lane, T.int64(inputs // 2), pairs_of(last, zeros))
            self.fill_up(part, column, self.row_columns, -(-inputs // 2))

    def _pieces(self) -> list[tuple[int, int]]:
        """Return the first lane and the lanes of every piece of a row that is converted."""
        lanes = self.source.lanes * self.joined
        starts = range(0, lanes, CONVERTED_LANES)
        return [(lane, min(CONVERTED_LANES, lanes - lane)) for lane in starts]

    def _keep(self, column: Expr, lane: int, pair: Expr, vectors: list[Expr]) -> None:
        for i, value in enumerate(vectors):
            self.product.keep(column + (lane // COLUMN_LANES + i), pair, value)
