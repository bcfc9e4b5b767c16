"""Dense linear layer on the matrix unit AMX: ``y[r, n, :] = act(sum_k w[n, k] x[r, k, :] + ...)``.

The loops::

    for pass over the rows of a thread:     # as many rows as hold about 128 lanes
        for group of output channels, part of the input channels:
            pairs = the rows in bfloat16, two channels side by side
            sums += weight * pairs
            y = sums, in the last part after bias, residual and activation

`tvm_sparse.schedules.emit.amx_product` has the inner loops. Panels are float16; products of
bfloat16 values are summed in float32.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.columns.tiles import Tiles
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.amx import TILE_INPUTS
from tvm_sparse.schedules.emit import amx
from tvm_sparse.schedules.emit.amx_product import COLUMN_LANES, AmxProduct, Part, Sums
from tvm_sparse.schedules.emit.bfloat16_pairs import PAIRS, pairs_of
from tvm_sparse.schedules.emit.buffers import argument, converted, opaque, vector
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.panel_memory import Panels
from tvm_sparse.schedules.operators.layer import LayerStage
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.sizes.tensor import RowMap, Tensor
from tvm_sparse.tilings.amx_linear import AMX_LINEAR_FAMILY, AmxLinearTiling
from tvm_sparse.tilings.layer import Layer

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr

PASS_LANES = 128
"""Lanes that meet a part of the weight while it is in L1; measured on a Xeon of the Sapphire Rapids
class: 1.5 TF/s a core with 128, 1.2 with 64, 1.6 with 256."""

PASSES_PER_CORE = 4
"""Passes of a core from which on threads share rows even if some get one pass less."""

CHUNK_CHANNELS = 32
"""Fewest output channels of a chunk."""

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


class AmxLinear(LayerStage):
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
        self.row_columns = lanes // COLUMN_LANES
        self.pass_rows = max(1, min(rows, PASS_LANES // lanes))
        self.tiles = Tiles(self.pass_rows, self.pass_rows)
        self.row_block = rows
        passes = -(-rows // self.pass_rows)
        if images * passes % cpu.cores == 0 or images * passes > PASSES_PER_CORE * cpu.cores:
            self.row_block = -(-passes // cpu.cores) * self.pass_rows
        else:
            self.chunks = min(cpu.cores, -(-n // CHUNK_CHANNELS))
        self.product = AmxProduct(n, k, self.tiling.inputs, self.row_columns, self.chunks)

    def declare_weight(self) -> None:
        """Declare the packed weight and the bias."""
        self.product.declare_weight()
        has_bias, n = self.epilogue.bias, self.tensor.channels
        self.bias = argument("bias", n, dtype=self.tensor.dtype) if has_bias else None

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate the pairs of the rows of a pass, and their sums."""
        super().allocate(run_rows)
        self.product.allocate(min(self.pass_rows, self.most_rows))

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        amx.configure()
        passes = -(-self.most_rows // self.pass_rows)
        with T.serial(T.int64(0), T.int64(passes)) as i:
            row = T.bind(first + i * self.pass_rows)
            rows = opaque(T.min(end - row, T.int64(self.pass_rows)))
            with T.If(rows > 0), T.Then():
                self.product.compute(
                    rows,
                    chunk if self.chunks > 1 else None,
                    fill=lambda part: self._convert(part, image, row, rows),
                    store=lambda sums: self._store(sums, y, image, row),
                )
        amx.release()

    def cycles(self) -> float:
        """Return the compute cycles of all rows, summed over cores."""
        product = AMX_LINEAR_FAMILY.cycles(self.layer, self.tiling, self.cpu)
        return product + self.epilogue.cycles(self.tensor, self.cpu)

    def weight_bytes(self) -> int:
        """Return the bytes of the weight."""
        return self.product.weight_bytes

    def key(self) -> str:
        """Return the text that tuning records know the stage by; the tensors are not part of it."""
        return f"{self.name} channels={self.source.channels} {self.epilogue.key}"

    def _convert(self, part: Part, image: Expr, row: Expr, rows: Expr) -> None:
        """Store the pairs of some input channels of rows, and zeros behind the last channel."""
        most = part.tiles * TILE_INPUTS
        first = T.bind(T.int64(0) + part.first * TILE_INPUTS)
        inputs = self.source.channels - (part.first * TILE_INPUTS) if part.ends else most
        with T.serial(T.int64(0), rows) as i:
            source = self.x.tile(image, row + i)
            column = T.bind(i * self.row_columns)
            with T.serial(T.int64(0), T.int64(inputs // 2)) as pair:
                for lane, lanes in self._pieces():
                    at = vector(T.int64(lane), lanes)
                    even, odd = (source[0, first + (pair * 2 + e), at] for e in (0, 1))
                    self._keep(column, lane, pair, pairs_of(even, odd))
            if inputs % 2:
                for lane, lanes in self._pieces():
                    last = source[0, first + (inputs - 1), vector(T.int64(lane), lanes)]
                    zeros = T.Broadcast(T.float16(0), lanes)
                    self._keep(column, lane, T.int64(inputs // 2), pairs_of(last, zeros))
            with T.serial(T.int64(-(-inputs // 2)), T.int64(most // 2)) as pair:
                for lane in range(0, self.source.lanes, PAIRS):
                    self._keep(column, lane, pair, [T.Broadcast(T.uint32(0), PAIRS)])

    def _pieces(self) -> list[tuple[int, int]]:
        """Return the first lane and the lanes of every piece of a row that is converted."""
        lanes = self.source.lanes
        starts = range(0, lanes, CONVERTED_LANES)
        return [(lane, min(CONVERTED_LANES, lanes - lane)) for lane in starts]

    def _keep(self, column: Expr, lane: int, pair: Expr, vectors: list[Expr]) -> None:
        for i, value in enumerate(vectors):
            self.product.keep(column + (lane // COLUMN_LANES + i), pair, value)

    def _store(self, sums: Sums, y: Panels, image: Expr, row: Expr) -> None:
        """Store sums as they are after the epilogue, whose activation is computed in float16."""
        count = len(sums.columns) if self.row_columns % len(sums.columns) == 0 else 1
        lanes = count * COLUMN_LANES
        pieces = []
        for i in range(0, len(sums.columns), count):
            at = T.bind(row + sums.columns[i] // self.row_columns)
            lane = T.bind(sums.columns[i] % self.row_columns * COLUMN_LANES)
            residual = self.residual_tile(image, at, 1)
            pieces.append((i, y.tile(image, at), vector(lane, lanes), residual))
        with T.serial(T.int64(0), sums.channels) as c:
            channel = sums.channel + c
            for i, out, place, residual in pieces:
                value = sums.vector(c, i, count)
                if self.bias is not None:
                    bias = converted(self.bias[channel], DType.FLOAT32)
                    value = value + T.Broadcast(bias, lanes)
                if residual is not None:
                    value = value + converted(residual[0, channel, place], DType.FLOAT32)
                value = self.epilogue.activate(T.bind(converted(value, self.tensor.dtype)))
                out.store(value, 0, channel, place)
