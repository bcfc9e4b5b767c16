"""Quantized layers for tests: their arrays, and their results in integers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.cpu.profile import CpuProfile, profile
from tvm_sparse.cpu.this_machine import cpu_flags
from tvm_sparse.formats.quantization import Quantization
from tvm_sparse.sizes.conv2d import Conv2d

UNITS = {
    "AMX": ("sapphirerapids", ("avx512_fp16", "amx_int8"), True),
    "VNNI": ("sapphirerapids", ("avx512_fp16", "avx512_vnni"), False),
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


def in_floats(sums: NDArray[np.int64], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the float32 values of sums ``[rows, N, lanes]``, as kernels compute them."""
    return sums.astype(np.float32) * scales[:, None]
