"""Dense convolution on the matrix unit AMX.

A pass gathers the input rows that its output rows see into a window of bfloat16 values, padded with
zeros. A column is 16 pixels of an output row; its pairs are copied from the window, one for each
pair of weights. `tvm_sparse.schedules.operators.amx_layer` has the other loops.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.amx_conv2d import AmxWindow
from tvm_sparse.schedules.emit.amx_product import COLUMN_LANES, Part
from tvm_sparse.schedules.emit.amx_window import WindowMemory
from tvm_sparse.schedules.emit.buffers import argument
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.amx_layer import AmxLayer, side_by_side
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.tilings.amx_conv2d import AMX_CONV2D_FAMILY, AmxConv2dTiling
from tvm_sparse.tilings.layer import Layer

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr


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
        ``(x [N * H, C, lanes_in], weight [tiles, 16, 32], offsets [pairs], [bias [Co]],
        [residual [N * Ho, Co, lanes_out]], y [N * Ho, Co, lanes_out])``, float16 but for the
        weight, which is uint16 from `pack_amx_linear` of the window's `matrix`, and for its
        `offsets`, int32.
    """
    return kernel(AmxConv2d(problem, epilogue, cpu, tiling))


class AmxConv2d(AmxLayer):
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
        super().__init__(
            problem.input,
            problem.rows_seen,
            problem.output,
            epilogue,
            cpu,
            reads_image=reads_image,
            writes_image=writes_image,
        )
        self.problem, self.layer = problem, Layer(problem)
        if reason := AMX_CONV2D_FAMILY.refusal(self.layer, cpu):
            raise ValueError(reason)
        self.tiling = tiling or AMX_CONV2D_FAMILY.default(self.layer, cpu)
        self.window = AmxWindow(problem)
        pass_rows = AMX_CONV2D_FAMILY.pass_rows(self.window, self.tiling)
        self.cut(self.window.pairs, self.tiling.inputs, self.window.columns, pass_rows)

    def declare_tables(self) -> None:
        """Declare the distances of the pairs."""
        self.offsets = argument("offsets", self.window.pairs, dtype="int32")

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate the window, the pairs and the sums."""
        super().allocate(run_rows)
        self.memory = WindowMemory(self.window)
        self.memory.allocate(min(self.pass_rows, self.most_rows))

    def gather(self, image: Expr, row: Expr, rows: Expr) -> None:
        """Gather the input rows that some output rows see."""
        first = T.bind(row * self.problem.stride[0] - self.problem.padding[0])
        self.memory.gather(self.x, image, first, T.bind(self.window.rows(rows)))

    def fill(self, part: Part, image: Expr, row: Expr, rows: Expr) -> None:
        """Copy the pairs of a part of the weight from the window."""
        del image, row
        first = T.bind(T.int64(0) + part.first * self.product.tile_pairs)
        pairs = part.tiles * self.product.tile_pairs
        if part.ends:
            pairs = self.window.pairs - part.first * self.product.tile_pairs
        out_row_pitch = self.problem.stride[0] * self.window.row_pitch
        lanes = COLUMN_LANES // self.joined
        with T.serial(T.int64(0), self.column_rows(rows)) as i:
            column = T.bind(i * self.row_columns)
            bases = [T.bind(at * out_row_pitch) for at in self.rows_of(i, rows)]
            with T.serial(T.int64(0), T.int64(pairs)) as pair:
                offset = T.bind(T.Cast("int64", self.offsets[first + pair]))
                for c in range(self.row_columns):
                    rows_held = [self.memory.pairs(base + offset, c, lanes) for base in bases]
                    self.product.keep(column + c, pair, side_by_side(rows_held))
            self.fill_up(part, column, self.row_columns, pairs)

    def cycles(self) -> float:
        """Return the compute cycles of all rows, summed over cores."""
        product = AMX_CONV2D_FAMILY.cycles(self.layer, self.tiling, self.cpu)
        return product + self.epilogue.cycles(self.tensor, self.cpu)

    def window_bytes(self) -> int:
        """Return the bytes that a run gathers its inputs into, for each of its rows."""
        return self.window.element_bytes * self.problem.stride[0] * self.window.row_pitch

    def key(self) -> str:
        """Return the text that tuning records know the stage by; the tensors are not part of it."""
        return f"{self.name} of {self.problem.key} {self.epilogue.key}"
