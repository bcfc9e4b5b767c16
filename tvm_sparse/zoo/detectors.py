"""Object detectors of the shapes of YOLOv5s and YOLOv8n as ONNX files with random pruned weights.

The first convolution and the last one of every detection head stay dense.
Both take ``images`` (batch, 3, image, image) float32, where image is a multiple of 32 and batch
is a dynamic dimension, and give ``output0``, boxes in pixels and scores of 80 classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvm_sparse.zoo.vision_builder import VisionBuilder

CLASSES = 80
STRIDES = (8, 16, 32)

# The widths and heights in pixels of the boxes that each level corrects (yolov5s.yaml).
ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)

BINS = 16
"""The numbers of the distribution by which YOLOv8 tells a box side's distance (Li et al. 2020)."""

_BRANCH = 0.5

Block = Callable[[VisionBuilder, str, str, int, int, bool], str]
"""A stage: (graph, input, name, output channels, bottlenecks, whether they have residuals)."""


@dataclass(frozen=True)
class YoloConfig:
    """The size of a detector.

    Attributes
    ----------
    width : int
        Channels of the first convolution; they double four times.
    blocks : tuple of int
        Bottlenecks of the four stages of the backbone.
    """

    width: int
    blocks: tuple[int, int, int, int]


YOLOV5S = YoloConfig(width=32, blocks=(1, 2, 3, 1))
YOLOV8N = YoloConfig(width=16, blocks=(1, 2, 2, 1))
YOLO_TINY = YoloConfig(width=8, blocks=(1, 1, 1, 1))


def yolov5(path: Path, config: YoloConfig, sparsity: float, *, image: int = 640) -> Path:
    """Write a detector of the shape of YOLOv5 6.1; ``output0`` is (batch, boxes, 85).

    Parameters
    ----------
    path : Path
        ONNX file to write.
    config : YoloConfig
        Depth and width.
    sparsity : float
        Zero fraction of the pruned weights.
    image : int
        Height and width of the input, a multiple of 32.
    """
    graph, width = VisionBuilder(sparsity), config.width
    x = graph.image("images", image)
    x = _conv(graph, x, "model.0", width, 6, 2, padding=2, pruned=False)
    large, middle, small = _backbone(graph, x, config, _c3)
    small = _conv(graph, small, "model.10", 8 * width)
    x = graph.concat([graph.upsample(small, "model.11"), middle], "model.12")
    middle = _conv(graph, _c3(graph, x, "model.13", 8 * width), "model.14", 4 * width)
    x = graph.concat([graph.upsample(middle, "model.15"), large], "model.16")
    large = _c3(graph, x, "model.17", 4 * width)
    x = graph.concat([_conv(graph, large, "model.18", 4 * width, 3, 2), middle], "model.19")
    middle = _c3(graph, x, "model.20", 8 * width)
    x = graph.concat([_conv(graph, middle, "model.21", 8 * width, 3, 2), small], "model.22")
    small = _c3(graph, x, "model.23", 16 * width)
    boxes = [
        _anchored_boxes(graph, x, f"model.24.m.{i}", stride, image // stride, anchors)
        for i, (x, stride, anchors) in enumerate(
            zip((large, middle, small), STRIDES, ANCHORS, strict=True)
        )
    ]
    output = graph.op("Concat", *boxes, at="model.24", axis=1)
    return _save(graph, path, output, image, [3 * _pixels(image), CLASSES + 5])


def yolov8(path: Path, config: YoloConfig, sparsity: float, *, image: int = 640) -> Path:
    """Write a detector of the shape of YOLOv8; ``output0`` is (batch, 84, boxes). See `yolov5`."""
    graph, width = VisionBuilder(sparsity), config.width
    x = _conv(graph, graph.image("images", image), "model.0", width, 3, 2, pruned=False)
    large, middle, small = _backbone(graph, x, config, _c2f)
    x = graph.concat([graph.upsample(small, "model.10"), middle], "model.11")
    middle = _c2f(graph, x, "model.12", 8 * width)
    x = graph.concat([graph.upsample(middle, "model.13"), large], "model.14")
    large = _c2f(graph, x, "model.15", 4 * width)
    x = graph.concat([_conv(graph, large, "model.16", 4 * width, 3, 2), middle], "model.17")
    middle = _c2f(graph, x, "model.18", 8 * width)
    x = graph.concat([_conv(graph, middle, "model.19", 8 * width, 3, 2), small], "model.20")
    small = _c2f(graph, x, "model.21", 16 * width)
    output = _free_boxes(graph, (large, middle, small), "model.22", image)
    return _save(graph, path, output, image, [CLASSES + 4, _pixels(image)])


def _backbone(
    graph: VisionBuilder, x: str, config: YoloConfig, block: Block
) -> tuple[str, str, str]:
    """Return the maps at a stride of 8, 16 and 32."""
    maps = []
    for stage, blocks in enumerate(config.blocks):
        width = config.width << (stage + 1)
        x = _conv(graph, x, f"model.{2 * stage + 1}", width, 3, 2)
        x = block(graph, x, f"model.{2 * stage + 2}", width, blocks, True)
        maps.append(x)
    return maps[1], maps[2], _spatial_pyramid(graph, x, "model.9")


def _conv(
    graph: VisionBuilder,
    x: str,
    at: str,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    padding: int | None = None,
    pruned: bool = True,
    deviation: float = 1.0,
) -> str:
    """Append a convolution and SiLU."""
    y = graph.conv(x, f"{at}.conv", outputs, kernel, stride, padding=padding, pruned=pruned,
                   deviation=deviation)  # fmt: skip
    return graph.silu(y, f"{at}.act")


def _bottleneck(
    graph: VisionBuilder, x: str, at: str, outputs: int, kernel: int, residual: bool
) -> str:
    y = _conv(graph, x, f"{at}.cv1", outputs, kernel)
    y = _conv(graph, y, f"{at}.cv2", outputs, 3, deviation=_BRANCH if residual else 1.0)
    return graph.add(x, y, at) if residual else y


def _c3(
    graph: VisionBuilder, x: str, at: str, outputs: int, blocks: int = 1, residual: bool = False
) -> str:
    """Append YOLOv5's cross stage partial block: bottlenecks beside a 1x1 convolution."""
    y = _conv(graph, x, f"{at}.cv1", outputs // 2)
    for block in range(blocks):
        y = _bottleneck(graph, y, f"{at}.m.{block}", outputs // 2, 1, residual)
    beside = _conv(graph, x, f"{at}.cv2", outputs // 2)
    return _conv(graph, graph.concat([y, beside], at), f"{at}.cv3", outputs)


def _c2f(
    graph: VisionBuilder, x: str, at: str, outputs: int, blocks: int = 1, residual: bool = False
) -> str:
    """Append YOLOv8's cross stage partial block, which keeps what every bottleneck computes."""
    parts = graph.halves(_conv(graph, x, f"{at}.cv1", outputs), at)
    for block in range(blocks):
        parts.append(_bottleneck(graph, parts[-1], f"{at}.m.{block}", outputs // 2, 3, residual))
    return _conv(graph, graph.concat(parts, at), f"{at}.cv2", outputs)


def _spatial_pyramid(graph: VisionBuilder, x: str, at: str) -> str:
    """Append three max pools in a row, all of which are kept (SPPF)."""
    channels = graph.channels(x)
    parts = [_conv(graph, x, f"{at}.cv1", channels // 2)]
    for _ in range(3):
        parts.append(graph.max_pool(parts[-1], f"{at}.m", 5, 1))
    return _conv(graph, graph.concat(parts, at), f"{at}.cv2", channels)


def _anchored_boxes(
    graph: VisionBuilder,
    x: str,
    at: str,
    stride: int,
    size: int,
    anchors: Sequence[tuple[int, int]],
) -> str:
    """Append a head of YOLOv5: boxes relative to grid cells and anchors, (batch, boxes, 85)."""
    numbers = CLASSES + 5
    x = graph.conv(x, at, len(anchors) * numbers, pruned=False)
    shape = graph.dims(x, (0,), (len(anchors), numbers, size, size), at)
    x = graph.op("Reshape", x, shape, at=at)
    y = graph.op("Sigmoid", graph.op("Transpose", x, at=at, perm=[0, 1, 3, 4, 2]), at=at)
    column, row = np.meshgrid(np.arange(size), np.arange(size))
    grid = np.stack([column, row], axis=-1)[None, None] - 0.5
    sides = np.array(anchors).reshape(1, len(anchors), 1, 1, 2)
    two = graph.constant(2.0, at=at)
    centre = graph.op("Mul", graph.slice(y, 0, 2, 4, at), two, at=at)
    centre = graph.op("Add", centre, graph.constant(grid, at=at), at=at)
    centre = graph.op("Mul", centre, graph.constant(float(stride), at=at), at=at)
    extent = graph.op("Mul", graph.slice(y, 2, 4, 4, at), two, at=at)
    extent = graph.op("Mul", graph.op("Pow", extent, two, at=at), graph.constant(sides, at=at),
                      at=at)  # fmt: skip
    y = graph.op("Concat", centre, extent, graph.slice(y, 4, numbers, 4, at), at=at, axis=4)
    return graph.op("Reshape", y, graph.dims(y, (0,), (-1, numbers), at), at=at)


def _free_boxes(graph: VisionBuilder, maps: Sequence[str], at: str, image: int) -> str:
    """Append the head of YOLOv8: distributions over distances to the sides, (batch, 84, boxes)."""
    numbers = 4 * BINS + CLASSES
    first = graph.channels(maps[0])
    levels = []
    for i, x in enumerate(maps):
        parts = []
        for branch, outputs, width in (
            ("cv2", 4 * BINS, max(16, first // 4, 4 * BINS)),
            ("cv3", CLASSES, max(first, CLASSES)),
        ):
            y = _conv(graph, x, f"{at}.{branch}.{i}.0", width, 3)
            y = _conv(graph, y, f"{at}.{branch}.{i}.1", width, 3)
            parts.append(graph.conv(y, f"{at}.{branch}.{i}.2", outputs, pruned=False))
        joined = graph.concat(parts, at)
        shape = graph.dims(joined, (0,), (numbers, -1), at)
        levels.append(graph.op("Reshape", joined, shape, at=at))
    joined = graph.op("Concat", *levels, at=at, axis=2)
    box, scores = graph.split(joined, [4 * BINS, CLASSES], 1, at)
    distances = _expectation(graph, box, f"{at}.dfl")

    sizes = [image // stride for stride in STRIDES]
    cells = [np.stack(np.meshgrid(np.arange(n), np.arange(n))).reshape(2, -1) + 0.5 for n in sizes]
    anchors = graph.constant(np.concatenate(cells, axis=1)[None], at=at)
    strides = graph.constant(np.repeat(STRIDES, np.square(sizes))[None], at=at)
    low = graph.op("Sub", anchors, graph.slice(distances, 0, 2, 1, at), at=at)
    high = graph.op("Add", anchors, graph.slice(distances, 2, 4, 1, at), at=at)
    centre = graph.op("Add", low, high, at=at)
    centre = graph.op("Div", centre, graph.constant(2.0, at=at), at=at)
    extent = graph.op("Sub", high, low, at=at)
    box = graph.op("Concat", centre, extent, at=at, axis=1)
    box = graph.op("Mul", box, strides, at=at)
    return graph.op("Concat", box, graph.op("Sigmoid", scores, at=at), at=at, axis=1)


def _expectation(graph: VisionBuilder, box: str, at: str) -> str:
    """Append softmax over the bins and the mean of the bins' numbers: (batch, 4, boxes)."""
    bins = graph.op("Reshape", box, graph.dims(box, (0,), (4, BINS, -1), at), at=at)
    likely = graph.op("Softmax", graph.op("Transpose", bins, at=at, perm=[0, 2, 1, 3]), at=at,
                      axis=1)  # fmt: skip
    numbers = np.arange(BINS, dtype=np.float32).reshape(1, BINS, 1, 1)
    mean = graph.op(
        "Conv", likely, graph.weight(f"{at}.conv.weight", numbers), at=f"{at}/conv",
        dilations=[1, 1], group=1, kernel_shape=[1, 1], pads=[0] * 4, strides=[1, 1],
    )  # fmt: skip
    return graph.op("Reshape", mean, graph.dims(box, (0,), (4, -1), at), at=at)


def _pixels(image: int) -> int:
    """Return the number of pixels of all three maps."""
    return sum((image // stride) ** 2 for stride in STRIDES)


def _save(graph: VisionBuilder, path: Path, output: str, image: int, shape: list[int]) -> Path:
    graph.save(
        path,
        {"images": ("float32", ["batch", 3, image, image])},
        {"output0": (output, ["batch", *shape])},
    )
    return path
