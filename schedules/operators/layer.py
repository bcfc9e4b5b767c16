"""The bases of linear layers and convolutions: stages with a weight and an epilogue."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.sizes.conv2d import Conv2d, Window
from tvm_sparse.sizes.tensor import RowMap, Tensor

if TYPE_CHECKING:
    from tvm.ir import Expr


class LayerStage(Stage):
    """A layer whose input ``x`` meets a weight, and whose products meet an epilogue.

    Parameters
    ----------
    source : Tensor
        The input.
    seen : RowMap
        The rows of the input that an output row sees.
    result : Tensor
        The output, and the residual if there is one.
    epilogue : Epilogue
        The bias, residual and activation that follow the product.
    cpu : CpuProfile
        Gives the length and the number of vectors.
    reads_image, writes_image : bool
        Whether input and output are images ``[images, channels, rows, lanes]`` instead of panels.
    """

    def __init__(
        self,
        source: Tensor,
        seen: RowMap,
        result: Tensor,
        epilogue: Epilogue,
        cpu: CpuProfile,
        *,
        reads_image: bool = False,
        writes_image: bool = False,
    ) -> None:
        self.source, self.tensor = source, result
        self.epilogue, self.cpu = epilogue, cpu
        self.panels = {"x": (source, seen)}
        if epilogue.residual:
            self.panels["residual"] = (result, RowMap())
        self.reads_images = ("x",) if reads_image else ()
        self.writes_images = writes_image

    def declare(self, panels: Callable[[str], Panels]) -> None:
        """Declare input, weight, bias and residual."""
        self.x = panels("x")
        self.declare_weight()
        self.residual = panels("residual") if self.epilogue.residual else None

    @abstractmethod
    def declare_weight(self) -> None:
        """Declare the weight and the bias."""

    def residual_tile(self, image: Expr, row: Expr, count: int) -> Tile | None:
        """Return `count` rows of the residual from `row` on, or None if there is no residual."""
        return self.residual.tile(image, row, count) if self.residual else None


class ConvStage(LayerStage):
    """A convolution, which gathers the rows that it sees into a window.

    Subclasses set `window`.

    Parameters
    ----------
    problem : Conv2d
        The convolution.
    epilogue, cpu, reads_image, writes_image
        As `LayerStage`.

    Attributes
    ----------
    problem : Conv2d
        The convolution that tilings and costs are for: every extent is the number of its hint.
    """

    window: Window
    holds_runs = True

    def __init__(
        self,
        problem: Conv2d,
        epilogue: Epilogue,
        cpu: CpuProfile,
        *,
        reads_image: bool,
        writes_image: bool,
    ) -> None:
        self.problem = problem.planned
        super().__init__(
            problem.input,
            problem.rows_seen,
            problem.output,
            epilogue,
            cpu,
            reads_image=reads_image,
            writes_image=writes_image,
        )

    def rows_seen(self, first: Expr, end: Expr) -> tuple[Expr, Expr, int]:
        """Return the first input row that rows ``[first, end)`` see, their number, and the most."""
        source = T.bind(first * self.problem.stride[0] - self.problem.padding[0])
        return source, self.window.rows(end - first), self.window.rows(self.most_rows)
