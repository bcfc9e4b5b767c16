"""Equations of Einsum that are none are errors; ONNX's inference may never end at them."""

import numpy as np
import pytest
from onnx import helper
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.checks.equations import check_equations

WRONG = [
    "ij,jk-", "..ij,jk", "....ij,jk->ik", "ij,jk-x", "ij,jk->i-k", "ij,j9->ik",
    "ij,jk=ik", "ij", "ij,jk,kl", "", "->", "ij,jk->iikk", "ij,jk->im", "é,a", "ij,jk->ik->ik",
    "ij,jk\xff", "i...j...,jk", ">", ",,",
]  # fmt: skip
RIGHT = [
    "ij,jk->ik",
    "ij,jk->",
    "ij,jk",
    " i j , j k -> k i ",
    "...ij,jk->...ik",
    "ij,kl->ijkl",
    "Ij,jK->IK",
]


def graph(equation, **options):
    node = make_node("Einsum", ["a", "b"], ["y"], "n", equation=equation)
    values = [helper.make_tensor_value_info(n, 1, s) for n, s in (("a", [2, 3]), ("b", [3, 4]))]
    output = helper.make_tensor_value_info("y", 1, None)
    return helper.make_graph([node], "g", values, [output], **options)


@pytest.mark.parametrize("equation", WRONG)
def test_no_equation(equation):
    with pytest.raises(ModelError, match=r"node 'n' \(Einsum\): its equation"):
        check_equations(graph(equation))


@pytest.mark.parametrize("equation", RIGHT)
def test_equations(equation):
    check_equations(graph(equation))


def function(equation, is_given):
    """Return a model that calls a function whose Einsum has an equation, or gets the caller's."""
    einsum = make_node("Einsum", ["a", "b"], ["y"])
    if is_given:
        attribute = helper.make_attribute("equation", "")
        attribute.Clear()
        attribute.name, attribute.ref_attr_name, attribute.type = "equation", "how", 3
        einsum.attribute.append(attribute)
    else:
        einsum.attribute.append(helper.make_attribute("equation", equation))
    opsets = [helper.make_opsetid("", 17)]
    names = ["how"] if is_given else []
    made = helper.make_function("own", "F", ["a", "b"], ["y"], [einsum], opsets, names)
    call = make_node("F", ["a", "b"], ["y"], "n", domain="own", how=equation)
    called = graph("ij,jk->ik")
    called.node[0].CopyFrom(call)
    imports = [*opsets, helper.make_opsetid("own", 1)]
    return helper.make_model(called, opset_imports=imports, ir_version=8, functions=[made])


@pytest.mark.parametrize("is_given", [False, True])
def test_an_equation_in_a_function(is_given, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(function("ij,jk-", is_given).SerializeToString())
    with pytest.raises(ModelError, match="its equation 'ij,jk-' is not like"):
        tvm_sparse.compile(path)
    path.write_bytes(function("ij,jk->ik", is_given).SerializeToString())
    a, b = np.ones((2, 3), "float32"), np.ones((3, 4), "float32")
    np.testing.assert_allclose(tvm_sparse.compile(path, threads=1).run([a, b])["y"], a @ b)
