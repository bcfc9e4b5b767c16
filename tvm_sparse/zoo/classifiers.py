"""Image classifiers: ResNet, MobileNet and EfficientNet as ONNX files with random pruned weights.

A stack of convolutions stands for the layers in which large images spend their time.

As is done in practice, the first convolution and the classifier stay dense, and of the networks
with depthwise convolutions only the pointwise ones are pruned.
Classifiers take ``input`` (batch, 3, image, image) float32 and give ``output`` (batch, classes);
the batch is a dynamic dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_sparse.zoo.onnx_builder import Dim
from tvm_sparse.zoo.vision_builder import VisionBuilder

# The standard deviation of a residual branch; that of the other operand of the sum is about 1.
_BRANCH = 0.5


@dataclass(frozen=True)
class ResNetConfig:
    """The number of bottleneck blocks of each stage, and the first width (He et al. 2016)."""

    blocks: tuple[int, ...]
    width: int = 64


@dataclass(frozen=True)
class Stage:
    """A stage of inverted residual blocks (Sandler et al. 2018, table 2)."""

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int = 3


@dataclass(frozen=True)
class InvertedConfig:
    """A network of inverted residual blocks: MobileNetV2, or EfficientNet with `squeeze`."""

    stem: int
    stages: tuple[Stage, ...]
    head: int
    squeeze: bool = False


RESNET50 = ResNetConfig(blocks=(3, 4, 6, 3))
RESNET_TINY = ResNetConfig(blocks=(1, 2), width=16)

# Output channels and stride of each depthwise separable block (Howard et al. 2017, table 1).
MOBILENET_V1 = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5,
    (1024, 2), (1024, 1),
)  # fmt: skip

MOBILENET_V2 = InvertedConfig(
    stem=32,
    stages=(
        Stage(1, 16, 1, 1), Stage(6, 24, 2, 2), Stage(6, 32, 3, 2), Stage(6, 64, 4, 2),
        Stage(6, 96, 3, 1), Stage(6, 160, 3, 2), Stage(6, 320, 1, 1),
    ),
    head=1280,
)  # fmt: skip
MOBILENET_TINY = InvertedConfig(stem=16, stages=(Stage(1, 16, 1, 1), Stage(4, 24, 2, 2)), head=64)

# Tan & Le 2019, table 1.
EFFICIENTNET_B0 = InvertedConfig(
    stem=32,
    stages=(
        Stage(1, 16, 1, 1), Stage(6, 24, 2, 2), Stage(6, 40, 2, 2, 5), Stage(6, 80, 3, 2),
        Stage(6, 112, 3, 1, 5), Stage(6, 192, 4, 2, 5), Stage(6, 320, 1, 1),
    ),
    head=1280,
    squeeze=True,
)  # fmt: skip
EFFICIENTNET_TINY = InvertedConfig(
    stem=16, stages=(Stage(1, 16, 1, 1), Stage(4, 24, 2, 2, 5)), head=64, squeeze=True
)


def resnet(
    path: Path, config: ResNetConfig, sparsity: float, *, image: int = 224, classes: int = 1000
) -> Path:
    """Write torchvision's ResNet "v1.5", which strides in the 3x3 convolutions.

    Parameters
    ----------
    path : Path
        ONNX file to write.
    config : ResNetConfig
        Depth and width.
    sparsity : float
        Zero fraction of the weights of every convolution but the first.
    image, classes : int
        Height and width of the input, size of the output.
    """
    graph = VisionBuilder(sparsity)
    x = graph.conv(graph.image("input", image), "conv1", config.width, 7, 2, pruned=False)
    x = graph.max_pool(graph.relu(x, "relu"), "maxpool", 3, 2)
    for stage, blocks in enumerate(config.blocks):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            at = f"layer{stage + 1}.{block}"
            x = _bottleneck(graph, x, at, config.width << stage, stride)
    return _save(graph, path, graph.classifier(x, "fc", classes), image, classes)


def _bottleneck(graph: VisionBuilder, x: str, at: str, width: int, stride: int) -> str:
    y = graph.relu(graph.conv(x, f"{at}.conv1", width), f"{at}.relu")
    y = graph.relu(graph.conv(y, f"{at}.conv2", width, 3, stride), f"{at}.relu")
    y = graph.conv(y, f"{at}.conv3", 4 * width, deviation=_BRANCH)
    if graph.channels(x) != 4 * width:
        x = graph.conv(x, f"{at}.downsample.0", 4 * width, 1, stride)
    return graph.relu(graph.add(y, x, at), f"{at}.relu")


def mobilenet_v1(
    path: Path,
    sparsity: float,
    *,
    blocks: Sequence[tuple[int, int]] = MOBILENET_V1,
    image: int = 224,
    classes: int = 1000,
) -> Path:
    """Write MobileNetV1; `blocks` are output channels and strides. For the rest see `resnet`."""
    graph = VisionBuilder(sparsity)
    x = graph.relu(graph.conv(graph.image("input", image), "stem", 32, 3, 2, pruned=False), "stem")
    for index, (outputs, stride) in enumerate(blocks):
        at = f"blocks.{index}"
        x = graph.relu(_depthwise(graph, x, f"{at}.depthwise", 3, stride), at)
        x = graph.relu(graph.conv(x, f"{at}.pointwise", outputs), at)
    return _save(graph, path, graph.classifier(x, "classifier", classes), image, classes)


def inverted_residuals(
    path: Path, config: InvertedConfig, sparsity: float, *, image: int = 224, classes: int = 1000
) -> Path:
    """Write MobileNetV2 (ReLU6) or EfficientNet (SiLU, squeeze and excitation). See `resnet`."""
    graph = VisionBuilder(sparsity)
    activate = graph.silu if config.squeeze else graph.relu6
    x = graph.conv(graph.image("input", image), "features.0", config.stem, 3, 2, pruned=False)
    x = activate(x, "features.0")
    for index, stage in enumerate(config.stages, 1):
        for block in range(stage.blocks):
            at = f"features.{index}.{block}"
            x = _inverted_residual(graph, x, at, stage, 1 if block else stage.stride,
                                   config.squeeze)  # fmt: skip
    at = f"features.{len(config.stages) + 1}"
    x = activate(graph.conv(x, at, config.head), at)
    return _save(graph, path, graph.classifier(x, "classifier", classes), image, classes)


def conv_stack(
    path: Path, sparsity: float, *, layers: int = 3, channels: int = 32, image: int = 320
) -> Path:
    """Write 3x3 convolutions with ReLU; ``input`` and output are (batch, channels, image, image).

    Parameters
    ----------
    path : Path
        ONNX file to write.
    sparsity : float
        Zero fraction of the weights.
    layers, channels, image : int
        Number of convolutions, channels of each, height and width.
    """
    graph = VisionBuilder(sparsity)
    x = graph.image("input", image, channels)
    for layer in range(layers):
        x = graph.relu(graph.conv(x, f"layers.{layer}", channels, 3), f"layers.{layer}")
    shape: list[Dim] = ["batch", channels, image, image]
    graph.save(path, {"input": ("float32", shape)}, {"output": (x, shape)})
    return path


def _inverted_residual(
    graph: VisionBuilder, x: str, at: str, stage: Stage, stride: int, squeeze: bool
) -> str:
    """Expand, convolve depthwise, squeeze and excite, project; add if the shape is the same."""
    activate = graph.silu if squeeze else graph.relu6
    inputs, y = graph.channels(x), x
    if stage.expansion != 1:
        y = activate(graph.conv(y, f"{at}.expand", stage.expansion * inputs), at)
    y = activate(_depthwise(graph, y, f"{at}.depthwise", stage.kernel, stride), at)
    if squeeze:
        y = _squeeze_and_excite(graph, y, f"{at}.squeeze", inputs // 4)
    residual = stride == 1 and inputs == stage.channels
    y = graph.conv(y, f"{at}.project", stage.channels, deviation=_BRANCH if residual else 1.0)
    return graph.add(y, x, at) if residual else y


def _depthwise(graph: VisionBuilder, x: str, at: str, kernel: int, stride: int) -> str:
    channels = graph.channels(x)
    return graph.conv(x, at, channels, kernel, stride, groups=channels, pruned=False)


def _squeeze_and_excite(graph: VisionBuilder, x: str, at: str, width: int) -> str:
    """Weight each channel by a number computed from the means of all (Hu et al. 2018).

    Means hardly vary between images of noise; scaled up, they would be mostly rounding errors.
    """
    y = graph.conv(graph.mean(x, at), f"{at}.fc1", width, pruned=False, deviation=None)
    y = graph.conv(graph.silu(y, at), f"{at}.fc2", graph.channels(x), pruned=False, deviation=None)
    return graph.multiply(graph.sigmoid(y, at), x, at)


def _save(graph: VisionBuilder, path: Path, output: str, image: int, classes: int) -> Path:
    graph.save(
        path,
        {"input": ("float32", ["batch", 3, image, image])},
        {"output": (output, ["batch", classes])},
    )
    return path
