"""Writes convolutional networks of random pruned weights whose outputs still see the input.

A random deep network forgets its input: from layer to layer, the part that all pixels and images
share grows, and their differences vanish. Batch normalization prevents this in trained networks.
Here white noise runs through the network while it is built, and each convolution is scaled and
shifted so that its channels have mean 0 for the noise, as if a batch normalization had been folded
into it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tvm_sparse.onnx_runtime import onnxruntime
from tvm_sparse.zoo.onnx_builder import GraphBuilder
from tvm_sparse.zoo.random_weights import random_weight

OPSET = 13
"""The newest opset that every engine of the comparison reads."""

Array = NDArray[np.float32]

# The number of images of noise; with one image, the part that all images share would not show.
_IMAGES = 2

# The deviation of random biases, without which an engine could be right that adds none.
_BIAS_DEVIATION = 0.1


class VisionBuilder(GraphBuilder):
    """A convolutional network under construction, as ``torch.onnx`` exports one for inference.

    Parameters
    ----------
    sparsity : float
        Zero fraction of every pruned weight.
    seed : int
        The same seed and layer names give the same weights.

    Notes
    -----
    Convolutions are named after modules such as ``layer1.0.conv1``; their parameters are
    ``layer1.0.conv1.weight`` and ``layer1.0.conv1.bias``.
    """

    def __init__(self, sparsity: float, seed: int = 0) -> None:
        super().__init__(OPSET)
        self._sparsity = sparsity
        self._seed = seed
        self._values: dict[str, Array] = {}

    def image(self, name: str, size: int, channels: int = 3) -> str:
        """Declare the input, an image whose channels have mean 0 and variance 1."""
        rng = np.random.default_rng(self._seed)
        self._values[name] = rng.standard_normal((_IMAGES, channels, size, size), np.float32)
        return name

    def channels(self, x: str) -> int:
        """Return the number of channels of a value."""
        return self._values[x].shape[1]

    def conv(
        self,
        x: str,
        at: str,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        padding: int | None = None,
        pruned: bool = True,
        deviation: float | None = 1.0,
    ) -> str:
        """Append a convolution with bias.

        Parameters
        ----------
        x, at : str
            The input and the name of the convolution.
        outputs, kernel, stride, groups, padding : int
            The sizes of the convolution; by default the padding is half the kernel.
        pruned : bool
            Whether the weight is pruned.
        deviation : float, optional
            The standard deviation of the output; None keeps a weight of unit norm.
        """
        padding = kernel // 2 if padding is None else padding
        rng = self._rng(at)
        shape = (outputs, self.channels(x) // groups, kernel, kernel)
        weight = random_weight(rng, shape, self._sparsity if pruned else 0.0)
        attributes = {
            "dilations": [1, 1], "group": groups, "kernel_shape": [kernel, kernel],
            "pads": [padding] * 4, "strides": [stride, stride],
        }  # fmt: skip
        product = _run("Conv", [self._values[x], weight], attributes)
        bias = _normalize(rng, weight, product, deviation)
        y = self.op(
            "Conv", x, self.weight(f"{at}.weight", weight), self.weight(f"{at}.bias", bias),
            at=at, **attributes,
        )  # fmt: skip
        self._values[y] = product + bias[:, None, None]
        return y

    def classifier(self, x: str, at: str, classes: int) -> str:
        """Append global average pooling and a dense linear layer: (batch, classes)."""
        flat = self.op("Flatten", self.mean(x, "avgpool"), axis=1)
        rng = self._rng(at)
        weight = random_weight(rng, (classes, self.channels(x)), 0.0)
        bias = _normalize(rng, weight, self._values[x].mean(axis=(2, 3)) @ weight.T, 1.0)
        return self.gemm(flat, weight, bias, at)

    def relu(self, x: str, at: str) -> str:
        """Append max(x, 0)."""
        return self._apply("Relu", [x], at)

    def relu6(self, x: str, at: str) -> str:
        """Append min(max(x, 0), 6)."""
        y = self.op("Clip", x, *(self.constant(b, at=at) for b in (0.0, 6.0)), at=at)
        self._values[y] = self._values[x].clip(0, 6)
        return y

    def sigmoid(self, x: str, at: str) -> str:
        """Append the logistic function."""
        return self._apply("Sigmoid", [x], at)

    def silu(self, x: str, at: str) -> str:
        """Append x * sigmoid(x), in two nodes."""
        return self._apply("Mul", [x, self.sigmoid(x, at)], at)

    def multiply(self, x: str, y: str, at: str) -> str:
        """Append the product."""
        return self._apply("Mul", [x, y], at)

    def add(self, x: str, y: str, at: str) -> str:
        """Append the sum."""
        return self._apply("Add", [x, y], at)

    def concat(self, values: Sequence[str], at: str) -> str:
        """Append the concatenation of channels."""
        return self._apply("Concat", values, at, axis=1)

    def halves(self, x: str, at: str) -> list[str]:
        """Split the channels in two."""
        half = self.channels(x) // 2
        parts = self.split(x, [half, half], 1, at)
        self._values.update(zip(parts, np.split(self._values[x], 2, axis=1), strict=True))
        return parts

    def max_pool(self, x: str, at: str, kernel: int, stride: int) -> str:
        """Append max pooling with a padding of half the kernel."""
        return self._apply(
            "MaxPool", [x], at, ceil_mode=0, kernel_shape=[kernel, kernel],
            pads=[kernel // 2] * 4, strides=[stride, stride],
        )  # fmt: skip

    def mean(self, x: str, at: str) -> str:
        """Append global average pooling."""
        return self._apply("GlobalAveragePool", [x], at)

    def upsample(self, x: str, at: str) -> str:
        """Append nearest-neighbour resizing to twice the height and width."""
        scales = self.constant([1.0, 1.0, 2.0, 2.0], at=at)
        y = self.op(
            "Resize", x, "", scales, at=at, mode="nearest", nearest_mode="floor",
            coordinate_transformation_mode="asymmetric", cubic_coeff_a=-0.75,
        )  # fmt: skip
        self._values[y] = self._values[x].repeat(2, axis=2).repeat(2, axis=3)
        return y

    def _append(
        self, kind: str, inputs: Sequence[str], outputs: int, at: str, attributes: dict[str, object]
    ) -> list[str]:
        return super()._append(kind, inputs, outputs, at.replace(".", "/"), attributes)

    def _apply(self, kind: str, inputs: Sequence[str], at: str, **attributes: object) -> str:
        y = self.op(kind, *inputs, at=at, **attributes)
        self._values[y] = _run(kind, [self._values[x] for x in inputs], attributes)
        return y

    def _rng(self, at: str) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32(at.encode())])


def _normalize(
    rng: np.random.Generator, weight: Array, product: Array, deviation: float | None
) -> Array:
    """Scale a weight and its result, (images, outputs, ...), in place; return the bias."""
    rest = (0, *range(2, product.ndim))
    mean = product.mean(axis=rest)
    if deviation is not None:
        centred = product - np.expand_dims(mean, rest)
        scale = np.float32(deviation) / centred.std()
        for array in (weight, product, mean):
            array *= scale
    noise = rng.standard_normal(len(mean), np.float32)
    return np.float32(_BIAS_DEVIATION * (deviation or 1.0)) * noise - mean


def _run(kind: str, inputs: Sequence[Array], attributes: dict[str, object]) -> Array:
    """Return ONNX Runtime's result of one node, on one thread, so that it is always the same."""
    names = [f"x{i}" for i in range(len(inputs))]
    graph = helper.make_graph(
        [helper.make_node(kind, names, ["y"], **attributes)],
        "node",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, x.shape)
         for name, x in zip(names, inputs, strict=True)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]
