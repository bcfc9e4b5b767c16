"""Each mistake on the command line gives one clear line."""

import subprocess
import sys

import numpy as np
import pytest
from onnx.helper import make_node

from tvm_sparse.cli import main
from tvm_sparse.cpu.threads import check_startable
from tvm_sparse.errors import InputError
from tvm_sparse.testing.models import write_onnx

SHAPE = ["--shape", "x=1,20,32"]


class TestMistakes:
    def test_no_such_model(self, fails):
        assert "no.onnx: there is no such file" in fails("compile", "no.onnx", "-o", "a.so")

    def test_debug_shows_where_an_error_comes_from(self, call, tmp_path):
        (tmp_path / "m.json").write_text("{{{")
        status, out, err = call("compile", "m.json", "-o", "a.so", "--debug")
        assert (status, out) == (2, "")
        assert "Traceback" in err and "ParseError" in err and "direct cause" in err
        assert err.splitlines()[-1].startswith("error: m.json: not an ONNX model")

    def test_a_mistake_of_ours(self, fails, model, monkeypatch):
        def fail(*arguments, **options):
            raise ZeroDivisionError("integer division or modulo by zero")

        monkeypatch.setattr("tvm_sparse.compiler.compile", fail)
        message = fails("compile", model, *SHAPE, "-o", "a.so")
        assert "integer division or modulo by zero; please report it" in message

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
        write_onnx(tmp_path / "a.onnx", nodes, {"x": [2]}, ["y"], {})
        message = fails("compile", "a.onnx", "-o", "a.so")
        assert "not a valid model" in message and '("/head/Nonsense", Nonsense,' in message

    def test_missing_shape(self, fails, tmp_path):
        nodes = [make_node("LpPool", ["x"], ["y"], kernel_shape=[2, 2])]
        path = write_onnx(tmp_path / "a.onnx", nodes, {"x": ["batch", 3, 8, 8]}, ["y"], {})
        message = fails("analyze", path)
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

    def test_precision(self, fails, model):
        compile_it = "compile", model, *SHAPE, "-o", "a.so", "--precision"
        assert "precision must be one of" in fails(*compile_it, "bfloat16")
        assert "has no float16 arithmetic" in fails(*compile_it, "float16", "--target", "haswell")
        assert "unknown suffix '+fp8'" in fails(*compile_it, "auto", "--target", "haswell+fp8")

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

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("--rounds", "0", "rounds must be at least 1, got 0"),
            ("--rounds", "-1", "rounds must be at least 1, got -1"),
            ("--seconds", "nan", "seconds must be a number from 0 on, got nan"),
            ("--seconds", "inf", "seconds must be a number from 0 on, got inf"),
            ("--seconds", "-1", "seconds must be a number from 0 on, got -1.0"),
            ("--iterations", "0", "iterations must be at least 1, got 0"),
            ("--threads", "-3", "threads must be at least 1, got -3"),
            ("--compare", "torch", "unknown engine 'torch': it is one of onnxruntime, deepsparse"),
        ],
    )
    def test_benchmark(self, fails, model, option, value, message):
        assert message in fails("benchmark", model, *SHAPE, option, value)

    def test_more_threads_than_the_system_gives(self, fails, library, x, monkeypatch):
        def start(thread):
            raise RuntimeError("can't start new thread")

        arguments = ["--input", f"x={x}", "--threads", 20_000]
        with monkeypatch.context() as patch:
            patch.setattr("threading.Thread.start", start)
            with pytest.raises(InputError, match="cannot start 20000 threads"):
                check_startable(20_000)
        limits = f"ulimit -v {6 << 20}; exec "
        command = [sys.executable, "-m", "tvm_sparse", "run", library, *arguments]
        result = subprocess.run(
            ["bash", "-c", limits + " ".join(f"'{word}'" for word in command)],
            capture_output=True, text=True, cwd=x.parent,
        )  # fmt: skip
        assert result.returncode == 2
        assert "cannot start 20000 threads" in result.stderr

    def test_a_compiler_that_is_no_command(self, fails, model, monkeypatch):
        monkeypatch.setenv("CXX", "g++ '")
        message = fails("compile", model, *SHAPE, "-o", "a.so")
        assert "CXX or CC in the environment is no command (no closing quotation): g++ '" in message

    def test_records(self, fails, model):
        arguments = ["-o", "a.so", "--records", "no.jsonl"]
        assert "no.jsonl: cannot be read" in fails("compile", model, *SHAPE, *arguments)

    def test_prune(self, fails, model):
        assert "below 1" in fails("prune", model, "-o", "p.onnx", "--sparsity", 95)
        arguments = ["--sparsity", 0.5, "--scope", "all"]
        assert "unknown scope 'all'" in fails("prune", model, "-o", "p.onnx", *arguments)

        arguments = ["--sparsity", 0.5, "--pattern", "2x2"]
        assert "unknown pattern '2x2'" in fails("prune", model, "-o", "p.onnx", *arguments)

    def test_quantize(self, fails, model):
        assert "needs calibration inputs" in fails("quantize", model, "-o", "q.onnx")
        assert "no node 'up'" in fails(
            "quantize", model, "-o", "q.onnx", "--dynamic", "--exclude", "up"
        )

    def test_peers_of_a_library(self, fails, library):
        assert "ONNX model" in fails("benchmark", library, "--compare", "onnxruntime")

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ("", "arguments are required: VERB; see `tvm-sparse --help`"),
            ("fly", "invalid choice: 'fly'"),
            ("compile a.onnx", "are required: -o/--output; see `tvm-sparse compile --help`"),
            ("compile a.onnx -o a.so --shape x", "--shape: 'x' is not like input_ids=1,128;"),
            ("compile a.onnx -o a.so --shape x=1,-b", "'x=1,-b' is not like"),
            ("compile a.onnx -o a.so --fly \r", "unrecognized arguments: --fly \\r;"),
            ("run a.so --input x.npy", "'x.npy' is not like input_ids=ids.npy"),
            ("prune a.onnx -o b.onnx --sparsity many", "invalid float value: 'many'"),
        ],
    )
    def test_usage(self, arguments, says, capsys):
        with pytest.raises(SystemExit) as stop:
            main.main(arguments.split(" ") if arguments else [])
        assert stop.value.code == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ") and says in message
        assert message.count("\n") == 1 and message.endswith("\n")


def test_mistakes_print_no_traceback():
    command = [sys.executable, "-m", "tvm_sparse", "run", "no.so"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "error: no.so: cannot be read: No such file or directory\n"
