"""Each verb of the command line on a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.helper import make_node

from tvm_sparse.bench import demo
from tvm_sparse.bench.results import Comparison
from tvm_sparse.testing.models import onnxruntime_outputs, pruned, write_onnx

SHAPE = ["--shape", "x=1,20,32"]


class TestVerbs:
    def test_compile(self, call, model, tmp_path):
        status, out, err = call("compile", model, *SHAPE, "-o", "a.so", "--threads", 1)
        assert (status, err) == (0, "")
        assert out.startswith("a.so: ")
        assert "of 2 pruned layers sparse (" in out.splitlines()[-1]
        assert out.endswith(" ms expected on 1 thread\n")
        assert (tmp_path / "a.so").exists()

    def test_compile_warns_of_dense_layers(self, call, tmp_path):
        weight = pruned(np.random.default_rng(0), (64, 16, 3, 3), 0.1)
        node = make_node("Conv", ["x", "w"], ["y"], name="/mix/Conv", group=2)
        model = write_onnx(tmp_path / "m.onnx", [node], {"x": [1, 32, 8, 8]}, ["y"], {"w": weight})
        status, out, err = call("compile", model, "-o", "a.so")
        assert status == 0
        assert err.startswith("warning: a pruned layer is not sparse: /mix/Conv: ")
        assert err.count("\n") == 1
        assert "0 of 1 pruned layer sparse" in out
        _, out, _ = call("compile", model, "-o", "a.so", "--json")
        record = json.loads(out)
        assert [layer["name"] for layer in record["layers"]] == ["/mix/Conv"]
        assert len(record["warnings"]) == 1
        status, out, err = call("compile", model, "-o", "b.so", "--strict")
        assert (status, out) == (2, "")
        assert err.startswith("error: a pruned layer is not sparse: /mix/Conv: ")
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
        expected = onnxruntime_outputs(model, {"x": np.load(x)})["y"]
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

    def test_quantize(self, call, model, tmp_path):
        np.savez(tmp_path / "c.npz", x=np.random.default_rng(0).random((2, 1, 5, 32), "float32"))
        arguments = ["-o", "q.onnx", "--calibration", "c.npz"]
        status, out, err = call("quantize", model, *arguments)
        assert (status, err) == (0, "")
        assert "2 layers quantized, 0 kept in float" in out
        assert "%" in out
        _, out, _ = call("quantize", model, *arguments, "--json", "--exclude", "/up/MatMul")
        report = json.loads(out)
        assert (report["layers"], report["kept"]) == (["/down/MatMul"], ["/up/MatMul"])
        assert 0 < report["outputs"][0]["relative_error"] < 0.05
        _, out, _ = call("quantize", model, "-o", "d.onnx", "--dynamic")
        assert "outputs not compared" in out

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

    def test_benchmark_of_a_library_for_any_shape(self, call, fails, model):
        call("compile", model, "-o", "any.so", "--shape", "x=n,20,32", "--hint", "n=1,8")
        measure = ["benchmark", "any.so", "--rounds", 1, "--iterations", 1]
        assert "--hint n=8" in fails(*measure)
        assert "names 'batch', which is no dimension" in fails(*measure, "--hint", "batch=2")
        assert "is for libraries" in fails("benchmark", model, "--hint", "n=2")
        assert "for which --hint" in fails("benchmark", model, "-b", 1, "--hint", "n=2")
        assert call(*measure, "--hint", "n=3")[0] == 0

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


def test_nan_weights_reach_the_output(call, tmp_path):
    weight = np.ones((64, 48), "float32")
    weight[3, 4] = np.nan
    nodes = [make_node("MatMul", ["x", "w"], ["y"])]
    write_onnx(tmp_path / "nan.onnx", nodes, {"x": [20, 64]}, ["y"], {"w": weight})
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
    for verb in ("compile", "run", "benchmark", "demo", "analyze", "prune", "quantize", "targets"):
        assert f"    {verb}" in result.stdout
    assert result.stdout.endswith("[]\n")


def test_a_library_is_verified_and_measured_without_the_compiler(model, library, without_compiler):
    assert "verified against" in without_compiler("verify", model, library)
    turns = ["--rounds", 1, "--seconds", 0]
    assert "tvm-sparse" in without_compiler("benchmark", library, *turns)


class TestThroughput:
    """``benchmark`` with DeepSparse's flags."""

    def test_result_lines_and_json(self, call, model):
        arguments = ["-b", 2, "-i", "[1,20,32]", "-ncores", 2, "-s", "async", "-t", 0.05, "-w", 0]
        arguments += ["-nstreams", 2, "-x", "x.json"]
        status, out, err = call("benchmark", model, *arguments)
        assert status == 0
        assert [line.split(":")[0] for line in out.splitlines()] == [
            "Original Model Path", "Batch Size", "Scenario", "Throughput (items/sec)",
            "Latency Mean (ms/batch)", "Latency Median (ms/batch)", "Latency Std (ms/batch)",
            "Iterations",
        ]  # fmt: skip
        assert f"onnx_file_path: {model}" in err
        assert "Starting 'multistream' performance measurements for 0.05 seconds" in err
        found = json.loads(Path("x.json").read_text())
        assert (found["batch_size"], found["num_streams"], found["scenario"]) == (2, 2, "async")
        assert f"Iterations: {found['benchmark_result']['iterations']}" in out

    def test_another_engine_and_quiet(self, call, model):
        arguments = ["-seq_len", 20, "-t", 0.01, "-w", 0, "-q", "-e", "onnxruntime"]
        status, out, err = call("benchmark", model, "-i", "[1,20,32]", *arguments[2:])
        assert (status, err) == (0, "")
        assert "Scenario: sync" in out

    def test_options_of_the_other_measurement_are_refused(self, fails, model):
        error = fails("benchmark", model, "-b", 1, "--compare", "onnxruntime", "--rounds", 3)
        assert (
            "-b measures one engine by itself, for which --compare, --rounds says nothing" in error
        )

    def test_a_shape_that_is_missing(self, fails, model):
        assert "give input_shapes, such as [[1, 128, 32]]" in fails("benchmark", model, "-t", 1)

    def test_analyze_imposes_sparsity(self, call, model, fails):
        status, out, err = call("analyze", model, *SHAPE, "--impose-sparsity", "0.8,0.95")
        assert (status, err) == (0, "")
        assert [row for row in ("as it is", "80%", "95%") if row in out] == [
            "as it is", "80%", "95%"
        ]  # fmt: skip
        _, out, _ = call("analyze", model, *SHAPE, "--impose-sparsity", "0.95", "--json")
        base, pruned = json.loads(out)["imposed"]
        assert (base["sparsity"], pruned["sparsity"]) == (None, 0.95)
        assert pruned["zeros"] > base["zeros"]
        assert "sparsity must be above 0" in fails("analyze", model, "--impose-sparsity", "1.5")

    def test_imposed_sparsity_is_measured_and_drawn(self, call, model):
        arguments = ["--impose-sparsity", "0.95", "--measure", "--html", "a.html"]
        status, out, _ = call("analyze", model, *SHAPE, *arguments, "--threads", 1)
        assert status == 0
        assert "measured ms" in out
        assert "Worth pruning?" in Path("a.html").read_text()
