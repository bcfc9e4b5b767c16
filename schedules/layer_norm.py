"""Layer normalization on row panels: every lane is normalized over the channels of its panel.

``y = (x - mean) / sqrt(variance + epsilon) * gamma + beta``, in three passes over a column of
lanes, which stays in the cache: mean; mean and variance of the distance to that mean; result. The
second pass takes back the rounding error of the first, so that a mean much larger than the
deviation costs no digits (Chan, Golub, LeVeque, Algorithms for Computing the Sample Variance, The
American Statistician 37, 1983: the corrected two-pass algorithm).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.schedules.buffers import Registers, argument
from tvm_sparse.schedules.buffers import vector as vector_at

if TYPE_CHECKING:
    from collections.abc import Callable

    import tvm
    from tvm.ir import Expr

    from tvm_sparse.targets import CpuProfile

LINE_LANES = 16
"""float32 values in a cache line of 64 bytes; threads should not share one."""
CHAINS = 8
"""Independent sums that hide the latency of an addition: 4 cycles, two additions a cycle."""


def layer_norm(
    rows: int, channels: int, lanes: int, epsilon: float, cpu: CpuProfile
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a layer normalization, parallel over rows and columns of lanes.

    Parameters
    ----------
    rows, channels, lanes : int
        Shape of the panels.
    epsilon : float
        Added to the variance.
    cpu : CpuProfile
        Gives the vector length.

    Returns
    -------
    PrimFunc
        ``(x [rows, channels, lanes], gamma [channels], beta [channels], y [rows, channels,
        lanes])``, float32.
    """
    vector = math.gcd(lanes, cpu.vector_lanes)
    column = math.gcd(lanes, max(LINE_LANES, vector))
    vectors, columns = column // vector, lanes // column
    unroll = min(max(CHAINS // vectors, 1), channels)

    def across(value: Expr) -> Expr:
        return T.Broadcast(value, vector)

    def averages(*terms: Callable[[Expr, int], Expr]) -> list[list[Expr]]:
        """Average each ``term(channel, v)`` over the channels, for every vector v of the column."""
        chains = [[Registers(unroll, vector) for _ in range(vectors)] for _ in terms]
        every = [
            (t, v, i) for i in range(unroll) for v in range(vectors) for t in range(len(terms))
        ]
        for t, v, i in every:
            chains[t][v][i] = across(T.float32(0))

        def add(first: Expr, count: int) -> None:
            for t, v, i in every:
                if i < count:
                    chains[t][v][i] = chains[t][v][i] + terms[t](first + i, v)

        with T.serial(T.int64(0), T.int64(channels // unroll)) as group:
            add(group * unroll, unroll)
        add(T.int64(channels - channels % unroll), channels % unroll)
        share = across(T.float32(1 / channels))
        return [
            [T.bind(_sum([chain[i] for i in range(unroll)]) * share) for chain in of_term]
            for of_term in chains
        ]

    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name("layer_norm")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x = argument("x", rows, channels, lanes)
        gamma = argument("gamma", channels)
        beta = argument("beta", channels)
        y = argument("y", rows, channels, lanes)
        with T.parallel(T.int64(0), T.int64(rows * columns)) as job, T.sblock("layer_norm"):
            row = T.axis.spatial(T.int64(rows), job // columns)
            first = T.axis.spatial(T.int64(columns), job % columns) * column
            T.reads(x[row, 0:channels, first : first + column], gamma[0:channels], beta[0:channels])
            T.writes(y[row, 0:channels, first : first + column])

            def place(channel: Expr, v: int) -> list[Expr]:
                return [row, channel, vector_at(first + v * vector, vector)]

            def value(channel: Expr, v: int) -> Expr:
                return x[tuple(place(channel, v))]

            def distance(channel: Expr, v: int) -> Expr:
                return value(channel, v) - mean[v]

            def squared(channel: Expr, v: int) -> Expr:
                d = T.bind(distance(channel, v))
                return d * d

            (mean,) = averages(value)
            shift, square = averages(distance, squared)
            scale = []
            for v in range(vectors):
                variance = square[v] - shift[v] * shift[v]
                deviation = T.sqrt(variance + across(T.float32(epsilon)))
                scale.append(T.bind(across(T.float32(1)) / deviation))
            with T.serial(T.int64(0), T.int64(channels)) as channel:
                for v in range(vectors):
                    normal = (distance(channel, v) - shift[v]) * scale[v]
                    result = normal * across(gamma[channel]) + across(beta[channel])
                    T.buffer_store(y, result, place(channel, v))
    return builder.get()


def _sum(values: list[Expr]) -> Expr:
    """Add up pairwise, which is a shorter chain and rounds less."""
    half = len(values) // 2
    return values[0] if not half else _sum(values[:half]) + _sum(values[half:])
