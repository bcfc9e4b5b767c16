"""Quantization by ONNX Runtime's quantizer: what it is given, makes and reports."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.helper import make_node

from tvm_sparse.errors import InputError, ModelError, OutputError
from tvm_sparse.pruning import prune
from tvm_sparse.quantization import quantize
from tvm_sparse.testing.models import onnxruntime_outputs, write_mlp, write_onnx


@pytest.fixture
def mlp(tmp_path):
    return write_mlp(tmp_path / "m.onnx", density=1.0)


@pytest.fixture
def convolutions(tmp_path):
    """A convolution with a batch normalization, and a depthwise one."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((8, 4, 3, 3)).astype("float32") / 6,
        "d": rng.standard_normal((8, 1, 3, 3)).astype("float32") / 3,
        **{name: rng.uniform(0.5, 2, 8).astype("float32") for name in ("s", "b", "m", "v")},
    }
    nodes = [
        make_node("Conv", ["x", "w"], ["c"], name="first", pads=[1] * 4),
        make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        make_node("Relu", ["n"], ["r"]),
        make_node("Conv", ["r", "d"], ["y"], name="depthwise", group=8),
    ]
    path = tmp_path / "c.onnx"
    return write_onnx(path, nodes, {"x": [1, 4, 9, 9]}, ["y"], weights)


def normal(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def test_static(mlp, tmp_path):
    x, out = normal(2, 5, 32), tmp_path / "q.onnx"
    report = quantize(mlp, out, {"x": x})
    assert report.layers == ("/up/MatMul", "/down/MatMul")
    assert report.kept == ()
    (output,) = report.outputs
    assert output.name == "y"
    assert 0 < output.relative_error < 0.05
    assert 0 < output.largest_error < 0.1
    assert report.bytes_after < 0.35 * report.bytes_before
    assert operators(out).count("QuantizeLinear") == 2
    got, want = (onnxruntime_outputs(path, {"x": x})["y"] for path in (out, mlp))
    error = np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2))
    assert error == pytest.approx(output.relative_error, rel=0.2)


def test_weights_are_symmetric_with_a_scale_for_each_channel(mlp, tmp_path):
    quantize(mlp, tmp_path / "q.onnx", {"x": normal(1, 5, 32)})
    graph = onnx.load(tmp_path / "q.onnx").graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in tensors]
    wide = [node for node in weights if tensors[node.input[0]].ndim == 2]
    assert sorted(tensors[node.input[1]].size for node in wide) == [48, 64]
    assert all(tensors[node.input[0]].dtype == np.int8 for node in wide)
    assert not any(tensors[node.input[2]].any() for node in wide)


def test_several_samples_and_images(convolutions, tmp_path):
    report = quantize(convolutions, tmp_path / "q.onnx", {"x": normal(3, 1, 4, 9, 9)})
    assert report.layers == ("first", "depthwise")
    assert report.outputs[0].relative_error < 0.05
    assert "BatchNormalization" not in operators(tmp_path / "q.onnx")


def test_excluded_nodes_and_other_operators(convolutions, tmp_path):
    out, samples = tmp_path / "q.onnx", {"x": normal(1, 4, 9, 9)}
    report = quantize(convolutions, out, samples, exclude=["depthwise"])
    assert (report.layers, report.kept) == (("first",), ("depthwise",))
    with pytest.raises(ModelError, match="no layer of Gemm"):
        quantize(convolutions, tmp_path / "none.onnx", samples, op_types=["Gemm"])
    assert not (tmp_path / "none.onnx").exists()


@pytest.mark.parametrize("has_samples", [False, True])
def test_dynamic(mlp, tmp_path, has_samples):
    samples = {"x": normal(1, 5, 32)} if has_samples else None
    report = quantize(mlp, tmp_path / "q.onnx", samples, dynamic=True)
    assert report.layers == ("/up/MatMul", "/down/MatMul")
    assert operators(tmp_path / "q.onnx").count("MatMulInteger") == 2
    assert len(report.outputs) == has_samples
    assert all(output.relative_error < 0.05 for output in report.outputs)


@pytest.mark.parametrize("pattern", ["1x1", "1x4"])
def test_zeros_stay_zeros(mlp, tmp_path, pattern):
    prune(mlp, tmp_path / "p.onnx", 0.8, pattern=pattern)
    quantize(tmp_path / "p.onnx", tmp_path / "q.onnx", {"x": normal(1, 5, 32)})
    graphs = [onnx.load(tmp_path / f"{name}.onnx").graph for name in "pq"]
    pruned, quantized = (
        {t.dims[0]: numpy_helper.to_array(t) for t in graph.initializer if len(t.dims) == 2}
        for graph in graphs
    )
    for size in (32, 64):
        assert not quantized[size][pruned[size] == 0].any()


def test_a_channel_of_zeros_has_a_scale(tmp_path):
    weight = normal(32, 64)
    weight[:, 3] = 0
    nodes = [make_node("MatMul", ["x", "w"], ["y"])]
    path = write_onnx(tmp_path / "z.onnx", nodes, {"x": [2, 32]}, ["y"], {"w": weight})
    quantize(path, tmp_path / "q.onnx", {"x": normal(2, 32)})
    y = onnxruntime_outputs(tmp_path / "q.onnx", {"x": normal(2, 32)})["y"]
    assert np.isfinite(y).all()
    assert not y[:, 3].any()


def test_mistakes(mlp, tmp_path):
    out, x = tmp_path / "q.onnx", normal(1, 5, 32)
    for samples, options, message in (
        (None, {}, "needs calibration inputs"),
        ({"z": x}, {}, "no values of input 'x'"),
        ({"x": x[0, 0]}, {}, "has 3 axes, and its values have 1"),
        ({"x": x[..., :31]}, {}, "and its values have \\[1, 5, 31\\]"),
        ({"x": np.array([[["a"]]])}, {}, "is float32"),
        ({"x": x}, {"exclude": ["up"]}, "has no node 'up' to exclude"),
        ({"x": x}, {"op_types": ["Cos"]}, "operator 'Cos' cannot be quantized"),
    ):
        with pytest.raises(InputError, match=message):
            quantize(mlp, out, samples, **options)
    with pytest.raises(OutputError, match="is read"):
        quantize(mlp, mlp, {"x": x})
    assert not out.exists()
    quantize(mlp, out, {"x": x})
    with pytest.raises(ModelError, match="is quantized already"):
        quantize(out, tmp_path / "r.onnx", {"x": x})
