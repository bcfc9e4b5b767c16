"""Measures this core's peak rate of float32 multiply-adds: the roofline of every benchmark."""

from __future__ import annotations

import functools
import time

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.targets import CpuProfile, native

# Two units times a latency of four to five cycles want ten independent sums; twelve fit the
# sixteen registers of AVX2.
_SUMS = 12


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
    cpu = cpu or native()
    function = tvm.compile(
        tvm.IRModule({"multiply_adds": _probe(cpu, iterations)}), target=cpu.to_target()
    )["multiply_adds"]
    operands = tvm.runtime.tensor(np.full(2 * cpu.vector_lanes, 0.5, np.float32))
    sums = tvm.runtime.tensor(np.zeros(_SUMS * cpu.vector_lanes, np.float32))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        function(operands, sums)
        best = min(best, time.perf_counter() - start)
    return 2.0 * iterations * _SUMS * cpu.vector_lanes / best


def _probe(cpu: CpuProfile, iterations: int) -> tvm.tirx.PrimFunc:
    """Return ``for i: sums[j] = sums[j] * x + y`` with every sum in a register."""
    lanes = cpu.vector_lanes
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("multiply_adds")
        T.func_attr({"tirx.noalias": True})
        operands = T.arg("operands", T.buffer((2 * lanes,), "float32"))
        result = T.arg("result", T.buffer((_SUMS * lanes,), "float32"))
        with T.sblock("multiply_adds"):
            T.reads(operands[0 : 2 * lanes])
            T.writes(result[0 : _SUMS * lanes])
            sums = [T.sblock_alloc_buffer((lanes,), "float32") for _ in range(_SUMS)]
            every = T.Ramp(0, 1, lanes)
            x = T.bind(operands[every])
            y = T.bind(operands[T.Ramp(lanes, 1, lanes)])
            for index, total in enumerate(sums):
                T.buffer_store(total, T.Broadcast(T.float32(index), lanes), [every])
            with T.serial(iterations):
                for total in sums:
                    T.buffer_store(total, total[every] * x + y, [every])
            for index, total in enumerate(sums):
                T.buffer_store(result, total[every], [T.Ramp(index * lanes, 1, lanes)])
    return builder.get()
