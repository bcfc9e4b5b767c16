"""Small networks of eight families, seeded and with a live signal, as ONNX models of floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Network:
    """A graph that grows node by node; each method returns the name of its result."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def tensor(self, array: Any) -> str:
        """Add a constant."""
        name = f"w{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one result."""
        number = len(self.nodes)
        name, result = f"{op_type}_{number}", f"v{number}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [result], name, **attributes))
        return result

    def weight(self, *shape: int, taps: int = 0) -> str:
        """Add a weight that keeps the variance of its input."""
        taps = taps or shape[0]
        return self.tensor(self.rng.standard_normal(shape).astype("f4") / np.float32(taps**0.5))

    def linear(self, x: str, taps: int, channels: int) -> str:
        """Add a product and a bias."""
        product = self.node("MatMul", x, self.weight(taps, channels))
        bias = self.rng.standard_normal(channels).astype("f4") * np.float32(0.1)
        return self.node("Add", product, self.tensor(bias))

    def conv(self, x: str, inputs: int, outputs: int, *kernel: int, **attributes: Any) -> str:
        """Add a convolution with a bias, padded to the size of its input."""
        group = attributes.get("group", 1)
        taps = inputs // group * math.prod(kernel)
        weight = self.weight(outputs, inputs // group, *kernel, taps=taps)
        bias = self.tensor(self.rng.standard_normal(outputs).astype("f4") * np.float32(0.1))
        pads = [size // 2 for size in kernel] * 2
        return self.node("Conv", x, weight, bias, **{"pads": pads, **attributes})

    def normalize(self, x: str, width: int) -> str:
        """Add a layer normalization."""
        vectors = (self.tensor(np.full(width, value, "f4")) for value in (1, 0))
        return self.node("LayerNormalization", x, *vectors, axis=-1)

    def gelu(self, x: str) -> str:
        """Add GELU as exporters write it."""
        erf = self.node("Erf", self.node("Div", x, self.tensor(np.float32(2**0.5))))
        half = self.node("Mul", x, self.tensor(np.float32(0.5)))
        return self.node("Mul", half, self.node("Add", erf, self.tensor(np.float32(1))))

    def encoder(self, x: str, tokens: int, width: int, heads: int) -> str:
        """Add a layer of a transformer."""
        shape = self.tensor(np.array([1, tokens, heads, width // heads]))
        q, k, v = (self.node("Reshape", self.linear(x, width, width), shape) for _ in range(3))
        q, v = (self.node("Transpose", value, perm=[0, 2, 1, 3]) for value in (q, v))
        k = self.node("Transpose", k, perm=[0, 2, 3, 1])
        scale = self.tensor(np.float32((width // heads) ** -0.5))
        weights = self.node("Softmax", self.node("Mul", self.node("MatMul", q, k), scale), axis=-1)
        mixed = self.node("Transpose", self.node("MatMul", weights, v), perm=[0, 2, 1, 3])
        mixed = self.node("Reshape", mixed, self.tensor(np.array([1, tokens, width])))
        x = self.normalize(self.node("Add", x, self.linear(mixed, width, width)), width)
        inner = self.linear(self.gelu(self.linear(x, width, 4 * width)), 4 * width, width)
        return self.normalize(self.node("Add", x, inner), width)

    def write(self, path: Path, shape: tuple[int, ...], result: str) -> None:
        """Write the model of one input ``x`` and one output ``y``."""
        self.nodes.append(helper.make_node("Identity", [result], ["y"], "result"))
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            self.tensors,
        )
        opsets = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        onnx.save(onnx.shape_inference.infer_shapes(model), path)


Shape = tuple[int, ...]


def bert(net: Network) -> tuple[Shape, str]:
    """Return a layer of a transformer behind a linear layer in the place of its embeddings."""
    return (1, 32, 64), net.encoder(net.linear("x", 64, 128), 32, 128, 4)


def minilm(net: Network) -> tuple[Shape, str]:
    """Return a narrower transformer, and the mean of its tokens."""
    x = net.encoder("x", 24, 96, 6)
    return (1, 24, 96), net.node("ReduceMean", x, axes=[1], keepdims=0)


def vit(net: Network) -> tuple[Shape, str]:
    """Return patches of an image, a layer of a transformer, and a classifier of the first token."""
    x = net.conv("x", 3, 96, 8, 8, strides=[8, 8], pads=[0] * 4)
    x = net.node("Reshape", x, net.tensor(np.array([1, 96, 16])))
    x = net.node("Transpose", x, perm=[0, 2, 1])
    x = net.encoder(x, 16, 96, 3)
    first = net.node("Gather", x, net.tensor(np.array(0)), axis=1)
    weight = net.weight(10, 96, taps=96)
    return (1, 3, 32, 32), net.node("Gemm", first, weight, net.tensor(np.zeros(10, "f4")), transB=1)


def resnet(net: Network) -> tuple[Shape, str]:
    """Return two bottlenecks with residuals, pooling and a classifier."""
    x = net.node("Relu", net.conv("x", 3, 32, 7, 7, strides=[2, 2]))
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for _ in range(2):
        y = net.node("Relu", net.conv(x, 32, 16, 1, 1))
        y = net.node("Relu", net.conv(y, 16, 16, 3, 3))
        x = net.node("Relu", net.node("Add", x, net.conv(y, 16, 32, 1, 1)))
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    weight = net.weight(10, 32, taps=32)
    return (1, 3, 64, 64), net.node("Gemm", x, weight, net.tensor(np.zeros(10, "f4")), transB=1)


def mobilenet(net: Network) -> tuple[Shape, str]:
    """Return depthwise and pointwise convolutions with ReLU6."""

    def relu6(x: str) -> str:
        return net.node("Clip", x, *(net.tensor(np.float32(limit)) for limit in (0, 6)))

    x = relu6(net.conv("x", 3, 16, 3, 3, strides=[2, 2]))
    for inputs, outputs in ((16, 32), (32, 64)):
        x = relu6(net.conv(x, inputs, inputs, 3, 3, group=inputs))
        x = relu6(net.conv(x, inputs, outputs, 1, 1))
    return (1, 3, 64, 64), net.node("GlobalAveragePool", x)


def yolo(net: Network) -> tuple[Shape, str]:
    """Return SiLU, a concatenation with an enlarged image, and a head of sigmoids."""

    def silu(x: str) -> str:
        return net.node("Mul", x, net.node("Sigmoid", x))

    fine = silu(net.conv("x", 3, 24, 3, 3, strides=[2, 2]))
    coarse = silu(net.conv(fine, 24, 32, 3, 3, strides=[2, 2]))
    scales = net.tensor(np.array([1, 1, 2, 2], "f4"))
    wide = net.node("Resize", coarse, "", scales, mode="nearest", nearest_mode="floor",
                    coordinate_transformation_mode="asymmetric")  # fmt: skip
    x = silu(net.conv(net.node("Concat", fine, wide, axis=1), 56, 32, 1, 1))
    return (1, 3, 64, 64), net.node("Sigmoid", net.conv(x, 32, 18, 1, 1))


def lstm(net: Network) -> tuple[Shape, str]:
    """Return a linear layer, an LSTM, and another linear layer."""
    x, hidden = net.linear("x", 40, 64), 48
    weights = (net.weight(1, 4 * hidden, taps, taps=taps) for taps in (64, hidden))
    x = net.node("LSTM", x, *weights, hidden_size=hidden)
    x = net.node("Squeeze", x, net.tensor(np.array([1])))
    return (20, 1, 40), net.linear(x, hidden, 12)


def audio(net: Network) -> tuple[Shape, str]:
    """Return convolutions of one axis, some of them dilated, with a residual."""
    x = net.node("Relu", net.conv("x", 1, 24, 9, strides=[4]))
    for dilation in (1, 2):
        options = {"dilations": [dilation], "pads": [dilation] * 2}
        x = net.node("Add", x, net.node("Relu", net.conv(x, 24, 24, 3, **options)))
    return (1, 1, 1600), net.conv(x, 24, 16, 1)


FAMILIES: dict[str, Callable[[Network], tuple[Shape, str]]] = {
    "BERT": bert,
    "MiniLM": minilm,
    "ViT": vit,
    "ResNet": resnet,
    "MobileNet": mobilenet,
    "YOLO": yolo,
    "LSTM": lstm,
    "audio": audio,
}
"""The networks by what they resemble."""


def write_network(family: str, path: Path, seed: int = 0) -> Shape:
    """Write the network of a family, and return the shape of its input."""
    net = Network(seed)
    shape, result = FAMILIES[family](net)
    net.write(path, shape, result)
    return shape
