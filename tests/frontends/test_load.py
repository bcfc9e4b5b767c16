"""What no frontend takes ends in an error that says what to do."""

import pytest
import tvm
from tvm.relax.frontend import nn

import tvm_sparse
from tvm_sparse.errors import ModelError


class Layer(nn.Module):
    def __init__(self):
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(x)


def test_a_module_whose_function_has_another_name():
    module, _ = Layer().export_tvm({"forward": {"x": nn.spec.Tensor((1, 8), "float32")}})
    with pytest.raises(ModelError, match=r"no Relax function 'main' \(it has .*forward.*\)"):
        tvm_sparse.compile(module)


@pytest.mark.parametrize("model", [5, None, {"w": 1}, [1.0]])
def test_what_is_no_model(model):
    with pytest.raises(ModelError, match=f"got {type(model).__name__}$"):
        tvm_sparse.compile(model)


def test_a_module_without_functions():
    with pytest.raises(ModelError, match=r"no Relax function 'main' \(it has none at all\)"):
        tvm_sparse.compile(tvm.IRModule())
