"""Candidates for the tests of the tuner, good and bad; built by name in other processes."""

import os
import signal
import time
from pathlib import Path

import tvm
from tvm import relax, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

SIZE = 4096


def build(library: Path, work: int, fault: str = "") -> None:
    """Write a library whose time grows with `work`, or that fails in some way."""
    if fault == "build crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "build hangs":
        time.sleep(1000)
    if fault == "build raises":
        raise ValueError("no such tile")
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((SIZE,), "float32"))
    with builder.function("main", [x]):
        kernel_var = builder.add_func(kernel(work, fault), "kernel")
        y = builder.emit(relax.call_tir(kernel_var, [x], x.ty))
        builder.emit_func_output(y)
    target = tvm.target.Target({"kind": "llvm"})
    tvm.compile(builder.get(), target=target).export_library(str(library))


def kernel(work: int, fault: str) -> tirx.PrimFunc:
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name("kernel")
        x = T.arg("x", T.buffer((SIZE,), "float32"))
        y = T.arg("y", T.buffer((SIZE,), "float32"))
        if fault == "crashes":
            T.evaluate(T.call_extern("void", "abort"))
        if fault == "hangs":
            T.evaluate(T.call_extern("int32", "pause"))
        with T.serial(SIZE) as i:
            T.buffer_store(y, x[i], [i])
        with T.serial(work) as _, T.serial(SIZE) as i:
            T.buffer_store(y, (y[i] + x[i]) * T.float32(0.5), [i])
        if fault == "is wrong":
            T.buffer_store(y, T.float32(100), [7])
    return builder.get()
