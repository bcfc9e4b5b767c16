"""Rounding of panels to words of integers, with a scale and a zero point of run time.

The loops::

    for row of panels, part of its words:       # in parallel
        for word:
            y[row, word, :] = integers of some neighbouring channels, side by side
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.words import WordForm
from tvm_sparse.schedules.emit.buffers import (
    argument,
    filled,
    job_loop,
    opaque,
    vector,
    whole,
)
from tvm_sparse.schedules.emit.run_time_words import LEAST_SCALE, RunTimeIntegers, RunTimeSteps
from tvm_sparse.schedules.emit.sizes import declare, named, size
from tvm_sparse.sizes.extent import Extent
from tvm_sparse.sizes.tensor import Tensor

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr

LEAST_WORDS = 16
"""Fewest words of a part of a row."""


def quantize_words(
    source: Tensor, form: WordForm, covers: bool, cpu: CpuProfile
) -> tvm.tirx.PrimFunc:
    """Build the function that rounds panels.

    Parameters
    ----------
    source : Tensor
        The panels, of one image.
    form : WordForm
        What words look like.
    covers : bool
        Whether the steps reach from the least value to the largest one.
    cpu : CpuProfile
        Gives the number of cores.

    Returns
    -------
    PrimFunc
        ``(x [rows, channels, lanes], steps [2], y [rows, words, lanes])``; y is uint32.
    """
    channels, lanes, count = source.channels, source.lanes, form.words(source.channels)
    rows = source.rows
    parts = 1
    if not isinstance(rows, Extent) and rows % cpu.cores:
        parts = max(1, min(cpu.cores, count // LEAST_WORDS))
    share = -(-count // parts)
    with (
        named((rows,)) as variables,
        IRBuilder() as builder,
        T.prim_func(s_tir=True, private=True),
    ):
        T.func_name("quantize_words")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        extent = size(rows)
        x = argument("x", extent, channels, lanes, dtype=source.dtype)
        given = argument("steps", 2)
        declare(variables)
        y = argument("y", extent, count, lanes, dtype=DType.WORDS)
        elements = rows if isinstance(rows, Extent) else source.elements
        with job_loop(extent * parts, elements) as job, T.sblock("quantize_words"):
            row = T.axis.spatial(extent, job // parts)
            part = T.axis.spatial(T.int64(parts), job % parts)
            T.reads(whole(x, (extent, channels, lanes)), whole(given, (2,)))
            T.writes(whole(y, (extent, count, lanes)))
            steps = RunTimeSteps(given, form)

            def round_word(words: RunTimeIntegers, word: Expr, held: int) -> None:
                for lane, width in words.pieces(lanes):
                    at = vector(T.int64(lane), width)
                    values = [x[row, word * form.per_word + i, at] for i in range(held)]
                    zeros = [filled(0, width, source.dtype)] * (form.per_word - held)
                    (found,) = words.of([*values, *zeros])
                    T.buffer_store(y, found, [row, word, at])

            full, rest = divmod(channels, form.per_word)
            first = T.bind(part * share)
            end = opaque(T.min(first + share, T.int64(full)))

            def round_part(divides: bool) -> None:
                words = RunTimeIntegers(steps, divides=divides)
                with T.serial(T.int64(0), T.int64(share)) as i, T.If(first + i < end), T.Then():
                    round_word(words, T.bind(first + i), form.per_word)
                if rest:
                    with T.If(T.EQ(part, T.int64(parts - 1))), T.Then():
                        round_word(words, T.int64(full), rest)

            if covers:
                with T.If(steps.scale < LEAST_SCALE):
                    with T.Then():
                        round_part(divides=True)
                    with T.Else():
                        round_part(divides=False)
            else:
                round_part(divides=True)
    return builder.get()
