"""A module is compiled in parts, by several threads, to the library that one thread makes."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_sparse import building, compiling
from tvm_sparse.building import PARTS, build, parts_of
from tvm_sparse.cpu.profile import native
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.lower.trust_arguments import TRUSTED
from tvm_sparse.testing.models import dataflow


def layers(count: int) -> tvm.IRModule:
    """Return a network of matrix products of different sizes, so that each has a kernel."""
    weights = [np.full((4 + i, 5 + i), 1 / (4 + i), "float32") for i in range(count)]

    def network(emit, x):
        for weight in weights:
            x = emit(relax.op.matmul(x, relax.const(weight)))
        return x

    return dataflow(network, (4, 4))


@pytest.fixture
def lowered():
    """The PrimFuncs of a network of twelve layers."""
    with native().to_target():
        mod = pipeline.pipeline(columns="off")(layers(12))
    return tvm.IRModule(
        {gvar: f for gvar, f in mod.functions_items() if isinstance(f, tvm.tirx.PrimFunc)}
    )


def test_parts_hold_every_function_once_on_any_machine(lowered, monkeypatch):
    parts = parts_of(lowered)
    names = [gvar.name_hint for part in parts for gvar in part.get_global_vars()]
    assert sorted(names) == sorted(gvar.name_hint for gvar in lowered.get_global_vars())
    assert 1 < len(parts) <= 2 * PARTS
    for part in parts:
        assert len({bool(f.attrs.get(TRUSTED, False)) for f in part.functions.values()}) == 1
    monkeypatch.setattr(compiling.os, "sched_getaffinity", lambda _: {0})
    for part, alone in zip(parts, parts_of(lowered), strict=True):
        tvm.ir.assert_structural_equal(part, alone)


def test_any_number_of_threads_makes_the_same_code(monkeypatch):
    found = []
    for cores in (1, 3):

        def compiled(function, parts, cores=cores):
            monkeypatch.setattr(compiling.os, "sched_getaffinity", lambda _: set(range(cores)))
            libraries = compiling.on_all_cores(function, parts)
            found.append([library.inspect_source("s") for library in libraries])
            return libraries

        monkeypatch.setattr(building, "on_all_cores", compiled)
        executable = build(layers(12), native().to_target(), pipeline.pipeline(columns="off"))
        machine = relax.VirtualMachine(executable, tvm.cpu())
        result = machine["main"](tvm.runtime.tensor(np.ones((4, 4), "float32"))).numpy()
        np.testing.assert_allclose(result, 1, rtol=1e-5)
    assert found[0] == found[1] and len(found[0]) > 1


def test_an_error_of_a_thread_is_raised():
    with pytest.raises(ZeroDivisionError):
        compiling.on_all_cores(lambda x: 1 // x, [1, 0, 1])
