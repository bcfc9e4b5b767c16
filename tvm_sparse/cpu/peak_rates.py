"""Measures this core's peak rates of float32 multiply-adds: the rooflines of every benchmark.

There are two of them. With all operands in registers, the rate is one that a dense kernel can come
close to. With one operand of each multiply-add from the L1 cache, it is the most that a
multiplication by unstructured non-zeros can do, because no two non-zeros share an input.
"""

from __future__ import annotations

import functools
import time

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.cpu.profile import CpuProfile, native

# Two units with a latency of four to five cycles need ten independent sums; twelve fit the sixteen
# registers of AVX2.
_SUMS = 12

# The operands from L1 are read in turn from 16 places, which take a quarter of L1 or less.
_PLACES = 16


@functools.cache
def fma_peak(cpu: CpuProfile | None = None, iterations: int = 200_000, repeats: int = 25) -> float:
    """Return the peak of one core in floating-point operations a second (two a multiply-add).

    Parameters
    ----------
    cpu : CpuProfile, optional
        Gives the instruction set, which this machine must have; by default, this machine's.
    iterations : int
        Length of the measured loop; each iteration does twelve vector multiply-adds.
    repeats : int
        Runs of the loop; the fastest counts.
    """
    return _measure(cpu or native(), iterations, repeats, places=1)


@functools.cache
def l1_fma_peak(
    cpu: CpuProfile | None = None, iterations: int = 200_000, repeats: int = 25
) -> float:
    """Return the peak where each multiply-add reads a vector from L1; see `fma_peak`."""
    return _measure(cpu or native(), iterations, repeats, places=_PLACES)


def _measure(cpu: CpuProfile, iterations: int, repeats: int, places: int) -> float:
    module = tvm.IRModule({"multiply_adds": _probe(cpu, iterations, places)})
    function = tvm.compile(module, target=cpu.to_target())["multiply_adds"]
    size = _SUMS * cpu.vector_lanes()
    operands = tvm.runtime.tensor(np.full(places * size, 0.5, np.float32))
    sums = tvm.runtime.tensor(np.zeros(size, np.float32))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        function(operands, sums)
        best = min(best, time.perf_counter() - start)
    return 2.0 * iterations * size / best


def _probe(cpu: CpuProfile, iterations: int, places: int) -> tvm.tirx.PrimFunc:
    """Return ``for i: sums[j] += y * operands[i % places, j]`` with every sum in a register.

    With one place, the operand is in a register too.
    """
    lanes = cpu.vector_lanes()
    size = _SUMS * lanes
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("multiply_adds")
        T.func_attr({"tirx.noalias": True})
        operands = T.arg("operands", T.buffer((places * size,), "float32"))
        result = T.arg("result", T.buffer((size,), "float32"))
        with T.sblock("multiply_adds"):
            T.reads(operands[0 : places * size])
            T.writes(result[0:size])
            sums = [T.sblock_alloc_buffer((lanes,), "float32") for _ in range(_SUMS)]
            every = T.Ramp(0, 1, lanes)
            y = T.bind(operands[every])
            for index, total in enumerate(sums):
                T.buffer_store(total, T.Broadcast(T.float32(index), lanes), [every])
            with T.serial(T.int64(0), T.int64(iterations)) as i:
                place = T.bind(T.bitwise_and(i, T.int64(places - 1)) * size)
                for index, total in enumerate(sums):
                    if places == 1:
                        value = total[every] * y + y
                    else:
                        x = operands[T.Ramp(place + index * lanes, T.int64(1), lanes)]
                        value = total[every] + y * x
                    T.buffer_store(total, value, [every])
            for index, total in enumerate(sums):
                T.buffer_store(result, total[every], [T.Ramp(index * lanes, 1, lanes)])
    return builder.get()
