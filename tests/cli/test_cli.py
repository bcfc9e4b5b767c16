"""The command line: each verb on a tiny model, and one clear line for each mistake."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.helper import make_node

from tvm_sparse import testing
from tvm_sparse.bench import demo
from tvm_sparse.bench.results import Comparison
from tvm_sparse.cli import main

SHAPE = ["--shape", "x=1,20,32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def model(folder):
    return testing.write_mlp(folder / "mlp.onnx")


@pytest.fixture(scope="module")
def library(model, folder):
    assert main.main(["compile", str(model), *SHAPE, "-o", str(folder / "mlp.so")]) == 0
    return folder / "mlp.so"


@pytest.fixture
def x(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((1, 20, 32), "float32"))
    return tmp_path / "x.npy"


@pytest.fixture
def call(capfd, tmp_path, monkeypatch):
    """Call the command line in an empty folder; returns status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main.main([str(argument) for argument in arguments])
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def fails(call):
    """Call the command line, expect one line on stderr and status 2, return the line."""

    def run(*arguments):
        status, out, err = call(*arguments)
        assert status == 2
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return run


class TestVerbs:
    def test_compile(self, call, model, tmp_path):
        status, out, err = call("compile", model, *SHAPE, "-o", "a.so", "--threads", 1)
        assert (status, err) == (0, "")
        assert out.startswith("a.so: ")
        assert "of 2 pruned layers sparse (" in out.splitlines()[-1]
        assert out.endswith(" ms expected on 1 thread\n")
        assert (tmp_path / "a.so").exists()

    def test_compile_warns_of_dense_layers(self, call, tmp_path):
        x, weight = "x", testing.pruned(np.random.default_rng(0), (64, 64), 0.1)
        node = make_node("MatMul", ["w", x], ["y"], name="/mix/MatMul")
        model = testing.write_onnx(tmp_path / "m.onnx", [node], {x: [64, 20]}, ["y"], {"w": weight})
        status, out, err = call("compile", model, "-o", "a.so")
        assert status == 0
        assert err.startswith("warning: a pruned layer is not sparse: /mix/MatMul: its weight is ")
        assert err.count("\n") == 1
        assert "0 of 1 pruned layer sparse" in out
        _, out, _ = call("compile", model, "-o", "a.so", "--json")
        record = json.loads(out)
        assert [layer["name"] for layer in record["layers"]] == ["/mix/MatMul"]
        assert len(record["warnings"]) == 1
        status, out, err = call("compile", model, "-o", "b.so", "--strict")
        assert (status, out) == (2, "")
        assert err.startswith("error: a pruned layer is not sparse: /mix/MatMul: ")
        assert err.count("\n") == 1
        assert not (tmp_path / "b.so").exists()

    def test_compile_json(self, call, model):
        _, out, _ = call("compile", model, *SHAPE, "-o", "a.so", "--target", "haswell", "--json")
        record = json.loads(out)
        assert record["cpu"] == "haswell"
        assert record["inputs"] == [{"name": "x", "shape": [1, 20, 32], "dtype": "float32"}]
        assert record["bytes"] > 0

    def test_run(self, call, model, library, x, tmp_path):
        status, out, err = call("run", library, "--input", f"x={x}", "-o", "y.npz")
        assert (status, err) == (0, "")
        assert "y.npz" in out
        expected = testing.onnxruntime_outputs(model, {"x": np.load(x)})["y"]
        actual = np.load(tmp_path / "y.npz")["y"]
        np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())

    def test_analyze(self, call, model):
        status, out, err = call("analyze", model, *SHAPE)
        assert (status, err) == (0, "")
        assert "/up/MatMul" in out
        assert "2 layers" in out
        assert "no tensor columns" in call("analyze", model, *SHAPE, "--columns", "off")[1]

    def test_analyze_json(self, call, model):
        _, out, _ = call("analyze", model, *SHAPE, "--json")
        report = json.loads(out)
        up, down = report["layers"]
        assert report["target"] == "native"
        assert report["regions"][up["region"]]["layers"][0] == "up_MatMul"
        assert (up["shape"], down["shape"]) == ([32, 64], [64, 48])
        assert up["density"] == pytest.approx(0.1, abs=0.05)
        assert up["kernel"]
        assert up["reason"]

    def test_prune(self, call, model, tmp_path):
        status, out, err = call("prune", model, "-o", "p.onnx", "--sparsity", 0.99)
        assert (status, err) == (0, "")
        assert "99.0%" in out
        weight = numpy_helper.to_array(onnx.load(tmp_path / "p.onnx").graph.initializer[0])
        assert np.count_nonzero(weight) == round(0.01 * weight.size)

    def test_targets(self, call):
        status, out, _ = call("targets")
        assert status == 0
        assert "native" in out
        assert "skylake-avx512" in out
        names = [cpu["name"] for cpu in json.loads(call("targets", "--json")[1])]
        assert names[0] == "native"

    def test_benchmark_of_a_library(self, call, library, tmp_path):
        arguments = ["--rounds", 2, "--iterations", 7, "--json", "b.json", "--threads", 1]
        status, out, _ = call("benchmark", library, *arguments)
        assert status == 0
        assert "tvm-sparse" in out
        (comparison,) = json.loads((tmp_path / "b.json").read_text())["comparisons"]
        assert [len(runs) for runs in comparison["measurements"][0]["rounds"]] == [4, 4]

    def test_benchmark_of_a_model_beside_a_peer(self, call, model):
        arguments = ["--rounds", 1, "--seconds", 0.01, "--compare", "onnxruntime"]
        status, out, _ = call("benchmark", model, *SHAPE, *arguments)
        assert status == 0
        assert "ONNX Runtime" in out

    def test_demo(self, call, monkeypatch, tmp_path):
        results = [Comparison("bert-base-95", 2, (), None, 1.0)]
        monkeypatch.setattr("tvm_sparse.bench.demo.run", lambda threads, progress: results)
        status, out, _ = call("demo", "--json", "d.json")
        assert status == 0
        assert "bert-base-95" in out
        assert len(json.loads((tmp_path / "d.json").read_text())["comparisons"]) == 1


def test_demo_builds_checks_and_measures():
    steps = []
    (comparison,) = demo.run(1, steps.append, names=["bert-tiny-90"], seconds=0.01)
    assert comparison["tvm-sparse"].output_error < 1e-4
    assert comparison["onnxruntime"].rounds
    assert all(step.startswith("bert-tiny-90: ") for step in steps)


class TestMistakes:
    def test_no_such_model(self, fails):
        assert "no.onnx: there is no such file" in fails("compile", "no.onnx", "-o", "a.so")

    def test_not_an_onnx_file(self, fails, tmp_path):
        (tmp_path / "text.onnx").write_text("hello")
        message = fails("compile", "text.onnx", "-o", "a.so")
        assert "text.onnx: not an ONNX model, or a truncated one" in message

    def test_truncated_model(self, fails, model, tmp_path):
        content = model.read_bytes()
        (tmp_path / "cut.onnx").write_bytes(content[: len(content) // 2])
        assert "truncated" in fails("compile", "cut.onnx", "-o", "a.so")

    def test_unknown_operator(self, fails, tmp_path):
        nodes = [make_node("Nonsense", ["x"], ["y"], name="/head/Nonsense")]
        testing.write_onnx(tmp_path / "a.onnx", nodes, {"x": [2]}, ["y"], {})
        message = fails("compile", "a.onnx", "-o", "a.so")
        assert "node '/head/Nonsense' (Nonsense) cannot be imported by TVM" in message

    def test_missing_shape(self, fails, model):
        message = fails("compile", model, "-o", "a.so")
        assert "input 'x': dimension 0 ('batch') is dynamic" in message
        assert "--shape x=" in message

    def test_wrong_shape(self, fails, model):
        message = fails("compile", model, "--shape", "x=1,20,31", "-o", "a.so")
        assert "does not fit the model's ['batch', 'tokens', 32]" in message

    def test_shape_of_an_unknown_input(self, fails, model):
        message = fails("compile", model, "--shape", "xx=1,20,32", "-o", "a.so")
        assert "unknown input 'xx': did you mean 'x'?" in message

    def test_unknown_target(self, fails, model):
        message = fails("compile", model, *SHAPE, "--target", "skylack", "-o", "a.so")
        assert "unknown target 'skylack': did you mean 'skylake'?" in message
        assert "tvm-sparse targets" in message

    def test_threads(self, fails, model):
        message = fails("compile", model, *SHAPE, "--threads", 0, "-o", "a.so")
        assert "threads must be at least 1" in message

    @pytest.mark.parametrize("columns", ["0", "-4", "foo"])
    def test_columns(self, fails, model, columns):
        message = "columns must be 'auto', 'off' or a number of rows of at least 1"
        assert message in fails("compile", model, *SHAPE, "-o", "a.so", "--columns", columns)
        assert message in fails("benchmark", model, *SHAPE, "--columns", columns)
        assert message in fails("analyze", model, *SHAPE, "--columns", columns)

    def test_overlap(self, fails, model):
        message = "overlap must be 'auto', 'recompute' or 'carry', got 'both'"
        assert message in fails("compile", model, *SHAPE, "-o", "a.so", "--overlap", "both")
        assert message in fails("benchmark", model, *SHAPE, "--overlap", "both")
        assert message in fails("analyze", model, *SHAPE, "--overlap", "both")

    @pytest.mark.parametrize("output", ["no/such/a.so", ".", "/proc/a.so"])
    def test_output_not_writable(self, fails, model, output, monkeypatch):
        def compile_anyway(*arguments):
            raise AssertionError("compiled for nothing")

        monkeypatch.setattr("tvm_sparse.compiler.compile", compile_anyway)
        assert "cannot be written" in fails("compile", model, *SHAPE, "-o", output)

    def test_input_missing(self, fails, library):
        assert "missing input 'x': expected x float32[1, 20, 32]" in fails("run", library)

    def test_input_unknown(self, fails, library, x):
        assert "unknown input 'y'" in fails("run", library, "--input", f"y={x}")

    def test_input_shape(self, fails, library, tmp_path):
        np.save(tmp_path / "bad.npy", np.zeros((1, 20, 33), "float32"))
        message = fails("run", library, "--input", "x=bad.npy")
        assert "expected shape (1, 20, 32), got (1, 20, 33)" in message

    def test_input_dtype(self, fails, library, tmp_path):
        np.save(tmp_path / "bad.npy", np.zeros((1, 20, 32)))
        message = fails("run", library, "--input", "x=bad.npy")
        assert "expected dtype float32, got float64" in message

    def test_input_file(self, fails, library, tmp_path):
        assert "no.npy: cannot be read" in fails("run", library, "--input", "x=no.npy")
        (tmp_path / "text.npy").write_text("hello")
        assert "text.npy: not an array" in fails("run", library, "--input", "x=text.npy")

    def test_library(self, fails, model):
        assert "cannot be read" in fails("run", "no.so")
        assert "not a compiled library" in fails("run", model)

    def test_run_output(self, fails, library, x):
        assert "cannot be written" in fails("run", library, "--input", f"x={x}", "-o", "no/y.npz")

    def test_tune(self, fails, model):
        assert "belong together" in fails("tune", model, *SHAPE, "--key", "rpi4")
        assert "no tracker answers" in fails(
            "tune", model, *SHAPE, "--tracker", "127.0.0.1:1", "--key", "rpi4"
        )
        assert "rpi4 is not this machine" in fails("tune", model, *SHAPE, "--target", "rpi4")
        assert "trials must be at least 1" in fails("tune", model, *SHAPE, "--trials", 0)
        assert "ends in .png" in fails("tune", model, *SHAPE, "--plot", "a.gif")

    def test_records(self, fails, model):
        arguments = ["-o", "a.so", "--records", "no.jsonl"]
        assert "no.jsonl: cannot be read" in fails("compile", model, *SHAPE, *arguments)

    def test_prune(self, fails, model):
        assert "below 1" in fails("prune", model, "-o", "p.onnx", "--sparsity", 95)
        arguments = ["--sparsity", 0.5, "--scope", "all"]
        assert "unknown scope 'all'" in fails("prune", model, "-o", "p.onnx", *arguments)

    def test_peers_of_a_library(self, fails, library):
        assert "ONNX model" in fails("benchmark", library, "--compare", "onnxruntime")

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["fly"],
            ["compile", "a.onnx"],
            ["compile", "a.onnx", "-o", "a.so", "--shape", "x"],
            ["compile", "a.onnx", "-o", "a.so", "--shape", "x=1,b"],
            ["run", "a.so", "--input", "x.npy"],
            ["prune", "a.onnx", "-o", "b.onnx", "--sparsity", "many"],
        ],
    )
    def test_usage(self, arguments, capsys):
        with pytest.raises(SystemExit) as stop:
            main.main(arguments)
        assert stop.value.code == 2
        assert capsys.readouterr().err.startswith("usage: tvm-sparse")


def test_nan_weights_reach_the_output(call, tmp_path):
    weight = np.ones((64, 48), "float32")
    weight[3, 4] = np.nan
    nodes = [make_node("MatMul", ["x", "w"], ["y"])]
    testing.write_onnx(tmp_path / "nan.onnx", nodes, {"x": [20, 64]}, ["y"], {"w": weight})
    np.save(tmp_path / "x.npy", np.ones((20, 64), "float32"))
    assert call("compile", "nan.onnx", "-o", "nan.so")[0] == 0
    assert call("run", "nan.so", "--input", "x=x.npy")[0] == 0
    y = np.load(tmp_path / "outputs.npz")["y"]
    assert np.isnan(y[:, 4]).all()
    np.testing.assert_array_equal(np.delete(y, 4, axis=1), 64)


def test_help_waits_for_nothing():
    script = (
        "import sys\n"
        "from tvm_sparse.cli import main\n"
        "try: main.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'tvm', 'onnx', 'onnxruntime', 'numpy', 'rich'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    for verb in ("compile", "run", "benchmark", "demo", "analyze", "prune", "targets"):
        assert f"    {verb}" in result.stdout
    assert result.stdout.endswith("[]\n")


def test_mistakes_print_no_traceback():
    command = [sys.executable, "-m", "tvm_sparse", "run", "no.so"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "error: no.so: cannot be read: No such file or directory\n"
