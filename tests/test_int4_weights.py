"""Weights that are rounded to int4: what is replaced, how exact it is, and what is refused."""

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.cli.main import main
from tvm_sparse.cpu.profile import native
from tvm_sparse.cpu.row_dots import expanding_dots, row_dots
from tvm_sparse.decoders import decoder_model
from tvm_sparse.errors import InputError, ModelError, OutputError
from tvm_sparse.frontends.onnx_file import write_model
from tvm_sparse.int4_weights import round_weights
from tvm_sparse.testing.models import onnxruntime_outputs, write_mlp, write_onnx
from tvm_sparse.verification.decoder import OnnxDecoder
from tvm_sparse.zoo.decoders import LLAMA_TINY, RandomDecoder


def weights(path):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("group", [16, 32, 128])
def test_products_are_rounded_and_zeros_stay(tmp_path, group):
    model, out = write_mlp(tmp_path / "m.onnx", density=0.3), tmp_path / "q.onnx"
    report = round_weights(model, out, group)
    assert [layer.node for layer in report.layers] == ["/up/MatMul", "/down/MatMul"]
    assert all(0 < layer.relative_error < 0.15 for layer in report.layers)
    assert all(0.69 < layer.zeros < 0.8 for layer in report.layers)
    x = np.random.default_rng(0).standard_normal((1, 5, 32)).astype("float32")
    got, wanted = (onnxruntime_outputs(path, {"x": x})["y"] for path in (out, model))
    assert 0 < np.linalg.norm(got - wanted) < 0.2 * np.linalg.norm(wanted)
    kinds = [node.op_type for node in onnx.load(out).graph.node]
    assert kinds.count("MatMulNBits") == 2
    assert "MatMul" not in kinds
    assert report.bytes_after < report.bytes_before


@pytest.mark.skipif(row_dots(native()) is None, reason="this CPU has no products of bytes")
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_rounded_products_compile(tmp_path, density):
    model, out = write_mlp(tmp_path / "m.onnx", density=density), tmp_path / "q.onnx"
    round_weights(model, out, 32)
    engine = tvm_sparse.compile(out, shapes={"x": (1, 5, 32)}, threads=1)
    kernels = {layer.kernel for layer in engine.report.layers}
    if density == 0.5 and expanding_dots(native()) is not None:
        assert "sparse_bitmap_row_linear" in kernels
    x = np.random.default_rng(0).standard_normal((1, 5, 32)).astype("float32")
    np.testing.assert_allclose(
        engine.run({"x": x})["y"], onnxruntime_outputs(out, {"x": x})["y"], atol=1e-3
    )


def test_the_graph_of_rounded_weights_is_that_of_the_builder(tmp_path):
    """A decoder of floats that is rounded is the decoder that is built of rounded weights."""
    floats = tmp_path / "float.onnx"
    write_model(decoder_model(LLAMA_TINY, RandomDecoder(LLAMA_TINY)), floats)
    round_weights(floats, tmp_path / "int4.onnx")
    built = decoder_model(LLAMA_TINY, RandomDecoder(LLAMA_TINY, block=32))
    (tmp_path / "built.onnx").write_bytes(built.SerializeToString())
    first, second = weights(tmp_path / "int4.onnx"), weights(tmp_path / "built.onnx")
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    got = OnnxDecoder(tmp_path / "int4.onnx").step([1, 2, 3])
    np.testing.assert_array_equal(got, OnnxDecoder(built).step([1, 2, 3]))


def test_excluded_and_shared_weights(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((32, 32)).astype("float32") for name in "ab"}
    nodes = [
        make_node("MatMul", ["x", "a"], ["1"], name="one"),
        make_node("MatMul", ["1", "b"], ["2"], name="two"),
        make_node("MatMul", ["2", "a"], ["3"], name="three"),
        make_node("Add", ["3", "b"], ["y"], name="last"),
    ]
    model = write_onnx(tmp_path / "m.onnx", nodes, {"x": [1, 32, 32]}, ["y"], arrays)
    report = round_weights(model, tmp_path / "q.onnx", exclude=["three"])
    assert [layer.node for layer in report.layers] == ["one", "two"]
    assert report.kept == ("three",)
    assert {"a", "b", "a_scales", "b_scales"} <= set(weights(tmp_path / "q.onnx"))
    onnxruntime_outputs(tmp_path / "q.onnx", {"x": np.ones((1, 32, 32), "float32")})


def test_a_model_of_half_precision_keeps_its_type(tmp_path):
    weight = np.random.default_rng(0).standard_normal((32, 16)).astype("float16")
    graph = onnx.helper.make_graph(
        [make_node("MatMul", ["x", "w"], ["y"], name="only")], "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT16, [2, 32])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT16, [2, 16])],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, ir_version=10,
                                   opset_imports=[onnx.helper.make_opsetid("", 21)])  # fmt: skip
    write_model(model, tmp_path / "m.onnx")
    round_weights(tmp_path / "m.onnx", tmp_path / "q.onnx")
    x = np.random.default_rng(1).standard_normal((2, 32)).astype("float16")
    got, wanted = (onnxruntime_outputs(tmp_path / p, {"x": x})["y"] for p in ("q.onnx", "m.onnx"))
    assert got.dtype == np.float16
    assert np.linalg.norm(got - wanted) < 0.2 * np.linalg.norm(wanted)


def test_what_cannot_be_rounded_is_refused(tmp_path):
    model, out = write_mlp(tmp_path / "m.onnx", density=1.0), tmp_path / "q.onnx"
    with pytest.raises(InputError, match="groups of 48"):
        round_weights(model, out, 48)
    with pytest.raises(InputError, match="no node 'other'"):
        round_weights(model, out, exclude=["other"])
    with pytest.raises(ModelError, match="no MatMul"):
        round_weights(model, out, exclude=["/up/MatMul", "/down/MatMul"])
    with pytest.raises(OutputError):
        round_weights(model, model)
    broken = onnx.load(model)
    weight = broken.graph.initializer[0]
    weight.CopyFrom(
        numpy_helper.from_array(
            np.full(tuple(weight.dims), np.nan, np.float32), weight.name
        )
    )  # fmt: skip
    onnx.save(broken, tmp_path / "nan.onnx")
    with pytest.raises(ModelError, match="no int4 for it"):
        round_weights(tmp_path / "nan.onnx", out)
    assert not out.exists()


def test_the_command_line(tmp_path, capsys):
    model, out = write_mlp(tmp_path / "m.onnx", density=0.5), tmp_path / "q.onnx"
    base = ["quantize", str(model), "-o", str(out), "--weights", "int4"]
    assert main([*base, "--group", "16"]) == 0
    assert "2 weights of int4" in capsys.readouterr().out
    assert main([*base, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["layers"]) == 2
    assert main([*base, "--dynamic"]) == 2
    assert "--dynamic is for models of 8 bits" in capsys.readouterr().err
    assert main(["quantize", str(model), "-o", str(out), "--group", "32"]) == 2
    assert "give both" in capsys.readouterr().err
