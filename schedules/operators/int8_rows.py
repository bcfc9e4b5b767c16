"""Quantized linear layers on a few rows: the output channels lie in the lanes of the vectors.

The loops::

    for tile of output channels, in parallel: for rows that fit in registers:
        sums = 0
        for word: sums += dot products of the word of each row and a vector of words of the weight
        y[rows, tile] = act((sums - corrections * zero) * (scales * scale) + bias + residual)

The last tile overlaps the one before it, so that all vectors are whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.rows import tile_channels
from tvm_sparse.formats.words import as_words
from tvm_sparse.schedules.emit.buffers import argument, vector, whole
from tvm_sparse.schedules.emit.dot_product import SumRegisters, add_dot_products
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.run_time_words import RunTimeSteps
from tvm_sparse.schedules.emit.tiles import each_tile
from tvm_sparse.tilings.integers import dots_of, word_form

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.sizes.linear import Linear
    from tvm_sparse.tilings.int8_rows import Int8RowTiling


def pack_int8_rows(
    values: NDArray[np.int8], tiling: Int8RowTiling, cpu: CpuProfile
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return a weight ``[N, K]`` as ``[tiles, words, channels]``, and the corrections ``[N]``.

    An inference multiplies the corrections by the byte that stands for zero.
    """
    words = as_words(values.astype(np.int8 if dots_of(cpu).per_word == 4 else np.int16))
    tiles = words[tile_channels(len(words), tiling.units)].transpose(0, 2, 1)
    return np.ascontiguousarray(tiles), values.sum(axis=1, dtype=np.int64).astype(np.int32)


def int8_row_linear(
    problem: Linear, tiling: Int8RowTiling, epilogue: Epilogue, cpu: CpuProfile
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a quantized layer.

    Parameters
    ----------
    problem : Linear
        The sizes; the panels have one lane.
    tiling : Int8RowTiling
        How output channels and rows are cut.
    epilogue : Epilogue
        The operators that follow the product.
    cpu : CpuProfile
        Gives the instruction.

    Returns
    -------
    PrimFunc
        ``(x [rows, words], weight, scales [N], corrections [N], run_time_steps [2], [bias [N]],
        [residual [rows, N]], y [rows, N])``; weight and corrections from `pack_int8_rows`, and all
        others float32 but the words, which are uint32.
    """
    rows, n, tiles, units = problem.rows, problem.n, tiling.tiles(problem.n), tiling.units
    form, jobs = word_form(cpu), tiling.jobs
    words = form.words(problem.k)
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name("int8_row_linear")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        shapes: dict[str, tuple[Sequence[int], str]] = {
            "x": ((rows, words), DType.WORDS),
            "weight": ((tiles, words, units), "int32"),
            "scales": ((n,), DType.FLOAT32),
            "corrections": ((n,), "int32"),
            "run_time_steps": ((2,), DType.FLOAT32),
        }
        given = {
            name: argument(name, *shape, dtype=dtype) for name, (shape, dtype) in shapes.items()
        }
        read: list[tuple[Expr, Sequence[int | Expr]]]
        read = [(given[name], shape) for name, (shape, _) in shapes.items()]
        bias, residual = epilogue.declare(rows, n, read)
        y = argument("y", rows, n)
        loop = T.parallel if jobs > 1 else T.serial
        with loop(T.int64(0), T.int64(jobs)) as i, T.sblock("int8_row_linear"):
            job = T.axis.spatial(T.int64(jobs), i)
            T.reads(*(whole(*operand) for operand in read))
            T.writes(whole(y, (rows, n)))
            steps = RunTimeSteps(given["run_time_steps"], form)
            sums = SumRegisters(tiling.rows * tiling.vectors, tiling.width)
            first, end = (T.bind((job + i) * tiles // jobs) for i in range(2))
            with T.serial(T.int64(0), end - first) as ahead:
                tile = T.bind(first + ahead)
                channel = T.bind(T.min(tile * units, T.int64(n - units)))

                def visit(first: Expr, count: int) -> None:
                    visited = [T.bind(first + r) for r in range(count)]
                    _multiply(given, words, tiling, cpu, tile, visited, sums)
                    for i in range(count * tiling.vectors):
                        row, v = visited[i // tiling.vectors], i % tiling.vectors
                        place = vector(channel + v * tiling.width, tiling.width)
                        value = _in_floats(given, steps, sums[i], place)
                        if bias is not None:
                            value = value + bias[place]
                        if residual is not None:
                            value = value + residual[row, place]
                        T.buffer_store(y, epilogue.activate(T.bind(value)), [row, place])

                each_tile(rows, tiling.rows, visit)
    return builder.get()


def _multiply(
    given: dict[str, Expr],
    words: int,
    tiling: Int8RowTiling,
    cpu: CpuProfile,
    tile: Expr,
    rows: Sequence[Expr],
    sums: SumRegisters,
) -> None:
    """Sum up the products of some rows and the weight of a tile, row by row."""
    width, vectors, dots = tiling.width, tiling.vectors, dots_of(cpu)
    for i in range(len(rows) * vectors):
        sums[i] = T.Broadcast(T.int32(0), width)
    with T.serial(T.int64(0), T.int64(words)) as word:
        held = [T.bind(T.Broadcast(given["x"][row, word], width)) for row in rows]
        for v in range(vectors):
            weight = T.bind(given["weight"][tile, word, vector(T.int64(v * width), width)])
            for r, x in enumerate(held):
                i = r * vectors + v
                sums[i] = add_dot_products(dots, sums[i], x, weight)


def _in_floats(given: dict[str, Expr], steps: RunTimeSteps, sums: Expr, place: Expr) -> Expr:
    """Return sums of integers as the float32 values that they stand for."""
    lanes = sums.ty.dtype.lanes
    exact = sums - given["corrections"][place] * T.Broadcast(steps.zero, lanes)
    scale = given["scales"][place] * T.Broadcast(steps.scale, lanes)
    return T.Cast(f"float32x{lanes}", exact) * scale
