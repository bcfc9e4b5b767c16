"""Layers whose input is rounded by a scale that an inference finds, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.cpu.integers import dot_products
from tvm_sparse.cpu.profile import native
from tvm_sparse.frontends.load import import_module
from tvm_sparse.passes import pipeline
from tvm_sparse.testing.kernels import relative_rms
from tvm_sparse.testing.models import onnxruntime_outputs, operators_of, write_onnx

DOTS = dot_products(native())
HAS_INTEGERS = DOTS is not None and DOTS.per_word == 4
"""Whether kernels of integers win here; those of 16 bits may cost as much as floats."""


class Network:
    """Nodes and weights of a network that `quantize_dynamic` could have written."""

    def __init__(self):
        self.nodes, self.weights = [], {}
        self.rng = np.random.default_rng(0)

    def add(self, op_type, *inputs, results=1, **attributes):
        names = [f"v{len(self.nodes)}_{i}" for i in range(results)]
        domain = "com.microsoft" if op_type == "DynamicQuantizeMatMul" else ""
        self.nodes.append(make_node(op_type, list(inputs), names, domain=domain, **attributes))
        return names[0] if results == 1 else names

    def tensor(self, array):
        name = f"w{len(self.weights)}"
        self.weights[name] = array
        return name

    def integers(self, *shape, zeros=0.0):
        values = self.rng.integers(-127, 128, shape)
        return self.tensor((values * (self.rng.random(shape) >= zeros)).astype("int8"))

    def scales(self, *shape):
        return self.tensor(self.rng.uniform(0.5, 1, shape).astype("float32") / 500)

    def layer(self, quantized, op_type, weight, scales, **attributes):
        integers, scale, zero = quantized
        sums = self.add(op_type, integers, weight, zero, **attributes)
        floats = self.add("Cast", sums, to=TensorProto.FLOAT)
        return self.add("Mul", floats, self.add("Mul", scale, scales))

    def quantize(self, x):
        return self.add("DynamicQuantizeLinear", x, results=3)

    def check(self, folder, y, shape, given, has_integers=True):
        """Compile the network, and compare the outputs for inputs of the shapes `given`."""
        path = write_onnx(folder / "m.onnx", self.nodes, {"x": list(shape)}, [y], self.weights)
        engine = tvm_sparse.compile(path)
        assert not engine.info.fallbacks
        for sizes in given:
            x = {"x": self.rng.standard_normal(sizes).astype("float32")}
            want, got = onnxruntime_outputs(path, x)[y], engine.run(x)[y]
            if not HAS_INTEGERS:  # floats may round an input to the next integer
                assert relative_rms(got, want) < 5e-3
                continue
            np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6 * np.abs(want).max())
        if HAS_INTEGERS and has_integers:
            assert "int8" in {layer.precision for layer in engine.report.layers}
        return path


def two_linear_layers(zeros=0.0):
    net = Network()
    x = net.layer(net.quantize("x"), "MatMulInteger", net.integers(70, 130), net.scales(130))
    x = net.add("Relu", net.add("Add", x, net.tensor(net.rng.random(130).astype("float32"))))
    weight = net.integers(130, 70, zeros=zeros)
    y = net.layer(net.quantize(x), "MatMulInteger", weight, net.scales())
    return net, net.add("Add", y, "x")


@pytest.mark.parametrize("zeros", [0.0, 0.99, 1.0])
@pytest.mark.parametrize("tokens", [5, 37, 128])
def test_linear_layers(tmp_path, tokens, zeros):
    net, y = two_linear_layers(zeros)
    net.check(tmp_path, y, (2, tokens, 70), [(2, tokens, 70)] * 2)


@pytest.mark.parametrize("rows", [1, 3])
def test_few_rows(tmp_path, rows):
    net, y = two_linear_layers()
    net.check(tmp_path, y, (rows, 70), [(rows, 70)], has_integers=False)


def test_any_number_of_tokens(tmp_path):
    net, y = two_linear_layers()
    shapes = [(1, 1, 70), (2, 3, 70), (1, 100, 70), (7, 130, 70)]
    net.check(tmp_path, y, ("batch", "tokens", 70), shapes)


@pytest.mark.parametrize("width", [13, 32])
def test_convolutions(tmp_path, width):
    """The image is padded with the zero point, and lanes beside it do not count in its range."""
    net, same = Network(), {"pads": [1] * 4}
    layer = net.integers(24, 10, 3, 3), net.scales(24, 1, 1)
    x = net.layer(net.quantize("x"), "ConvInteger", *layer, **same, strides=[2, 2])
    x = net.add("Relu", net.add("Add", x, net.tensor(np.float32(0.3))))
    layer = net.integers(32, 24, 3, 3), net.scales(32, 1, 1)
    x = net.layer(net.quantize(x), "ConvInteger", *layer, **same)
    y = net.layer(net.quantize(x), "ConvInteger", net.integers(9, 32, 1, 1), net.scales())
    net.check(tmp_path, y, (2, 10, 12, width), [(2, 10, 12, width)])


def test_images_of_any_height(tmp_path):
    net = Network()
    layer = net.integers(24, 10, 3, 3), net.scales(24, 1, 1)
    y = net.layer(net.quantize("x"), "ConvInteger", *layer, pads=[1] * 4)
    shapes = [(1, 10, 3, 20), (3, 10, 17, 20)]
    net.check(tmp_path, y, ("n", 10, "rows", 20), shapes)


@pytest.mark.parametrize("group", [2, 8])
def test_convolutions_of_groups(tmp_path, group):
    """They have no kernel of integers, and round the same numbers."""
    net = Network()
    layer = net.integers(16, 8 // group, 3, 3), net.scales(16, 1, 1)
    x = net.layer(net.quantize("x"), "ConvInteger", *layer, pads=[1] * 4, group=group)
    y = net.layer(net.quantize(x), "ConvInteger", net.integers(9, 16, 1, 1), net.scales())
    net.check(tmp_path, y, (1, 8, 12, 20), [(1, 8, 12, 20)], has_integers=False)


def test_convolutions_of_one_axis(tmp_path):
    net = Network()
    layer = net.integers(16, 8, 5), net.scales(16, 1)
    x = net.layer(net.quantize("x"), "ConvInteger", *layer, pads=[2, 2])
    y = net.layer(net.quantize(x), "ConvInteger", net.integers(9, 16, 3), net.scales())
    net.check(tmp_path, y, (1, 8, 300), [(1, 8, 300)], has_integers=False)


def test_a_fused_layer_with_a_bias(tmp_path):
    """DynamicQuantizeMatMul finds the range itself."""
    net = Network()
    bias = net.tensor(net.rng.random(50).astype("float32"))
    operands = net.integers(70, 50), net.scales(50), net.tensor(np.zeros(50, "int8")), bias
    y = net.add("DynamicQuantizeMatMul", "x", *operands)
    net.check(tmp_path, y, (40, 70), [(40, 70)])


def test_layers_share_what_they_read(tmp_path):
    """Three layers read one tensor: it is rounded once, by its range in panels."""
    net = Network()
    x = net.layer(net.quantize("x"), "MatMulInteger", net.integers(64, 64), net.scales(64))
    quantized = net.quantize(net.add("Relu", x))
    three = [
        net.layer(quantized, "MatMulInteger", net.integers(64, 64), net.scales(64))
        for _ in range(3)
    ]
    y = net.add("Add", net.add("Add", three[0], three[1]), three[2])
    path = net.check(tmp_path, y, (128, 64), [(128, 64)])
    if HAS_INTEGERS:
        found = operators_of(pipeline.front(import_module(path).mod, native()).mod)
        for name in ("dynamic_range", "quantize_words"):
            assert found.count(f"tvm_sparse.{name}") == 2
        for name in ("to_panels", "from_panels"):
            assert found.count(f"tvm_sparse.{name}") == 1
