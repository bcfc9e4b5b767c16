import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper
from tvm import relax

from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.onnx_importer import import_onnx

B, H, T, S, D = 2, 4, 3, 5, 8


def write_model(path, shapes, mask=None, opset=23, **attributes):
    """One Attention node on inputs q, k, v and perhaps mask."""
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip("qkv", shapes, strict=True)
    ]
    if mask is not None:
        kind = TensorProto.BOOL if mask.dtype == bool else TensorProto.FLOAT
        inputs.append(helper.make_tensor_value_info("mask", kind, mask.shape))
    node = helper.make_node("Attention", [i.name for i in inputs], ["y"], **attributes)
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    model = helper.make_model(
        helper.make_graph([node], "attention", inputs, outputs),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )
    onnx.save(model, path)


def visible(shape, blind_row=False):
    mask = np.random.default_rng(1).random(shape) < 0.7
    mask[..., 0] = True
    if blind_row:
        mask[..., 1, :] = False
    return mask


FOUR_D = ((B, H, T, D), (B, H, S, D), (B, H, S, D))
CASES = {
    "plain": (FOUR_D, None, {}),
    "scale": (FOUR_D, None, {"scale": 0.3}),
    "boolean mask": (FOUR_D, visible((B, 1, T, S)), {}),
    "a query that sees nothing": (FOUR_D, visible((T, S), blind_row=True), {}),
    "float mask": (FOUR_D, np.linspace(-2, 2, T * S, dtype="float32").reshape(T, S), {}),
    "causal": (FOUR_D, None, {"is_causal": 1}),
    "causal and mask": (FOUR_D, visible((B, 1, T, S)), {"is_causal": 1}),
    "softcap": (FOUR_D, None, {"softcap": 2.0}),
    "grouped heads": (((B, H, T, D), (B, 2, S, D), (B, 2, S, D)), None, {}),
    "channels": (
        ((B, T, H * D), (B, S, 2 * D), (B, S, 2 * D)),
        None,
        {"q_num_heads": H, "kv_num_heads": 2},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_attention_node_computes_what_onnx_runtime_does(name, tmp_path):
    shapes, mask, attributes = CASES[name]
    path = tmp_path / "attention.onnx"
    write_model(path, shapes, mask, **attributes)
    rng = np.random.default_rng(0)
    feed = {n: rng.standard_normal(s).astype("float32") for n, s in zip("qkv", shapes, strict=True)}
    if mask is not None:
        feed["mask"] = mask
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, feed)

    model = import_onnx(path)
    vm = relax.VirtualMachine(tvm.compile(model.mod, tvm.target.Target("llvm")), tvm.cpu())
    result = vm["main"](*(tvm.runtime.tensor(feed[spec.name]) for spec in model.inputs))
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_mask_over_some_of_the_keys_is_refused(tmp_path):
    path = tmp_path / "attention.onnx"
    write_model(path, FOUR_D, visible((T, S - 2)), opset=24)
    with pytest.raises(ModelError, match="over only some of the keys"):
        import_onnx(path, no_fallback="not in this test")
