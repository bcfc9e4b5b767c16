"""Images in panels, and convolutions with their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.sizes.conv2d import Conv2d

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Emit = Callable[[relax.Expr], relax.Var]


def image_panels(x: NDArray[np.float32], lanes: int, junk: float = 0) -> NDArray[np.float32]:
    """Return images `(batch, channels, height, width)` as panels with `junk` beside them."""
    batch, channels, height, width = x.shape
    panels = np.full((batch, height, channels, lanes), junk, "float32")
    panels[..., :width] = x.transpose(0, 2, 1, 3)
    return panels.reshape(batch * height, channels, lanes)


def panel_image(panels: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """Return the images of shape `shape` `(batch, channels, height, width)` in panels."""
    batch, channels, height, width = shape
    split = panels.reshape(batch, height, channels, -1)[..., :width]
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3))


def conv2d_reference(x: NDArray[Any], weight: NDArray[Any], problem: Conv2d) -> NDArray[np.float64]:
    """Return ``conv2d(x, weight)`` in double precision, `(batch, out_channels, rows, columns)`."""
    top, left, bottom, right = problem.padding
    padded = np.pad(x.astype("float64"), ((0, 0), (0, 0), (top, bottom), (left, right)))
    rows, columns = problem.out_height, problem.out_width
    (step_y, step_x), (dilation_y, dilation_x) = problem.stride, problem.dilation
    shape = (problem.batch, problem.groups, -1, rows, columns)
    result = np.zeros((problem.batch, problem.out_channels, rows, columns))
    grouped = weight.reshape(problem.groups, -1, *weight.shape[1:])
    for dy, dx in np.ndindex(problem.kernel):
        seen = padded[:, :, dy * dilation_y :: step_y, dx * dilation_x :: step_x]
        seen = seen[:, :, :rows, :columns].reshape(shape)
        result += np.einsum("goc,ngchw->ngohw", grouped[:, :, :, dy, dx], seen).reshape(
            result.shape
        )
    return result


def square_conv2d(
    channels: int, size: int, stride: int, cpu: CpuProfile, kernel: int = 3, groups: int = 1
) -> Conv2d:
    """Return the sizes of a convolution of one square image that keeps its channels."""
    return Conv2d(
        batch=1,
        channels=channels,
        height=size,
        width=size,
        out_channels=channels,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(kernel // 2,) * 4,
        groups=groups,
        lanes_in=cpu.image_lanes(size),
        lanes_out=cpu.image_lanes(size // stride),
    )


def rounded(x: NDArray[Any], dtype: DType) -> NDArray[np.float64]:
    """Return the numbers of `x` as a type holds them, in double precision."""
    return x.astype(dtype).astype("float64")


def assert_near(result: NDArray[Any], expected: NDArray[np.float64], dtype: DType) -> None:
    """Assert that a kernel's `result` is `expected` but for the rounding of its type."""
    digits = 4e-3 if dtype == DType.FLOAT16 else 1e-5
    np.testing.assert_allclose(result, expected, atol=digits * max(1, np.abs(expected).max()))


def conv2d_problems(
    cpu: CpuProfile, depthwise: bool = False, dtype: DType = ACTIVATIONS
) -> SearchStrategy[Conv2d]:
    """Return a hypothesis strategy of small convolutions of any kind, of one group or depthwise."""
    from hypothesis import strategies as st

    @st.composite
    def problems(draw: Callable[[SearchStrategy[int]], int]) -> Conv2d:
        def pair(highest: int, lowest: int = 1) -> tuple[int, int]:
            sizes = st.integers(lowest, highest)
            return draw(sizes), draw(sizes)

        kernel, stride, dilation = pair(4), pair(3), pair(2)
        padding = (*pair(2, 0), *pair(2, 0))
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        height = draw(st.integers(max(1, reach[0] - padding[0] - padding[2]), 12))
        width = draw(st.integers(max(1, reach[1] - padding[1] - padding[3]), 40))
        channels = draw(st.integers(1, 9))
        out_width = (width + padding[1] + padding[3] - reach[1]) // stride[1] + 1
        return Conv2d(
            batch=draw(st.integers(1, 2)),
            channels=channels,
            height=height,
            width=width,
            out_channels=channels if depthwise else draw(st.integers(1, 20)),
            kernel=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=channels if depthwise else 1,
            lanes_in=cpu.image_lanes(width, dtype),
            lanes_out=cpu.image_lanes(out_width, dtype),
            dtype=dtype,
        )

    return problems()
