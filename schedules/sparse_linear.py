"""Sparse linear layer on panels: ``y[r, n, :] = act(sum_k w[n, k] x[r, k, :] + ...)``.

The loops::

    for row, chunk in parallel:          # a panel of lanes, a chunk of output channels
        for k_block:                     # its part of the panel stays in L1
            for group:                   # R output channels
                for piece of the lanes:  # V vectors; all of them if the registers suffice
                    R x V accumulators = bias (first K block) or the partial sums in y
                    for step:            # the R channels walk their own non-zeros side by side
                        R times: load offset and weight; V times: multiply-add from the panel
                    y = accumulators, in the last K block after residual and activation

Rows are outermost, so that a thread works on the same rows in all layers of a network and finds
their activations in its own cache; that was worth more than reading only a share of the weights
(12 layers of 768 x 768 with 95 % zeros on two threads: 0.51 against 0.82 ms).

Side by side, because a multiply-add has a latency of 4 cycles and two can start in each: fewer
than 8 independent accumulators leave the units idle.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.formats import OFFSET_UNIT, SparseLayout, SparseTiling
from tvm_sparse.schedules.buffers import Registers, argument, flat, prefetch, vector
from tvm_sparse.schedules.epilogue import Epilogue
from tvm_sparse.targets import CpuProfile

if TYPE_CHECKING:
    from tvm.ir import Expr

PREFETCH_DISTANCE = 512
"""Slots by which weights are asked for ahead of their use. They are read once per row of
activations and come from the L2 or L3 cache; without the hint, 80 % zeros cost 10 % more time."""


def sparse_linear(
    rows: int,
    lanes: int,
    n: int,
    k: int,
    tiling: SparseTiling,
    epilogue: Epilogue,
    cpu: CpuProfile,
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a sparse linear layer.

    It does not depend on where the non-zeros are, nor on how many there are, so layers of one
    shape and tiling share it.

    Parameters
    ----------
    rows, lanes : int
        Rows (panels) of the activations, and lanes of a row.
    n, k : int
        Output and input channels.
    tiling : SparseTiling
        How the weight was packed.
    epilogue : Epilogue
        Which of bias, residual and activation follow the product.
    cpu : CpuProfile
        Gives the vector length, which must divide the lanes.

    Returns
    -------
    PrimFunc
        ``(x [rows, K, lanes], indptr, channels, offsets, values, [bias [N]],
        [residual [rows, N, lanes]], y [rows, N, lanes])``, activations float32, the weight's
        arrays as in `PackedSparse`.
    """
    layout = SparseLayout(n, k, lanes, tiling)
    width = cpu.vector_lanes
    if lanes % width:
        raise ValueError(f"{lanes} lanes are not a multiple of the vector length {width}")
    group, chunk_channels = tiling.group, layout.chunk_channels
    # Besides the accumulators, registers hold a weight and, without memory operands, an input.
    pieces = -(-lanes // width * group // (cpu.vector_registers - 2))
    most_vectors = -(-lanes // width // pieces)
    slots = tvm.tirx.Var("slots", "int64")

    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name("sparse_linear")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x = argument("x", rows, k, lanes)
        indptr = argument("indptr", layout.groups + 1, dtype="int32")
        channels = argument("channels", layout.groups * group, dtype="int32")
        offsets = argument("offsets", slots, dtype="uint16")
        values = argument("values", slots)
        bias = argument("bias", n) if epilogue.bias else None
        residual = argument("residual", rows, n, lanes) if epilogue.residual else None
        y = argument("y", rows, n, lanes)

        def visit_group(k_block: Expr, g: Expr, is_first: bool, is_last: bool) -> None:
            index = T.bind((chunk * layout.k_blocks + k_block) * layout.chunk_groups + g)
            begin = T.bind(T.Cast("int64", indptr[index]))
            steps = T.bind(T.Cast("int64", indptr[index + 1]) - begin)
            positions = flat(offsets[begin * group], slots, "uint16")
            weights = flat(values[begin * group], slots)
            channel = [T.bind(T.Cast("int64", channels[index * group + r])) for r in range(group)]
            for first_vector in range(0, lanes // width, most_vectors):
                vectors = min(most_vectors, lanes // width - first_vector)
                panel = flat(x[row, k_block * tiling.k_block, first_vector * width], k * lanes)
                out = flat(y[row, 0, first_vector * width], n * lanes)
                places = [
                    vector(channel[r] * lanes + v * width, width)
                    for r in range(group)
                    for v in range(vectors)
                ]
                for i, place in enumerate(places):
                    if not is_first:
                        acc[i] = out[place]
                    elif bias is not None:
                        acc[i] = T.Broadcast(bias[channel[i // vectors]], width)
                    else:
                        acc[i] = T.Broadcast(T.float32(0), width)
                with T.serial(T.int64(0), steps) as step:
                    ahead = step * group + PREFETCH_DISTANCE
                    prefetch(positions[ahead])
                    prefetch(weights[ahead])
                    for r in range(group):
                        offset = T.bind(T.Cast("int64", positions[step * group + r]) * OFFSET_UNIT)
                        weight = T.bind(T.Broadcast(weights[step * group + r], width))
                        for v in range(vectors):
                            i = r * vectors + v
                            acc[i] = acc[i] + weight * panel[vector(offset + v * width, width)]
                if is_last and residual is not None:
                    added = flat(residual[row, 0, first_vector * width], n * lanes)
                    for i, place in enumerate(places):
                        acc[i] = acc[i] + added[place]
                for i, place in enumerate(places):
                    value = epilogue.activate(T.bind(acc[i])) if is_last else acc[i]
                    T.buffer_store(out, value, [place])

        jobs = T.parallel(T.int64(0), T.int64(tiling.chunks * rows))
        with jobs as job, T.sblock("sparse_linear"):
            row = T.axis.spatial(T.int64(rows), job // tiling.chunks)
            chunk = T.axis.spatial(T.int64(tiling.chunks), job % tiling.chunks)
            outputs = slice(chunk * chunk_channels, chunk * chunk_channels + chunk_channels)
            T.reads(
                x[row, 0:k, 0:lanes],
                indptr[0 : layout.groups + 1],
                channels[0 : layout.groups * group],
                offsets[0:slots],
                values[0:slots],
                *([] if bias is None else [bias[0:n]]),
                *([] if residual is None else [residual[row, outputs, 0:lanes]]),
            )
            T.writes(y[row, outputs, 0:lanes])
            acc = Registers(group * most_vectors, width)
            for first, end in _peel_ends(layout.k_blocks):
                blocks = T.serial(T.int64(first), T.int64(end))
                groups = T.serial(T.int64(0), T.int64(layout.chunk_groups))
                with blocks as k_block, groups as g:
                    visit_group(k_block, g, is_first=first == 0, is_last=end == layout.k_blocks)
    return builder.get()


def _peel_ends(count: int) -> list[tuple[int, int]]:
    """Split ``range(count)`` so that its first and its last element stand alone."""
    cuts = sorted({0, 1, max(count - 1, 1), count})
    return list(itertools.pairwise(cuts))
