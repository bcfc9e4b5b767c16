"""Blocks of memory whose bytes are powers of two."""

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.relax import transform

from tvm_sparse.cpu.profile import native
from tvm_sparse.passes.lower.machine_code import machine_code
from tvm_sparse.passes.lower.share_blocks import ShareBlocks


def sums(*shape):
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            doubled = builder.emit(relax.op.add(x, x))
            result = builder.emit_output(relax.op.multiply(doubled, x))
        builder.emit_func_output(result)
    return builder.get()


def blocks(mod):
    """Return the bytes of the storages of a module."""
    passes = [transform.LegalizeOps(), transform.ToNonDataflow(), transform.CallTIRRewrite()]
    passes += [transform.StaticPlanBlockMemory(), transform.LowerAllocTensor(), ShareBlocks()]
    found = []

    def visit(value):
        if getattr(getattr(value, "op", None), "name", "") == "relax.memory.alloc_storage":
            (size,) = value.args[0].values
            found.append(size)

    relax.analysis.post_order_visit(tvm.transform.Sequential(passes)(mod)["main"], visit)
    return found


@pytest.mark.parametrize(
    ("rows", "block"), [(1, 4096), (256, 4096), (257, 8192), (512, 8192), (3 << 20, 1 << 26)]
)
def test_a_size_of_run_time_takes_the_next_power_of_two(rows, block):
    n = tirx.Var("n", "int64")
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType([n, 4], "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.ShapeExpr(blocks(sums(n, 4)))))
    built = tvm.compile(builder.get(), native().to_target(), relax_pipeline="default_build")
    found = relax.VirtualMachine(built, tvm.cpu())["main"](tvm.runtime.empty((rows, 4), "float32"))
    assert set(found) == {block}


def test_a_known_size_stays():
    assert {int(size) for size in blocks(sums(300, 4))} == {4800}


def test_a_pool_keeps_blocks_for_all_sizes():
    n = tirx.Var("n", "int64")
    built = tvm.compile(tvm.transform.Sequential(machine_code())(sums(n, 4)), native().to_target())
    main = relax.VirtualMachine(built, tvm.cpu())["main"]
    for rows in (5, 1000, 3, 700):
        x = np.random.default_rng(0).standard_normal((rows, 4)).astype("float32")
        np.testing.assert_allclose(main(tvm.runtime.tensor(x)).numpy(), 2 * x * x, rtol=1e-6)
