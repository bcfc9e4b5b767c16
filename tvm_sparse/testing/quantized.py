"""Quantized layers for tests: their arrays, and their results in integers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto
from onnx.helper import make_node

from tvm_sparse.cpu.profile import CpuProfile, profile
from tvm_sparse.cpu.this_machine import cpu_flags
from tvm_sparse.formats.quantization import Quantization
from tvm_sparse.formats.words import WordForm
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.testing.models import write_onnx

UNITS = {
    "AMX": ("sapphirerapids", ("avx512_fp16", "amx_int8"), True),
    "VNNI": ("sapphirerapids", ("avx512_fp16", "avx512_vnni"), False),
    "AVX-512 VNNI": ("cascadelake", ("avx512_vnni",), False),
    "AVX-VNNI": ("x86-64-v3+vnni", ("avx_vnni",), False),
    "AVX-512": ("skylake-avx512", ("avx512bw",), False),
    "AVX2": ("x86-64-v3", ("avx2",), False),
}
"""The units that multiply integers on x86: a target that has one, what Linux calls what it needs,
and whether it is the matrix unit."""

QUANTIZATIONS = (
    Quantization(0.05, 100, 0, 255),
    Quantization(0.02, 0, -128, 127),
    Quantization(0.3, -128, -128, 127),
    Quantization(0.25, 101, 0, 255, tie=1),
)


def cpu_of(unit: str, cores: int = 2) -> CpuProfile | None:
    """Return a processor with a unit, or None if this machine cannot run its code."""
    target, flags, _ = UNITS[unit]
    if not set(flags) <= cpu_flags():
        return None
    return replace(profile(target), cores=cores)


def linear_sums(
    x: NDArray[Any], values: NDArray[np.int8], steps: Quantization
) -> NDArray[np.int64]:
    """Return the sums of a linear layer for panels ``[rows, K, lanes]``, exactly."""
    return np.einsum("nk,rkl->rnl", values.astype(np.int64), distances(x, steps))


def conv2d_sums(
    x: NDArray[Any], values: NDArray[np.int8], steps: Quantization, problem: Conv2d
) -> NDArray[np.int64]:
    """Return the sums of a convolution for panels, ``[N * Ho, Co, Wo]``, exactly."""
    top, left, bottom, right = problem.padding
    (kh, kw), (sh, sw), (dh, dw) = problem.kernel, problem.stride, problem.dilation
    image = distances(x, steps).reshape(problem.batch, problem.height, problem.channels, -1)
    image = image[..., : problem.width].transpose(0, 2, 1, 3)
    image = np.pad(image, ((0, 0), (0, 0), (top, bottom), (left, right)))
    sums = np.zeros(
        (problem.batch, problem.out_height, problem.out_channels, problem.out_width), np.int64
    )
    for i in range(kh):
        for j in range(kw):
            rows = image[:, :, i * dh :: sh][:, :, : problem.out_height]
            seen = rows[..., j * dw :: sw][..., : problem.out_width]
            sums += np.einsum("nc,bchw->bhnw", values[:, :, i, j].astype(np.int64), seen)
    return sums.reshape(-1, problem.out_channels, problem.out_width)


def distances(x: NDArray[Any], steps: Quantization) -> NDArray[np.int64]:
    """Return the distances of rounded values from zero, in steps."""
    return (steps.integers(x.astype(np.float32)) - steps.zero_point).astype(np.int64)


def words_of(
    x: NDArray[Any], steps: Quantization, form: WordForm
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Return panels ``[rows, K, lanes]`` as words, and the steps that an inference finds."""
    low = -128 if form.is_signed else 0
    integers = distances(x, steps)
    zero = 0 if form.per_word == 2 else steps.zero_point - steps.low + low
    rows, channels, lanes = integers.shape
    fill = np.zeros((rows, -channels % form.per_word, lanes), integers.dtype)
    whole = np.concatenate([integers, fill], axis=1) + zero
    kind = "<i2" if form.per_word == 2 else "<u1"
    groups = whole.reshape(rows, -1, form.per_word, lanes).transpose(0, 1, 3, 2)
    packed = np.ascontiguousarray(groups.astype(kind)).view("<u4")[..., 0]
    above = steps.zero_point - steps.low
    return packed, np.array([steps.scale, above], "float32")


def in_floats(sums: NDArray[np.int64], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the float32 values of sums ``[rows, N, lanes]``, as kernels compute them."""
    return sums.astype(np.float32) * scales[:, None]


def write_quantized(path: Path) -> Path:
    """Write a quantized model of convolutions and linear layers, as QDQ files have them.

    Two more layers, of which one is of a single row, have scales that an inference finds.
    """
    rng = np.random.default_rng(0)
    shapes = {"w0": (16, 3, 3, 3), "w1": (32, 16, 3, 3), "w2": (40, 32, 1, 1), "w3": (50, 256)}
    shapes["w4"] = (256, 256)
    weights: dict[str, NDArray[Any]] = {}
    nodes: list[NodeProto] = []

    def rounded(value: str, scale: float, zero_point: int) -> str:
        names = [f"{value}_scale", f"{value}_zero"]
        weights[names[0]] = np.array(scale, "float32")
        weights[names[1]] = np.array(zero_point, "uint8")
        nodes.append(make_node("QuantizeLinear", [value, *names], [f"{value}_q"]))
        nodes.append(make_node("DequantizeLinear", [f"{value}_q", *names], [f"{value}_f"]))
        return f"{value}_f"

    for name, shape in shapes.items():
        axis, fan_in = (1, shape[0]) if len(shape) == 2 else (0, int(np.prod(shape[1:])))
        weights[name] = rng.integers(-127, 128, shape).astype("int8")
        scale = rng.uniform(0.5, 1, shape[axis]) / 70 / np.sqrt(fan_in)
        if name == "w4":  # blocks of four inputs are zeros
            weights[name] *= np.repeat(rng.random((64, 256)) < 0.15, 4, axis=0)
        weights[f"{name}_scale"] = scale.astype("float32")
        weights[f"{name}_zero"] = np.zeros(shape[axis], "int8")
        operands = [name, f"{name}_scale", f"{name}_zero"]
        nodes.append(make_node("DequantizeLinear", operands, [f"{name}_f"], axis=axis))

    def dynamic(value: str, channels: int) -> str:
        named = [f"{value}_{name}" for name in ("bytes", "step", "offset", "sums", "factors")]
        integers, scale, zero, sums, factors = named
        weights[f"{value}_w"] = rng.integers(-127, 127, (256, channels)).astype("int8")
        weights[f"{value}_ws"] = rng.uniform(0.5, 1, channels).astype("float32") / 1000
        nodes.append(make_node("DynamicQuantizeLinear", [value], [integers, scale, zero]))
        nodes.append(make_node("MatMulInteger", [integers, f"{value}_w", zero], [sums]))
        nodes.append(make_node("Cast", [sums], [f"{sums}_f"], to=TensorProto.FLOAT))
        nodes.append(make_node("Mul", [scale, f"{value}_ws"], [factors]))
        nodes.append(make_node("Mul", [f"{sums}_f", factors], [f"{value}_product"]))
        return f"{value}_product"

    same = {"pads": [1, 1, 1, 1]}
    nodes.append(
        make_node("Conv", [rounded("x", 0.03, 128), "w0_f"], ["a"], strides=[2, 2], **same)
    )
    nodes.append(make_node("Relu", ["a"], ["b"]))
    nodes.append(make_node("Conv", [rounded("b", 0.02, 0), "w1_f"], ["c"], **same))
    nodes.append(make_node("Conv", [rounded("c", 0.02, 120), "w2_f"], ["y"]))
    nodes.append(make_node("MatMul", [rounded("t", 0.03, 100), "w3_f"], ["d"]))
    nodes.append(make_node("MatMul", [rounded("d", 0.02, 120), "w4_f"], ["z"]))
    nodes.append(make_node("ReduceMean", ["d"], ["mean"], axes=[1], keepdims=1))
    outputs = ["y", "z", dynamic("d", 40), dynamic("mean", 24)]
    return write_onnx(path, nodes, {"x": [1, 3, 30, 38], "t": [1, 64, 50]}, outputs, weights)
