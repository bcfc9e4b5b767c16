"""Mixtures of experts, compared with ONNX Runtime, and what reads their weights."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.errors import ModelError
from tvm_sparse.testing.one_operator import check, outputs, write

HIDDEN, INNER = 40, 56
SWIGLU = {"swiglu_fusion": 1, "activation_alpha": 1.702, "activation_beta": 1.0}


def mixture(experts=5, activation="relu", has_bias=False, density=1.0, **attributes):
    """Return the nodes and the constants of a router and its experts."""
    rng = np.random.default_rng(experts)

    def weight(*shape):
        values = rng.standard_normal(shape) / np.sqrt(shape[-1])
        return np.where(rng.random(shape) < density, values, 0).astype("float32")

    channels = INNER * (2 if activation == "swiglu" else 1)
    tensors = {
        "router": rng.standard_normal((HIDDEN, experts)).astype("float32"),
        "w1": weight(experts, channels, HIDDEN),
        "w2": weight(experts, HIDDEN, INNER),
    }
    inputs = ["x", "logits", "w1", "", "w2"]
    if has_bias:
        tensors |= {"b1": weight(experts, channels), "b2": weight(experts, HIDDEN)}
        inputs = ["x", "logits", "w1", "b1", "w2", "b2"]
    attributes = {"activation_type": activation, "k": 2, **attributes}
    nodes = [
        make_node("MatMul", ["x", "router"], ["logits"]),
        make_node("MoE", inputs, ["y"], "moe", domain="com.microsoft", **attributes),
    ]
    return nodes, tensors


def tokens(count):
    return {"x": np.random.default_rng(7).standard_normal((count, HIDDEN)).astype("float32")}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 1, "normalize_routing_weights": 1},
        {"k": 3, "normalize_routing_weights": 1, "activation": "gelu", "has_bias": True},
        {"activation": "silu", "experts": 16, "k": 4},
        {"activation": "identity"},
        {"activation": "swiglu", "has_bias": True, **SWIGLU, "swiglu_limit": 1.0},
        {"activation": "swiglu", "swiglu_fusion": 1},
        {"density": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("count", [1, 13])
def test_mixture_of_experts(tmp_path, options, count):
    nodes, tensors = mixture(**options)
    check(tmp_path / "m.onnx", nodes, tokens(count), TensorProto.FLOAT, tensors)


def reference(x, tensors, k):
    """Return a mixture of gated experts, which ONNX Runtime does not compute on CPUs."""
    logits = x @ tensors["router"]
    likely = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    y = np.zeros_like(x)
    for row, shares in enumerate(likely):
        for expert in np.argsort(-shares)[:k]:
            gate, value = tensors["w1"][expert] @ x[row], tensors["w3"][expert] @ x[row]
            hidden = gate / (1 + np.exp(-gate)) * value
            y[row] += shares[expert] * (tensors["w2"][expert] @ hidden)
    return y


@pytest.mark.parametrize("activation", ["silu", "swiglu"])
def test_gates_of_a_third_layer(tmp_path, activation):
    nodes, tensors = mixture()
    tensors["w3"] = np.random.default_rng(3).standard_normal(tensors["w1"].shape).astype("float32")
    inputs = ["x", "logits", "w1", "", "w2", "", "w3"]
    nodes[1] = make_node(
        "MoE", inputs, ["y"], domain="com.microsoft", activation_type=activation, k=2
    )
    path = write(tmp_path / "m.onnx", nodes, tokens(4), TensorProto.FLOAT, tensors)
    (y,) = tvm_sparse.compile(path, fallback="off").run(tokens(4)).values()
    np.testing.assert_allclose(y, reference(tokens(4)["x"], tensors, 2), atol=1e-4)


def test_halves_that_lie_behind_one_another(tmp_path):
    """A layer of gates and then values computes what the interleaved one does."""
    nodes, tensors = mixture(activation="swiglu", swiglu_fusion=1)
    path = write(tmp_path / "m.onnx", nodes, tokens(3), TensorProto.FLOAT, tensors)
    _, want = outputs(path, tokens(3))
    nodes, _ = mixture(activation="swiglu", swiglu_fusion=2)
    w1 = tensors["w1"]
    tensors["w1"] = np.concatenate([w1[:, ::2], w1[:, 1::2]], axis=1)
    path = write(tmp_path / "n.onnx", nodes, tokens(3), TensorProto.FLOAT, tensors)
    (y,) = tvm_sparse.compile(path, fallback="off").run(tokens(3)).values()
    np.testing.assert_allclose(y, want, atol=1e-5)


def test_weights_that_are_gathered_by_top_k(tmp_path):
    """Experts as PyTorch's exporter writes them: a Gather of stacked weights, and a product."""
    _, tensors = mixture()
    tensors |= {"k": np.array([2]), "column": np.array([1, 3]), "end": np.array([-1])}
    tensors["axis"] = np.array([1])
    nodes = [
        make_node("MatMul", ["x", "router"], ["logits"]),
        make_node("Softmax", ["logits"], ["likely"]),
        make_node("TopK", ["likely", "k"], ["shares", "experts"]),
        make_node("Gather", ["w1", "experts"], ["chosen"]),
        make_node("Unsqueeze", ["x", "column"], ["columns"]),
        make_node("MatMul", ["chosen", "columns"], ["products"]),
        make_node("Squeeze", ["products", "end"], ["flat"]),
        make_node("Unsqueeze", ["shares", "end"], ["factors"]),
        make_node("Mul", ["flat", "factors"], ["weighted"]),
        make_node("ReduceSum", ["weighted", "axis"], ["y"], keepdims=0),
    ]
    path = tmp_path / "m.onnx"
    check(path, nodes, tokens(5), TensorProto.FLOAT, tensors)
    report = tvm_sparse.compile(path).report
    assert [layer.kernel for layer in report.layers if len(layer.shape) == 3] == ["expert_linear"]


def test_the_report_knows_pruned_experts(tmp_path):
    nodes, tensors = mixture(experts=16, density=0.1)
    tensors = {
        name: np.kron(array, np.ones((1, 8, 8), "float32")) if array.ndim == 3 else array
        for name, array in tensors.items()
    }
    tensors["router"] = np.tile(tensors["router"], (8, 1))
    x = np.random.default_rng(0).standard_normal((2, HIDDEN * 8)).astype("float32")
    path = write(tmp_path / "m.onnx", nodes, {"x": x}, TensorProto.FLOAT, tensors)
    report = tvm_sparse.compile(path, fallback="off").report
    kernels = {layer.kernel for layer in report.layers if len(layer.shape) == 3}
    assert kernels == {"sparse_expert_linear"}


def quantized_mixture(bits, block, pattern=None, has_zeros=False, **attributes):
    """Return the nodes and the constants of a router and experts of few bits; x has 64 channels."""
    rng = np.random.default_rng(bits)
    experts, hidden, inner = 5, 64, 96
    tensors = {"router": rng.standard_normal((hidden, experts)).astype("float32")}
    inputs = ["x", "logits"]
    for name, n, k in (("1", 2 * inner, hidden), ("2", hidden, inner)):
        middle, blocks = 1 << (bits - 1), k // block if block else 1
        codes = rng.integers(0, 1 << bits, (experts, n, k)).astype("uint8")
        if pattern is not None:
            codes[pattern(rng, codes.shape)] = middle
        whole = codes if bits == 8 else codes[..., ::2] | codes[..., 1::2] << 4
        scales = rng.uniform(0.5, 1, (experts, n, blocks)).astype("float32")
        scales *= np.float32(2 / (middle * np.sqrt(k)))
        tensors |= {f"w{name}": whole, f"s{name}": scales if block else scales[..., 0]}
        inputs += [f"w{name}", f"s{name}", ""]
        if has_zeros:
            zeros = rng.integers(0, 256, (experts, n, blocks * bits // 8)).astype("uint8")
            tensors[f"z{name}"] = zeros
    inputs += ["", "", "", *(["z1", "z2"] if has_zeros else [])]
    attributes = {
        "k": 2, "activation_type": "swiglu", "normalize_routing_weights": 1, **SWIGLU,
        "expert_weight_bits": bits, **({"block_size": block} if block else {}), **attributes,
    }  # fmt: skip
    nodes = [
        make_node("MatMul", ["x", "router"], ["logits"]),
        make_node("QMoE", inputs, ["y"], "moe", domain="com.microsoft", **attributes),
    ]
    return nodes, tensors


def anywhere(rng, shape):
    return rng.random(shape) < 0.8


def two_of_four(rng, shape):
    order = rng.random((*shape[:-1], shape[-1] // 4, 4)).argsort(-1)
    return (order < 2).reshape(shape)


def wide_tokens(count):
    return {"x": np.random.default_rng(7).standard_normal((count, 64)).astype("float32")}


@pytest.mark.parametrize("count", [1, 13])
@pytest.mark.parametrize(
    "options",
    [
        {"bits": 4, "block": 32},
        {"bits": 8, "block": 16},
        {"bits": 4, "block": 16, "has_zeros": True},
        {"bits": 4, "block": 32, "pattern": anywhere},
        {"bits": 4, "block": 32, "pattern": two_of_four},
        {"bits": 4, "block": 0},
        {"bits": 4, "block": 32, "normalize_routing_weights": 0},
        {"bits": 4, "block": 32, "normalize_routing_weights": 0, "k": 1},
    ],
)
def test_experts_of_few_bits(tmp_path, options, count):
    nodes, tensors = quantized_mixture(**options)
    path = write(tmp_path / "m.onnx", nodes, wide_tokens(count), TensorProto.FLOAT, tensors)
    got, want = outputs(path, wide_tokens(count))
    # ONNX Runtime rounds the input of weights of 8 bits to 8 bits.
    assert np.abs(got - want).max() <= (2e-2 if options["bits"] == 8 else 1e-3) * np.ptp(want)
    assert np.ptp(want) > 0


@pytest.mark.parametrize(
    ("pattern", "kernel"),
    [
        (None, "block_row_linear_of_experts"),
        (two_of_four, "sparse_pair_row_linear_of_experts"),
    ],
)
def test_the_report_knows_experts_of_few_bits(tmp_path, pattern, kernel):
    nodes, tensors = quantized_mixture(4, 32, pattern)
    path = write(tmp_path / "m.onnx", nodes, wide_tokens(1), TensorProto.FLOAT, tensors)
    report = tvm_sparse.compile(path, fallback="off").report
    layers = [layer for layer in report.layers if "experts" in layer.kernel]
    assert [layer.kernel for layer in layers] == [kernel] * 2
    if pattern is not None:
        assert all(abs(layer.density - 0.5) < 0.05 for layer in layers)


def test_a_cpu_without_products_of_bytes_reads_floats(tmp_path, caplog):
    nodes, tensors = quantized_mixture(4, 32)
    path = write(tmp_path / "m.onnx", nodes, wide_tokens(1), TensorProto.FLOAT, tensors)
    report = tvm_sparse.compile(path, fallback="off", target="rpi4").report
    kernels = {layer.kernel for layer in report.layers}
    assert "expert_linear" in kernels and not any("block" in kernel for kernel in kernels)
    assert "reads its weights of few bits as float32" in caplog.text


def test_what_is_not_supported_is_said(tmp_path):
    nodes, tensors = mixture(use_sparse_mixer=1)
    path = write(tmp_path / "m.onnx", nodes, tokens(2), TensorProto.FLOAT, tensors)
    with pytest.raises(ModelError, match="use_sparse_mixer"):
        tvm_sparse.compile(path, fallback="off")


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("block", "has_points"), [(0, False), (16, False), (16, True)])
def test_biases_of_few_bits(tmp_path, bits, block, has_points):
    rng = np.random.default_rng(0)
    experts, hidden, inner = 4, 32, 48

    def codes(channels, taps):
        return rng.integers(0, 256, (experts, channels, taps * bits // 8)).astype("uint8")

    def scales(channels, taps):
        shape = (experts, channels, taps // block) if block else (experts, channels)
        return (rng.random(shape) / (1 << bits)).astype("float32")

    def points(channels, taps):
        of_row = -(-(taps // block) * bits // 8)
        return rng.integers(0, 256, (experts, channels, of_row)).astype("uint8")

    tensors = {
        "router": rng.standard_normal((hidden, experts)).astype("float32"),
        "w1": codes(2 * inner, hidden), "s1": scales(2 * inner, hidden),
        "w2": codes(hidden, inner), "s2": scales(hidden, inner),
        "b1": rng.standard_normal((experts, 2 * inner)).astype("float32"),
    }  # fmt: skip
    inputs = ["x", "logits", "w1", "s1", "b1", "w2", "s2"]
    if has_points:
        tensors |= {"p1": points(2 * inner, hidden), "p2": points(hidden, inner)}
        inputs += ["", "", "", "", "p1", "p2"]
    attributes = {"block_size": block} if block else {}
    nodes = [
        make_node("MatMul", ["x", "router"], ["logits"]),
        make_node(
            "QMoE", inputs, ["y"], domain="com.microsoft", expert_weight_bits=bits, k=2,
            activation_type="swiglu", swiglu_fusion=1, normalize_routing_weights=1, **attributes,
        ),
    ]  # fmt: skip
    x = {"x": rng.standard_normal((3, hidden)).astype("float32")}
    path = write(tmp_path / "m.onnx", nodes, x, TensorProto.FLOAT, tensors)
    (y,) = tvm_sparse.compile(path, fallback="off").run(x).values()
    _, want = outputs(path, x)
    # ONNX Runtime rounds activations to 8 bits for blocks of 8 bits; ours are of 16 bits.
    tolerance = 2e-2 if bits == 8 and block else 1e-3
    np.testing.assert_allclose(y, want, atol=tolerance * np.abs(want).max())
