"""TVM folds the calls that read nothing but constants, and sees no others."""

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.passes.canonicalize import fold_constants
from tvm_sparse.passes.canonicalize.fold_constants import FoldConstants
from tvm_sparse.testing.models import dataflow

ROWS = np.arange(12, dtype="float32").reshape(3, 4)


def seen(mod, monkeypatch):
    """Return the module after the pass, and the modules that TVM's pass gets."""
    given, fold = [], relax.transform.FoldConstant
    monkeypatch.setattr(
        fold_constants.relax.transform,
        "FoldConstant",
        lambda: lambda part: given.append(part) or fold()(part),
    )
    return FoldConstants()(mod), given


def test_what_reads_an_input_stays_and_tvm_does_not_see_it(monkeypatch):
    mod = dataflow(lambda emit, x: emit(relax.op.add(x, emit(relax.op.exp(x)))), (3, 4))
    after, given = seen(mod, monkeypatch)
    assert not given
    tvm.ir.assert_structural_equal(after, relax.transform.CanonicalizeBindings()(mod))


def test_calls_of_constants_are_folded_and_no_others(monkeypatch):
    def network(emit, x):
        name = emit(relax.const(ROWS))
        known = emit(relax.op.square(emit(relax.op.abs(name))))
        return emit(relax.op.add(emit(relax.op.exp(x)), known))

    after, given = seen(dataflow(network, (3, 4)), monkeypatch)
    assert len(given) == 1 and "R.exp" not in given[0].script()
    after = relax.transform.DeadCodeElimination()(after)
    exp, add = after["main"].body.blocks[0].bindings
    assert exp.value.op.name == "relax.exp" and add.value.op.name == "relax.add"
    assert add.value.args[0] == exp.var
    np.testing.assert_array_equal(add.value.args[1].value.numpy(), ROWS**2)


def test_a_call_without_operands_is_folded(monkeypatch):
    def network(emit, x):
        return emit(relax.op.add(x, emit(relax.op.ones((3, 4), "float32"))))

    after, _ = seen(dataflow(network, (3, 4)), monkeypatch)
    assert "R.ones" not in after.script()
