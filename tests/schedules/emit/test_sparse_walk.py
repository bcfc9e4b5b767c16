"""The inner loop of the sparse kernels with 128-bit vectors; the kernels test its x86 form."""

import re
from dataclasses import replace

import numpy as np
import pytest
from llvm_mca import inner_loop

from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.formats.sparse import PackedSparse, SparseTiling
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.sparse_linear import sparse_linear
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.testing.kernels import assembly, run_kernel
from tvm_sparse.testing.models import pruned
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.sparse_linear import SPARSE_LINEAR_FAMILY

PLAIN = Epilogue()


@pytest.mark.parametrize("group", [1, 4, 7])
def test_channels_are_loaded_together_in_any_number(group):
    cpu = replace(native(), vector_bits=128)
    tiling, rng = SparseTiling(group, 24), np.random.default_rng(0)
    weight = pruned(rng, (30, 40), 0.3)
    x = rng.standard_normal((2, 40, 8)).astype("float32")
    packed = PackedSparse.from_dense(weight, 8, tiling)
    arrays = (x, packed.indptr, packed.channels, packed.offsets, packed.values)
    y = run_kernel(sparse_linear(2, 8, 30, 40, tiling, PLAIN, cpu), arrays, (2, 30, 8), cpu)
    np.testing.assert_allclose(y, weight @ x, atol=1e-5)


@pytest.mark.parametrize("board", ["rpi3", "rpi4", "rpi5", "graviton2"])
def test_neon_multiplies_by_elements_without_spills(board):
    cpu = profile(board)
    lanes = cpu.panel_lanes(128)
    tiling = SPARSE_LINEAR_FAMILY.default(Layer(Linear(128 // lanes, lanes, 64, 256)), cpu)
    func = sparse_linear(128 // lanes, lanes, 64, 256, tiling, PLAIN, cpu)
    loop = inner_loop(assembly(func, cpu))
    sums = [line for line in loop if line.startswith("fmla")]
    assert all(re.search(r"\.s\[\d\]$", line) for line in sums)
    vectors = lanes // cpu.vector_lanes()
    per_step = len({line.split()[1] for line in sums})
    assert per_step == tiling.group * vectors >= 16
    # A step loads all offsets at once and all weights at once, and every input.
    steps = len(sums) // per_step
    scalar, rest = 2, [line for line in loop if re.match(r"ld1r|dup|prfm", line)]
    loads = sum(2 if line.startswith("ldp") else 1 for line in loop if line.startswith("ld"))
    assert loads == steps * (scalar * tiling.group // 4 + per_step)
    assert not rest
    assert not any("[sp" in line for line in loop)
