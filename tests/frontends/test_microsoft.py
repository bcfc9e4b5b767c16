"""Operators of com.microsoft that quantizers and optimizers of ONNX Runtime write."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import make_node

from tvm_sparse.testing.one_operator import check, write

FLOAT, BYTES = TensorProto.FLOAT, TensorProto.UINT8
X = {"xs": np.float32(0.03), "xz": np.uint8(117), "ys": np.float32(0.05), "yz": np.uint8(120)}
FINE = {"ys": np.float32(1 / 256), "yz": np.uint8(0)}
ROUND_X = make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"])
QX, QB, QY = ["q", "xs", "xz"], ["b", "bs", "bz"], ["ys", "yz"]


def rng():
    return np.random.default_rng(1)


def normal(*shape):
    return rng().standard_normal(shape).astype("float32")


def integers(*shape, dtype="uint8"):
    limits = np.iinfo(dtype)
    return rng().integers(limits.min, limits.max, shape).astype(dtype)


def other(*shape):
    return {"b": integers(*shape), "bs": np.float32(0.02), "bz": np.uint8(99)}


def microsoft(op_type, inputs, outputs=("y",), **attributes):
    return make_node(op_type, inputs, list(outputs), domain="com.microsoft", **attributes)


POOL = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}
IMAGE, TOKENS = normal(1, 6, 9, 7), normal(2, 10, 32)


@pytest.mark.parametrize(
    ("node", "x", "tensors"),
    [
        (microsoft("QLinearAdd", [*QX, *QB, *QY]), IMAGE, other(6, 1, 1)),
        (microsoft("QLinearMul", [*QX, *QB, *QY]), IMAGE, other(1, 6, 9, 7)),
        (microsoft("QLinearSigmoid", [*QX, *QY]), IMAGE, FINE),
        (microsoft("QLinearLeakyRelu", [*QX, *QY], alpha=0.1), IMAGE, {}),
        (microsoft("QLinearSoftmax", [*QX, *QY], axis=1, opset=12), normal(2, 3, 4), FINE),
        (microsoft("QLinearSoftmax", [*QX, *QY], axis=1, opset=13), TOKENS, FINE),
        (
            microsoft("QLinearAveragePool", [*QX, *QY], **POOL),
            IMAGE,
            {},
        ),
        (microsoft("QLinearGlobalAveragePool", [*QX, *QY]), IMAGE, {"ys": np.float32(0.005)}),
        (microsoft("QLinearConcat", [*QY, *QX, *QB], axis=1), IMAGE, other(1, 3, 9, 7)),
        (
            microsoft("QLinearWhere", ["c", *QX, *QB, *QY]),
            IMAGE,
            {"c": rng().random((1, 6, 9, 7)) < 0.5, **other(6, 9, 7)},
        ),
    ],
    ids=lambda value: getattr(value, "op_type", ""),
)
def test_quantized_functions_are_right_within_a_step(tmp_path, node, x, tensors):
    check(tmp_path / "m.onnx", [ROUND_X, node], {"x": x}, BYTES, X | tensors, step=1)


TIED = {"xs": np.float32(1 / 32), "ys": np.float32(1 / 16), "bs": np.float32(1 / 32)}


@pytest.mark.parametrize("zero", [120, 121])
@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"),
    [
        ("QLinearAdd", [*QX, *QB, *QY], {}),
        ("QLinearMul", [*QX, *QB, *QY], {}),
        ("QLinearLeakyRelu", [*QX, *QY], {"alpha": 0.5}),
        ("QLinearAveragePool", [*QX, *QY], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("QLinearConcat", [*QY, *QX, *QB], {"axis": 1}),
        ("QLinearWhere", ["c", *QX, *QB, *QY], {}),
    ],
)
def test_ties_are_rounded_as_in_onnx_runtime(tmp_path, op_type, inputs, attributes, zero):
    """A further product of a finer scale would make several steps of a wrong one."""
    tensors = X | other(1, 6, 9, 7) | TIED | {"yz": np.uint8(zero), "zz": np.uint8(7)}
    tensors |= {"c": rng().random((1, 6, 9, 7)) < 0.5, "zs": np.float32(1 / 512)}
    nodes = [
        ROUND_X,
        microsoft(op_type, inputs, ["t"], **attributes),
        microsoft("QLinearAdd", ["t", *QY, "t", *QY, "zs", "zz"]),
    ]
    check(tmp_path / "m.onnx", nodes, {"x": IMAGE}, BYTES, tensors)


WEIGHT = {
    "w": integers(32, 24, dtype="int8"),
    "ws": rng().uniform(0.005, 0.01, 24).astype("float32"),
    "wz": np.zeros(24, "int8"),
}
QW = ["w", "ws", "wz"]
WIDE = {
    "y_scale": np.float32(0.1),
    "bias": normal(24),
    "i": rng().integers(-999, 999, 24).astype("i4"),
}


@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize("is_float", [False, True])
def test_qgemm(tmp_path, is_turned, is_float):
    tensors = X | WEIGHT | WIDE | {"w": WEIGHT["w"].T.copy() if is_turned else WEIGHT["w"]}
    result = [] if is_float else ["y_scale", "yz"]
    node = microsoft("QGemm", [*QX, *QW, "i", *result], transB=int(is_turned), alpha=0.5)
    output = FLOAT if is_float else BYTES
    check(
        tmp_path / "m.onnx",
        [ROUND_X, node],
        {"x": TOKENS[0]},
        output,
        tensors,
        step=0 if is_float else 1,
    )


@pytest.mark.parametrize(
    "nodes",
    [
        [ROUND_X, microsoft("MatMulIntegerToFloat", ["q", "w", "xs", "ws", "xz", "wz", "bias"])],
        [microsoft("DynamicQuantizeMatMul", ["x", *QW, "bias"])],
    ],
    ids=["static", "dynamic"],
)
def test_products_of_floats(tmp_path, nodes):
    check(tmp_path / "m.onnx", nodes, {"x": TOKENS}, FLOAT, X | WEIGHT | WIDE)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("has_zeros", [False, True])
def test_weights_of_few_bits_in_blocks(tmp_path, bits, has_zeros):
    taps, channels, block = 72, 20, 32
    blocks = -(-taps // block)
    tensors = {
        "w": integers(channels, blocks, block * bits // 8),
        "ws": rng().uniform(0.005, 0.01, channels * blocks).astype("float32"),
        "wz": integers(channels * -(-blocks * bits // 8)),
    }
    sizes = {"K": taps, "N": channels, "bits": bits, "block_size": block}
    node = microsoft("MatMulNBits", ["x", "w", "ws", *["wz"] * has_zeros], **sizes)
    check(tmp_path / "m.onnx", [node], {"x": normal(3, taps)}, FLOAT, tensors)


@pytest.mark.parametrize("has_zeros", [False, True])
def test_tables_of_four_bits_in_blocks(tmp_path, has_zeros):
    tensors = {
        "w": integers(50, 32),
        "ws": rng().uniform(0.01, 0.02, (50, 4)).astype("float32"),
        "wz": integers(50, 2),
    }
    operands = ["w", "x", "ws", *["wz"] * has_zeros]
    node = microsoft("GatherBlockQuantized", operands, block_size=16, bits=4)
    rows = rng().integers(0, 50, (2, 5))
    check(tmp_path / "m.onnx", [node], {"x": rows}, FLOAT, tensors)


MASKS = {
    "none": None,
    "keys": np.array([[1] * 10, [1] * 6 + [0] * 4], "int32"),
    "lengths": np.array([10, 6], "int32"),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("causal", [0, 1])
def test_quantized_attention(tmp_path, mask, causal):
    tensors = X | WEIGHT | {"w": integers(32, 96, dtype="int8"), "ws": np.float32(0.004)}
    tensors |= {"wz": np.int8(0), "bias": normal(96)}
    inputs = {"x": TOKENS} | ({} if MASKS[mask] is None else {"mask": MASKS[mask]})
    operands = ["q", "w", "bias", "xs", "ws", "" if mask == "none" else "mask", "xz", "wz"]
    node = microsoft("QAttention", operands, num_heads=4, unidirectional=causal)
    check(tmp_path / "m.onnx", [ROUND_X, node], inputs, FLOAT, tensors)


VECTORS = {"gamma": normal(32), "beta": normal(32)[::-1].copy(), "bias": normal(32) * 2}


@pytest.mark.parametrize(
    "node",
    [
        microsoft("SkipLayerNormalization", ["x", "x", "gamma", "beta", "bias"]),
        microsoft("SkipLayerNormalization", ["x", "x", "gamma", "", "bias"], ["n", "", "", "y"]),
        microsoft("BiasGelu", ["x", "bias"]),
        microsoft("FastGelu", ["x", "bias"]),
        microsoft("Gelu", ["x"]),
    ],
    ids=lambda node: node.op_type,
)
def test_fused_layers(tmp_path, node):
    check(tmp_path / "m.onnx", [node], {"x": TOKENS}, FLOAT, VECTORS)


@pytest.mark.parametrize("is_quantized", [False, True])
def test_embeddings(tmp_path, is_quantized):
    names = ["words", "places", "segments", "gamma", "beta"]
    shapes = [(30, 32), (20, 32), (2, 32), (32,), (32,)]
    inputs = {"x": rng().integers(0, 30, (2, 10)).astype("int32")}
    inputs |= {"s": rng().integers(0, 2, (2, 10)).astype("int32")}
    operands, op_type = ["x", "s", *names], "EmbedLayerNormalization"
    tensors = {name: normal(*shape) for name, shape in zip(names, shapes, strict=True)}
    if is_quantized:
        tensors = {name: integers(*shape) for name, shape in zip(names, shapes, strict=True)}
        tensors |= {f"{name}_s": np.float32(0.01) for name in names}
        tensors |= {f"{name}_z": np.uint8(120) for name in names}
        operands += ["", *(f"{name}_s" for name in names), *(f"{name}_z" for name in names)]
        op_type = f"Q{op_type}"
    node = microsoft(op_type, operands, ["y", "count"], epsilon=1e-12)
    check(tmp_path / "m.onnx", [node], inputs, FLOAT, tensors)


def test_what_is_not_supported_is_said(tmp_path):
    from tvm_sparse.errors import ModelError
    from tvm_sparse.frontends.onnx_importer import import_onnx

    node = microsoft("QLinearGlobalAveragePool", [*QX, *QY], channels_last=1)
    path = write(tmp_path / "m.onnx", [ROUND_X, node], {"x": IMAGE}, BYTES, X)
    with pytest.raises(ModelError, match="channels_last"):
        import_onnx(path, no_fallback="not in this test")
