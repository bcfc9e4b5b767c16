"""ONNX Runtime makes the same model of one without its large weights as of one with them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper

from tvm_sparse.frontends import onnx_importer
from tvm_sparse.frontends.canonical.light import SMALLEST
from tvm_sparse.frontends.onnx_importer import import_onnx
from tvm_sparse.frontends.untouched_weights import untouched_weights

RNG = np.random.default_rng(0)
WEIGHTS = {name: RNG.standard_normal((16, 16)).astype("float32") for name in "abc"}
SMALL = RNG.standard_normal(16).astype("float32")
assert WEIGHTS["a"].nbytes >= SMALLEST > SMALL.nbytes


def model(*nodes, weights=None) -> onnx.ModelProto:
    """Return a model with the inputs `x`, a matrix, and `ids`; its output is `y`."""
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **(node[3] if node[3:] else {})) for node in nodes],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [16, 16]),
            helper.make_tensor_value_info("ids", TensorProto.INT64, [16]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(array, name)
            for name, array in (WEIGHTS | {"s": SMALL} | (weights or {})).items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


BN = [["h", "s", "s", "s", "s"], ["y"]]
CHAIN = ("Add", ["h", "s"], ["y"])
THEN = helper.make_graph(
    [helper.make_node("Identity", ["a"], ["t"])],
    "then",
    [],
    [helper.make_tensor_value_info("t", TensorProto.FLOAT, [16, 16])],
)


@pytest.mark.parametrize(
    ("nodes", "untouched"),
    [
        ([("MatMul", ["x", "a"], ["h"]), CHAIN], {"a"}),
        ([("MatMul", ["x", "a"], ["g"]), ("MatMul", ["g", "a"], ["h"]), CHAIN], {"a"}),
        ([("Gather", ["b", "ids"], ["h"]), CHAIN], {"b"}),
        ([("MatMul", ["a", "x"], ["h"]), CHAIN], set()),
        ([("MatMul", ["a", "b"], ["g"]), ("MatMul", ["x", "g"], ["h"]), CHAIN], set()),
        ([("Gather", ["x", "ids"], ["g"]), ("Add", ["g", "a"], ["h"]), CHAIN], set()),
        ([("MatMul", ["x", "a"], ["h"]), ("BatchNormalization", *BN)], set()),
        ([("MatMul", ["x", "a"], ["g"]), ("Add", ["g", "a"], ["h"]), CHAIN], set()),
        ([("Transpose", ["c"], ["t"]), ("MatMul", ["x", "t"], ["h"]), CHAIN], set()),
    ],
)
def test_the_module_is_the_same(tmp_path, monkeypatch, nodes, untouched):
    proto = model(*nodes)
    read = {name for node in proto.graph.node for name in node.input}
    assert untouched_weights(proto) & read == untouched
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    found = import_onnx(path).mod
    monkeypatch.setattr(onnx_importer, "untouched_weights", lambda _: set())
    tvm.ir.assert_structural_equal(found, import_onnx(path).mod)


def test_what_branches_read_and_what_is_returned_is_no_untouched_weight():
    flag = {"flag": np.array(True)}
    branches = {"then_branch": THEN, "else_branch": THEN}
    proto = model(
        ("MatMul", ["x", "a"], ["h"]),
        ("If", ["flag"], ["g"], branches),
        ("Add", ["h", "g"], ["y"]),
        weights=flag,
    )
    assert "a" not in untouched_weights(proto)
    proto = model(("MatMul", ["x", "a"], ["y"]))
    proto.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [16, 16]))
    assert "a" not in untouched_weights(proto)
