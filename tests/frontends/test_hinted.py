"""Models at the sizes that are planned for: what analyses and tunings take."""

import pytest

from tvm_sparse.cpu.profile import native
from tvm_sparse.errors import InputError
from tvm_sparse.frontends.hinted import at_hints
from tvm_sparse.frontends.load import import_module, names_in
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.ir.shapes import planned_for
from tvm_sparse.passes.sparsify.constant_layers import constant_layers
from tvm_sparse.passes.sparsify.token_network import token_network
from tvm_sparse.records.best import RecordedPlans
from tvm_sparse.records.keys import layer_key, network_key
from tvm_sparse.report.analysis import analyze
from tvm_sparse.testing.models import write_mlp


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    return write_mlp(tmp_path_factory.mktemp("hinted") / "mlp.onnx")


def test_open_dimensions_get_their_hints(mlp):
    found = at_hints(mlp, None, {"tokens": (20, 50)})
    assert found.sizes == {"batch": 1, "tokens": 20}
    assert found.shapes == {"x": (1, 20, 32)}
    assert "batch = 1, tokens = 20" in str(found)
    found = at_hints(mlp, {"x": ("n", 7, 32)}, None)
    assert found.shapes == {"x": (1, 7, 32)}
    found = at_hints(mlp, {"x": (2, 7, 32)}, None)
    assert (found.sizes, str(found)) == ({}, "")


def test_variables_of_a_module_get_their_hints(mlp):
    named = {"x": ("batch", "tokens", 32)}
    mod = import_module(mlp, named=named).mod
    found = at_hints(mod, None, {"tokens": 20})
    assert found.sizes == {"batch": 1, "tokens": 20}
    assert import_module(found.model).inputs[0].shape == (1, 20, 32)


def test_unknown_names(mlp):
    with pytest.raises(InputError, match="names 'length', which is no dimension"):
        at_hints(mlp, None, {"length": 20})
    with pytest.raises(InputError, match="all of them are fixed"):
        at_hints(mlp, {"x": (2, 7, 32)}, {"tokens": 20})


def test_an_analysis_says_its_sizes(mlp):
    found = analyze(mlp, hints={"tokens": 20}, records=RecordedPlans(), threads=1)
    assert "tokens = 20" in found.planned_for
    assert found.to_json()["planned_for"] == found.planned_for
    assert len(found.layers) == 2 and found.layers[1].density < 0.2
    assert analyze(mlp, {"x": (1, 7, 32)}, records=RecordedPlans(), threads=1).planned_for == ""


def test_a_library_for_any_sizes_has_the_keys_of_its_hints_in_the_records(mlp):
    cpu, hints = native(), {"batch": 3, "tokens": 40}
    found = at_hints(mlp, None, hints)
    keys = []
    for mod, own_cpu in (
        (import_module(mlp, named=names_in(mlp, None)), cpu),
        (import_module(mlp, found.shapes), found.on(cpu)),
    ):
        with planned_for(hints):
            canonical = pipeline.canonical(mod.mod, own_cpu)
            layers = [layer_key(own.layer) for own in constant_layers(canonical, own_cpu)]
            keys.append((layers, network_key(token_network(canonical, own_cpu))))
    assert keys[0] == keys[1]
    assert len(keys[0][0]) == 2
