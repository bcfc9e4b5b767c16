"""Libraries, parts of which ONNX Runtime runs."""

import json
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

import tvm_sparse
from tvm_sparse.cli.main import main
from tvm_sparse.errors import InputError, LibraryError, ModelError
from tvm_sparse.frontends.load import no_fallback
from tvm_sparse.runtime import fallback
from tvm_sparse.testing import models

FOREIGN = "aarch64" if platform.machine() != "aarch64" else "x86_64"
FOREIGN_TARGET = "rpi4" if platform.machine() != "aarch64" else "haswell"

# TVM has a converter for neither of these: DFT and Det.


def spectrum(path, **options):
    """Write matmul, DFT, a mean, matmul; the second output is the spectrum."""
    rng = np.random.default_rng(0)
    nodes = [
        make_node("MatMul", ["x", "w0"], ["t0"], name="first"),
        make_node("Reshape", ["t0", "signal"], ["t1"]),
        make_node("DFT", ["t1"], ["spectrum"], name="/head/DFT", axis=1),
        make_node("ReduceMean", ["spectrum"], ["t2"], axes=[2], keepdims=0),
        make_node("MatMul", ["t2", "w1"], ["y"], name="last"),
    ]
    weights = {
        "w0": models.pruned(rng, (32, 64), 0.1),
        "w1": models.pruned(rng, (64, 16), 0.1),
        "signal": np.array([8, 64, 1]),
    }
    return models.write_onnx(path, nodes, {"x": [8, 32]}, ["y", "spectrum"], weights, **options)


def expected_of(path, feeds):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def check(engine, path, feeds):
    outputs = engine.run(feeds)
    for spec, expected in zip(engine.outputs, expected_of(path, feeds), strict=True):
        actual = outputs[spec.name]
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    return outputs


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return spectrum(tmp_path_factory.mktemp("model") / "m.onnx")


@pytest.fixture(scope="module")
def library(model):
    path = model.with_suffix(".so")
    tvm_sparse.compile(model, threads=1).save(path)
    return path


X = np.random.default_rng(1).standard_normal((8, 32)).astype("float32")


class TestNumbers:
    def test_a_part_between_compiled_layers(self, model):
        engine = tvm_sparse.compile(model)
        check(engine, model, {"x": X})
        check(engine, model, {"x": 2 * X})
        (found,) = engine.info.fallbacks
        assert (found.nodes, found.operator) == (("/head/DFT",), "DFT")
        assert "no converter" in found.reason

    def test_saved_and_loaded(self, model, library):
        engine = tvm_sparse.load(library)
        check(engine, model, {"x": X})
        assert engine.info.fallbacks[0].nodes == ("/head/DFT",)

    def test_loaded_in_a_fresh_process(self, model, library, tmp_path):
        np.save(tmp_path / "x.npy", X)
        command = ["run", str(library), "--input", f"x={tmp_path / 'x.npy'}", "-o", "out.npz"]
        subprocess.run([sys.executable, "-m", "tvm_sparse", *command], check=True, cwd=tmp_path)
        outputs = np.load(tmp_path / "out.npz")
        for name, expected in zip(("y", "spectrum"), expected_of(model, {"x": X}), strict=True):
            np.testing.assert_allclose(outputs[name], expected, atol=1e-4)

    def test_several_engines_and_threads_at_once(self, model, library):
        expected = expected_of(model, {"x": X})[0]
        engines = [tvm_sparse.load(library, threads) for threads in (1, 2, 1)]
        with ThreadPoolExecutor(6) as executor:
            outputs = list(executor.map(lambda i: engines[i % 3].run({"x": X}), range(24)))
        for output in outputs:
            np.testing.assert_allclose(output["y"], expected, atol=1e-4)

    def test_after_a_fork(self, library):
        """An engine that was loaded before a fork makes its sessions where it runs."""
        code = f"""
import os, signal, numpy as np, tvm_sparse
engine = tvm_sparse.load({str(library)!r})
child = os.fork()
signal.alarm(60)
engine.run([np.ones((8, 32), "float32")])
if child:
    assert os.waitpid(child, 0)[1] == 0
os._exit(0)
"""
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_a_wholly_unsupported_model(self, tmp_path):
        nodes = [make_node("Det", ["x"], ["y"])]
        path = models.write_onnx(tmp_path / "m.onnx", nodes, {"x": [3, 4, 4]}, ["y"], {})
        engine = tvm_sparse.compile(path)
        engine.save(tmp_path / "m.so")
        x = np.random.default_rng(0).standard_normal((3, 4, 4)).astype("float32")
        check(engine, path, {"x": x})
        check(tvm_sparse.load(tmp_path / "m.so"), path, {"x": x})

    def test_dtypes_of_what_crosses_the_border(self, tmp_path):
        """Optional(x) and what reads it fall back; a part takes and gives each element type."""
        names = ["FLOAT", "DOUBLE", "FLOAT16", "BOOL", "INT8", "INT16", "INT32", "INT64"]
        names += ["UINT8", "UINT16", "UINT32", "UINT64"]
        types = [getattr(TensorProto, name) for name in names]
        infos = [make_tensor_value_info(n, t, [2, 3]) for n, t in zip(names, types, strict=True)]
        nodes = []
        for name in names:
            nodes.append(make_node("SequenceConstruct", [name, name], [f"{name}_s"]))
            nodes.append(make_node("ConcatFromSequence", [f"{name}_s"], [f"{name}_y"], axis=1))
            nodes.append(make_node("Unique", [f"{name}_y"], [f"{name}_u"], axis=1))
        nodes = [node for node in nodes if node.op_type != "Unique"]
        outputs = [onnx.ValueInfoProto(name=f"{name}_y") for name in names]
        opset = [make_opsetid("", 17)]
        graph = make_graph(nodes, "g", infos, outputs)
        path = tmp_path / "m.onnx"
        onnx.save(make_model(graph, opset_imports=opset, ir_version=8), path)
        engine = tvm_sparse.compile(path)
        rng = np.random.default_rng(0)
        feeds = {
            name: rng.integers(0, 2, (2, 3)).astype(onnx.helper.tensor_dtype_to_np_dtype(of))
            for name, of in zip(names, types, strict=True)
        }
        check(engine, path, feeds)

    def test_an_output_whose_shape_depends_on_values(self, tmp_path):
        nodes = [make_node("Unique", ["x"], ["y", "", "", "count"])]
        path = tmp_path / "m.onnx"
        infos = [make_tensor_value_info("x", TensorProto.FLOAT, [5])]
        outputs = [onnx.ValueInfoProto(name=name) for name in ("y", "count")]
        graph = make_graph(nodes, "g", infos, outputs)
        opset = [make_opsetid("", 17)]
        onnx.save(make_model(graph, opset_imports=opset, ir_version=8), path)
        engine = tvm_sparse.compile(path)
        for x in ([1, 1, 2, 3, 3], [4, 4, 4, 4, 4]):
            check(engine, path, {"x": np.float32(x)})

    def test_an_output_whose_shape_is_an_input(self, tmp_path):
        nodes = [make_node("Expand", ["x", "shape"], ["y"])]
        infos = [
            make_tensor_value_info("x", TensorProto.FLOAT, [3, 1]),
            make_tensor_value_info("shape", TensorProto.INT64, [2]),
        ]
        graph = make_graph(nodes, "g", infos, [onnx.ValueInfoProto(name="y")])
        path = tmp_path / "m.onnx"
        opset = [make_opsetid("", 17)]
        onnx.save(make_model(graph, opset_imports=opset, ir_version=8), path)
        engine = tvm_sparse.compile(path)
        x = np.float32([[1], [2], [3]])
        for shape in ([3, 4], [1, 2]):
            check(engine, path, {"x": x, "shape": np.array(shape)})

    def test_shapes_that_are_computed_behind_a_part(self, tmp_path):
        """As TensorFlow's exporter writes a Loop and what reads the stacked states."""
        info = make_tensor_value_info
        body = make_graph(
            [
                make_node("Add", ["s", "s"], ["s2"]),
                make_node("Identity", ["go"], ["go2"]),
                make_node("Identity", ["s2"], ["row"]),
            ],
            "body",
            [
                info("i", TensorProto.INT64, []),
                info("go", TensorProto.BOOL, []),
                info("s", TensorProto.FLOAT, [2]),
            ],
            [
                info("go2", TensorProto.BOOL, []),
                info("s2", TensorProto.FLOAT, [2]),
                info("row", TensorProto.FLOAT, [2]),
            ],
        )
        nodes = [
            make_node("Det", ["m"], ["d"]),  # whoever converts Loop, this falls back
            make_node("Loop", ["n", "", "x"], ["last", "rows"], body=body),
            make_node("Shape", ["rows"], ["shape"]),
            make_node("Expand", ["x", "shape"], ["wide"]),
            make_node("Mul", ["wide", "rows"], ["product"]),
            make_node("Add", ["product", "d"], ["y"]),
        ]
        inputs = {"x": [2], "m": [1, 3, 3]}
        path = models.write_onnx(tmp_path / "m.onnx", nodes, inputs, ["y"], {"n": np.int64(4)})
        engine = tvm_sparse.compile(path)
        rng = np.random.default_rng(0)
        feeds = {name: rng.standard_normal(shape, "float32") for name, shape in inputs.items()}
        check(engine, path, feeds)


class TestErrors:
    def test_values_that_onnxruntime_refuses(self, tmp_path):
        nodes = [
            make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
            make_node("SequenceConstruct", ["x", "x"], ["s"]),
            make_node("SequenceAt", ["s", "i"], ["y"]),
        ]
        path = models.write_onnx(tmp_path / "m.onnx", nodes, {"x": []}, ["y"], {})
        engine = tvm_sparse.compile(path)
        assert engine.run({"x": np.float32(1)})["y"] == 1
        with pytest.raises(InputError, match="ONNX Runtime cannot run its part of the model"):
            engine.run({"x": np.float32(7)})

    def test_no_onnxruntime(self, library, monkeypatch):
        monkeypatch.setattr(fallback.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(LibraryError, match=r"'/head/DFT'.*`pip install onnxruntime`"):
            tvm_sparse.load(library)

    def test_a_library_without_parts_needs_no_onnxruntime(self, tmp_path):
        path = models.write_mlp(tmp_path / "mlp.onnx")
        tvm_sparse.compile(path, {"x": (2, 5, 32)}).save(tmp_path / "mlp.so")
        code = (
            "import sys; sys.modules['onnxruntime'] = None; import numpy as np, tvm_sparse;"
            f"engine = tvm_sparse.load({str(tmp_path / 'mlp.so')!r});"
            "engine.run([np.zeros((2, 5, 32), 'float32')])"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_off(self, model):
        with pytest.raises(ModelError, match=r"'/head/DFT' \(DFT\).*no converter.*fallback"):
            tvm_sparse.compile(model, fallback="off")

    def test_another_architecture(self, model):
        message = rf"'/head/DFT' \(DFT\).*no converter.*only on this machine, not on {FOREIGN}"
        with pytest.raises(ModelError, match=message):
            tvm_sparse.compile(model, target=FOREIGN_TARGET)

    def test_all_nodes_are_named(self, tmp_path):
        nodes = [
            make_node("Det", ["x"], ["a"], name="one"),
            make_node("Abs", ["a"], ["b"]),
            make_node("Det", ["b"], ["y"], name="two"),
        ]
        path = models.write_onnx(tmp_path / "m.onnx", nodes, {"x": [2, 2, 2, 2]}, ["y"], {})
        with pytest.raises(ModelError, match=r"'one' \(Det\).*nor can 'two' \(Det\)"):
            tvm_sparse.compile(path, fallback="off")

    def test_unknown_option(self, model):
        with pytest.raises(
            InputError, match="unknown fallback 'ort': it is one of onnxruntime, off"
        ):
            tvm_sparse.compile(model, fallback="ort")
        assert no_fallback(platform.machine()) == ""


class TestCommandLine:
    def test_says_what_falls_back(self, model, tmp_path, capsys):
        assert main(["compile", str(model), "-o", str(tmp_path / "m.so")]) == 0
        assert "run by ONNX Runtime: 1 DFT ('/head/DFT'): it has no con" in capsys.readouterr().out

    def test_json(self, model, tmp_path, capsys):
        assert main(["compile", str(model), "-o", str(tmp_path / "m.so"), "--json"]) == 0
        (found,) = json.loads(capsys.readouterr().out)["fallbacks"]
        assert found["nodes"] == ["/head/DFT"]

    def test_off(self, model, tmp_path, capsys):
        command = ["compile", str(model), "-o", str(tmp_path / "m.so"), "--fallback", "off"]
        assert main(command) == 2
        assert "'/head/DFT'" in capsys.readouterr().err
        assert not (tmp_path / "m.so").exists()

    def test_analyze(self, model, capsys):
        assert main(["analyze", str(model)]) == 0
        assert "first" in capsys.readouterr().out
