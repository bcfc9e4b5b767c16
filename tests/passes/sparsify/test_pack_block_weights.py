"""Layers of few bits: which keep their bits, and which become floats."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_sparse.cpu.profile import profile
from tvm_sparse.layer_report import EXPANDED
from tvm_sparse.passes import ExpandBlocks, PackBlockWeights, pipeline
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.sparsify import pack_block_weights
from tvm_sparse.passes.sparsify.decisions import LAYERS
from tvm_sparse.passes.sparsify.measure_sparsity import WEIGHTS
from tvm_sparse.passes.sparsify.pack_block_weights import best_packed
from tvm_sparse.sizes.block_linear import BlockLinear
from tvm_sparse.testing.few_bits import random_codes, two_of_four

CPU = profile("haswell")


def calls_of(mod):
    """Return the calls of the function `main` in order."""
    bindings = (b for block in mod["main"].body.blocks for b in block.bindings)
    return [b.value for b in bindings if isinstance(b.value, relax.Call)]


def network(rows, weight, activations="int8"):
    x = relax.Var("x", relax.TensorType([*rows, weight.shape[1]], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(operators.block_matmul(x, weight, activations), "proj")
            y = builder.emit(relax.op.add(y, relax.const(np.ones(weight.shape[0], "float32"))))
            y = builder.emit_output(relax.op.nn.relu(y))
        builder.emit_func_output(y)
    return builder.get()


@pytest.mark.parametrize("rows", [(1,), (16,), (2, 3)])
def test_few_rows_keep_the_bits_and_get_an_epilogue(rows):
    weight = random_codes(64, 96, 4, 32, density=0.4)
    found = pipeline.front(network(rows, weight), CPU).mod
    assert EXPANDED not in (found.attrs or {})
    (call,) = [c for c in calls_of(found) if c.op.name in operators.ROW_KERNELS]
    assert call.attrs["bias"] and call.attrs["activation"] == "relu"
    (measured,), (decision,) = found.attrs[WEIGHTS], found.attrs[LAYERS]
    assert str(measured["layer"]) == str(decision["layer"]) == "proj"
    assert float(measured["density"]) == float(decision["density"]) == weight.density
    assert str(decision["precision"]) == "int8"


WEIGHTS_OF = {
    "block_row_linear": random_codes(40, 96, 4, 32),
    "block_row_linear_with_zeros": random_codes(40, 96, 4, 32, is_symmetric=False),
    "sparse_pair_row_linear": two_of_four(random_codes(40, 256, 4, 128)),
    "sparse_window_row_linear": random_codes(40, 256, 4, 128, density=0.25),
    "sparse_bitmap_row_linear": random_codes(40, 256, 4, 128, density=0.5),
}


@pytest.mark.parametrize("kernel", WEIGHTS_OF)
def test_the_packed_weight_does_not_depend_on_the_rows(kernel):
    weight, packed = WEIGHTS_OF[kernel], []
    cpu = profile("icelake-server") if "bitmap" in kernel else CPU
    for rows in (1, 4, 16):
        found = pipeline.front(network((rows,), weight), cpu).mod
        (call,) = [c for c in calls_of(found) if c.op.name in operators.ROW_KERNELS]
        assert call.op.name == f"relax.tvm_sparse.{kernel}"
        constants = [arg for arg in call.args if not isinstance(arg, relax.Var)]
        packed.append([arg.value.numpy().tobytes() for arg in constants[:-1]])
    assert packed[0] == packed[1] == packed[2]


@pytest.mark.parametrize(
    ("rows", "weight", "cpu", "reason"),
    [
        ((17,), random_codes(32, 64, 4, 32), CPU, "up to 16 rows, not 17"),
        ((1,), random_codes(32, 64, 4, 12), CPU, "a multiple of 8"),
        ((1,), random_codes(32, 64, 4, 32), profile("rpi4"), "need AVX2"),
        ((tvm.tirx.Var("n", "int64"),), random_codes(32, 64, 4, 32), CPU, "at run time only"),
    ],
)
def test_other_layers_are_products_of_floats(rows, weight, cpu, reason, caplog):
    with caplog.at_level(logging.WARNING, logger="tvm_sparse"):
        found = ExpandBlocks(cpu)(network(rows, weight))
    first = next(iter(calls_of(found)))
    assert first.op.name == "relax.matmul"
    np.testing.assert_array_equal(first.args[1].value.numpy(), weight.to_dense().T)
    assert reason in str(found.attrs[EXPANDED]["proj"])
    assert bool(caplog.messages) == (reason in ("need AVX2", "a multiple of 8"))
    unchanged = PackBlockWeights(replace(cpu, cores=2))(found)
    assert not unchanged.attrs[LAYERS]


def test_functions_of_a_decoder_pack_a_weight_once(monkeypatch):
    """Inside of `packing_once`, equal weights are packed once, whatever the rows."""
    packs = []
    pack = pack_block_weights._best_packed
    monkeypatch.setattr(
        pack_block_weights,
        "_best_packed",
        lambda weight, *others: packs.append(weight) or pack(weight, *others),
    )
    weight, other = random_codes(32, 64, 4, 32), random_codes(32, 64, 4, 32, seed=1)
    problem = BlockLinear(1, 32, 64, 4, 32)
    with pack_block_weights.packing_once():
        one, first = best_packed(weight, problem, CPU)
        four, again = best_packed(weight, replace(problem, rows=4), CPU)
        best_packed(other, problem, CPU)
    assert again is first
    assert four == replace(one, rows=4)
    assert len(packs) == 2
    best_packed(weight, problem, CPU)
    best_packed(weight, problem, CPU)
    assert len(packs) == 4
