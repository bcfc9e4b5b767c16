from __future__ import annotations

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm.script import ir as I
from tvm.script import tirx as T

from tvm_sparse.building import build
from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.passes.lower.accept_unaligned import AcceptUnaligned
from tvm_sparse.schedules import ImageToPanels, kernel
from tvm_sparse.testing.images import image_panels
from tvm_sparse.testing.kernels import assembly, at_offset


@I.ir_module
class Before:
    @T.prim_func(s_tir=True)
    def main(x: T.Buffer((8,), "float32"), n: T.Buffer((8,), "int64")):
        for i in T.serial(8):
            with T.sblock("block"):
                at = T.axis.spatial(8, i)
                n[at] = T.Cast("int64", x[at])


@I.ir_module
class Expected:
    @T.prim_func(s_tir=True)
    def main(x: T.Buffer((8,), "float32", align=4), n: T.Buffer((8,), "int64", align=8)):
        for i in T.serial(8):
            with T.sblock("block"):
                at = T.axis.spatial(8, i)
                n[at] = T.Cast("int64", x[at])


def test_elements_give_the_alignment():
    tvm.ir.assert_structural_equal(AcceptUnaligned()(Before), Expected)


def image_kernel(cpu):
    func = kernel(ImageToPanels(2, 3, 5, 40, cpu.image_lanes(40), cpu))
    return AcceptUnaligned()(tvm.IRModule({"main": func.with_attr("global_symbol", "main")}))


@pytest.mark.parametrize("offset", [1, 4, 15])
def test_arrays_at_any_address(offset):
    cpu = native()
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 40)).astype("float32")
    moved = at_offset(x, 4 * offset)
    want = image_panels(x, cpu.image_lanes(40))
    y = tvm.runtime.tensor(np.zeros_like(want))
    build(image_kernel(cpu), cpu.to_target())["main"](tvm_ffi.from_dlpack(moved), y)
    np.testing.assert_array_equal(y.numpy(), want)


def test_vectors_stay_as_long():
    cpu = profile("skylake-avx512")
    assert "%zmm" in assembly(image_kernel(cpu)["main"], cpu)
