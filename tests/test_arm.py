"""Libraries for ARM boards, run under qemu: the same numbers as on this machine.

They run in all ways that a board allows: by the C++ program of examples/cpp, in Python, and behind
TVM's RPC server. The convolutional network runs in tensor columns, of as many rows as the cost
model says, and of a number that does not divide the image. All ways share the compiled cases, which
take minutes, so the file is longer than others.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import tvm_sparse
from tvm_sparse.errors import RemoteError
from tvm_sparse.formats.blocks import in_bytes
from tvm_sparse.runtime.board import Board, RemoteEngine
from tvm_sparse.testing.few_bits import random_codes, two_of_four
from tvm_sparse.testing.models import needs_tool, pruned, write_mlp, write_onnx
from tvm_sparse.testing.quantized import write_quantized
from tvm_sparse.testing.tiny_decoders import TinyDecoder
from tvm_sparse.tuning import tune
from tvm_sparse.zoo import random_weights, transformers

ROOT = Path(__file__).parent.parent
QEMU = "qemu-aarch64-static"
COMPILER = "aarch64-linux-gnu-g++"
SYSROOT = "/usr/aarch64-linux-gnu"

CHUNKS = [[3, 1, 4, 1, 5], [9], [2], [6]]
"""The tokens of a decoder, a prompt first."""

node = onnx.helper.make_node


def tools(*names):
    """Skip if a program is missing, or fail in continuous integration."""
    for name in names:
        with needs_tool(LookupError):
            if not shutil.which(name):
                raise LookupError(f"{name} is not installed: see .ci/run for the packages")


def fetch(script, folder):
    """Call a script that downloads into a folder that is kept for the next time."""
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    with needs_tool(subprocess.CalledProcessError):
        subprocess.run([ROOT / script, folder], check=True, capture_output=True, env=environment)


@pytest.fixture(scope="session")
def kept(request):
    return request.config.cache.mkdir("aarch64")


@pytest.fixture(scope="session")
def program(kept, tmp_path_factory):
    """The C++ program, for 64-bit ARM, in a folder with all that it needs on a board."""
    tools(QEMU, COMPILER, "cmake")
    fetch("examples/cpp/fetch_runtime.sh", kept / "runtime")
    return build(
        tmp_path_factory.mktemp("program"),
        f"-DTVM_LIBRARIES={kept / 'runtime'}",
        f"-DCMAKE_TOOLCHAIN_FILE={ROOT / 'examples/cpp/aarch64.cmake'}",
    )


@pytest.fixture(scope="session")
def python(kept):
    """A Python for 64-bit ARM that has apache-tvm and tvm_sparse."""
    tools(QEMU, "apt-get", "dpkg-deb")
    fetch(".ci/aarch64_python", kept / "python")
    return kept / "python" / "python"


@pytest.fixture(scope="module")
def board(python):
    """TVM's RPC server on 64-bit ARM."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Its own command would start sys.executable again, and that is no program of this machine.
    script = (
        "import threading\nfrom tvm.rpc import server\n"
        f"server._popen_start_rpc_server('127.0.0.1', {port}, {port + 1}, silent=True)\n"
        "threading.Event().wait()\n"
    )
    environment = os.environ | {"TVM_NUM_THREADS": "2"}
    server = subprocess.Popen([python, "-c", script], env=environment)
    found, end = Board("127.0.0.1", port), time.monotonic() + 120
    try:
        while True:
            with contextlib.suppress(RemoteError):
                found.check()
                break
            assert server.poll() is None and time.monotonic() < end, "the server did not start"
            time.sleep(0.2)
        yield found
    finally:
        server.kill()
        server.wait()


def build(folder, *options):
    source = ROOT / "examples" / "cpp"
    options = (f"-DPYTHON={sys.executable}", *options)
    for command in (["cmake", "-S", source, "-B", folder, *options], ["cmake", "--build", folder]):
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
    return folder / "run"


class Case:
    """A model's inputs, its outputs on this machine, and files of both."""

    def __init__(self, model, shapes, folder, columns):
        self.model, self.shapes, self.folder, self.columns = model, shapes, folder, columns
        engine = tvm_sparse.compile(model, shapes, threads=1, columns="off")
        rng = np.random.default_rng(0)
        self.inputs = {
            spec.name: rng.standard_normal(spec.shape).astype("float32")
            if spec.dtype == "float32"
            else rng.integers(0, 2, spec.shape, spec.dtype)
            for spec in engine.inputs
        }
        self.specs, self.outputs = engine.outputs, engine.run(self.inputs)
        for name, array in self.inputs.items():
            array.tofile(folder / f"{name}.bin")

    def compile(self, target, precision="float32"):
        path = self.folder / f"{target}-{precision}.so"
        options = {"columns": self.columns or "auto", "precision": precision}
        tvm_sparse.compile(self.model, self.shapes, target=target, threads=4, **options).save(path)
        if self.columns:
            assert b"tensor_column_" in path.read_bytes(), "no region has been formed"
        return path

    def check(self, outputs, share=1e-4):
        for spec in self.specs:
            want = self.outputs[spec.name]
            assert np.isfinite(want).all() and np.ptp(want) > 0
            atol = share * np.abs(want).max()
            np.testing.assert_allclose(outputs[spec.name], want, rtol=0, atol=atol)

    def run(self, command, library, *options, share=1e-4):
        """Run the C++ program; returns what it prints."""
        arguments = [*command, library, *options, "--runs", "2"]
        for name in self.inputs:
            arguments += ["--input", self.folder / f"{name}.bin"]
        files = {spec.name: self.folder / f"out_{i}.bin" for i, spec in enumerate(self.specs)}
        for path in files.values():
            arguments += ["--output", path]
        result = subprocess.run(arguments, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        self.check(
            {
                spec.name: np.fromfile(files[spec.name], spec.dtype).reshape(spec.shape)
                for spec in self.specs
            },
            share,
        )
        for path in files.values():
            path.unlink()
        return result.stdout


def write_fallbacks(path):
    """Write a model of a sparse layer and of operators that TVM's own lowering computes.

    Some need a library besides the generated code: sorting TVM's, powers and sines the C library's.
    """
    rng = np.random.default_rng(0)
    weights = {
        "w": pruned(rng, (32, 64), 0.1),
        "k": np.array([5]),
        "axis": np.array(1),
        "exponent": np.array(1.7, "float32"),
    }
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Sin", ["a"], ["b"]),
        node("CumSum", ["b", "axis"], ["c"]),
        node("Abs", ["c"], ["d"]),
        node("Pow", ["d", "exponent"], ["y"]),
        node("TopK", ["y", "k"], ["values", "indices"], axis=-1),
        node("Cast", ["indices"], ["places"], to=onnx.TensorProto.FLOAT),
    ]
    outputs = ["y", "values", "places"]
    return write_onnx(path, nodes, {"x": [1, 20, 32]}, outputs, weights)


def write_transformer(path):
    config = replace(transformers.BERT_TINY, layers=1)
    return transformers.bert(path, config, random_weights.RandomWeights(0.9))


def write_convolutional(path):
    """Write a chain of convolutions of every kind, with pooling: larger than an L2 cache."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (16, 3, 3, 3), "w1": (16, 1, 3, 3), "w2": (32, 16, 1, 1), "w3": (32, 32, 3, 3)}
    weights = {name: pruned(rng, shape, 0.2) for name, shape in shapes.items()}
    same, half = {"pads": [1, 1, 1, 1]}, {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        node("Conv", ["x", "w0"], ["a"], **same),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w1"], ["c"], group=16, **same),
        node("MaxPool", ["c"], ["d"], **half),
        node("Conv", ["d", "w2"], ["e"]),
        node("Relu", ["e"], ["f"]),
        node("Conv", ["f", "w3"], ["g"], **same),
        node("GlobalAveragePool", ["g"], ["y"]),
    ]
    return write_onnx(path, nodes, {"x": [1, 3, 96, 96]}, ["y"], weights)


def write_recurrent(path):
    """Write a pruned LSTM of both directions and a pruned GRU, whose states are sparse, too."""
    rng, hidden, weights = np.random.default_rng(0), 72, {}
    for op, gates, directions, width in (("LSTM", 4, 2, 24), ("GRU", 3, 1, 2 * hidden)):
        of_states = pruned(rng, (directions, gates * hidden, hidden), 0.1)
        weights[op + "_W"] = pruned(rng, (directions, gates * hidden, width), 0.1)
        weights[op + "_R"] = of_states / np.float32(0.1 * hidden) ** 0.5
    weights["all"] = np.array([0, 0, -1])
    names = {"hidden_size": hidden, "direction": "bidirectional"}
    nodes = [
        node("LSTM", ["x", "LSTM_W", "LSTM_R"], ["a"], **names),
        node("Transpose", ["a"], ["b"], perm=[0, 2, 1, 3]),
        node("Reshape", ["b", "all"], ["c"]),
        node("GRU", ["c", "GRU_W", "GRU_R"], ["y", "y_h"], hidden_size=hidden),
    ]
    return write_onnx(path, nodes, {"x": [30, 2, 24]}, ["y", "y_h"], weights)


def write_few_bits(path):
    """Write layers on three rows whose weights have 4 or 8 bits, in all forms."""
    weights = {
        "dense": random_codes(40, 96, 4, 32),
        "bytes": random_codes(72, 40, 8, 16, is_symmetric=False),
        "pairs": two_of_four(random_codes(56, 72, 4, 32)),
        "windows": random_codes(30, 56, 4, 128, density=0.05),
    }
    nodes, tensors, last = [], {}, "x"
    for name, weight in weights.items():
        n, k = weight.shape
        whole = weight.padded(1, 8)
        arrays = {
            f"{name}_codes": in_bytes(whole.codes, weight.bits).reshape(n, weight.blocks, -1),
            f"{name}_scales": weight.scales.ravel(),
            f"{name}_zeros": in_bytes(weight.zeros, weight.bits).ravel(),
        }
        sizes = {"N": n, "K": k, "bits": weight.bits, "block_size": weight.block}
        nodes.append(node("MatMulNBits", [last, *arrays], [name], domain="com.microsoft", **sizes))
        tensors, last = tensors | arrays, name
    return write_onnx(path, nodes, {"x": [3, 96]}, [last], tensors)


TOKENS = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (1, 16))

NETWORKS = {
    "transformer": (write_transformer, TOKENS, None),
    "convolutional": (write_convolutional, None, "auto"),
    "columns of 5 rows": (write_convolutional, None, 5),
    "fallbacks": (write_fallbacks, None, None),
    "recurrent": (write_recurrent, None, None),
    "quantized": (write_quantized, None, None),
    "few bits": (write_few_bits, None, None),
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    made = {}

    def case(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("network")
            write, shapes, columns = NETWORKS[name]
            made[name] = Case(write(folder / "model.onnx"), shapes, folder, columns)
        return made[name]

    return case


@pytest.mark.parametrize("name", NETWORKS)
def test_the_program_computes_what_this_machine_does(program, cases, name):
    case = cases(name)
    said = case.run([QEMU, "-L", SYSROOT, program], case.compile("rpi5"), "--threads", "2")
    assert re.match(r"2 runs: fastest \d+\.\d+ ms, median \d+\.\d+ ms\n", said)


@pytest.mark.parametrize("name", ["transformer", "convolutional", "columns of 5 rows", "recurrent"])
def test_the_program_computes_in_float16_what_this_machine_does(program, cases, name):
    case = cases(name)
    library = case.compile("rpi5", "float16")
    case.run([QEMU, "-cpu", "cortex-a76", "-L", SYSROOT, program], library, share=5e-3)


def test_a_board_has_all_forms_of_weights_of_few_bits(cases):
    report = tvm_sparse.compile(cases("few bits").model, target="rpi5", threads=4).report
    kernels = [layer.kernel for layer in report.layers]
    assert kernels == [
        *("block_row_linear", "block_row_linear"),
        *("sparse_pair_row_linear", "sparse_window_row_linear"),
    ]


def test_a_board_skips_words_of_zeros(cases):
    report = tvm_sparse.compile(cases("quantized").model, target="rpi5", threads=4).report
    kernels = {layer.name: layer.kernel for layer in report.layers}
    assert kernels["MatMul_of_d"] == "int8_linear"
    assert kernels["MatMul_of_z"] == "sparse_int8_linear"
    assert kernels["MatMulInteger_of_d_sums"] == "int8_linear"
    assert kernels["MatMulInteger_of_mean_sums"] == "int8_row_linear"


def test_one_library_runs_three_shapes(program, tmp_path):
    model = write_transformer(tmp_path / "model.onnx")
    engine = tvm_sparse.compile(model, threads=1, columns="off")
    library = tmp_path / "rpi4.so"
    tvm_sparse.compile(model, target="rpi4").save(library)
    rng = np.random.default_rng(0)
    for batch, sequence in ((1, 5), (2, 33), (3, 16)):
        inputs = {spec.name: rng.integers(0, 2, (batch, sequence)) for spec in engine.inputs}
        command = [QEMU, "-L", SYSROOT, program, library, "--runs", "1"]
        command += ["--size", f"batch={batch}", "--size", f"sequence={sequence}"]
        for name, array in inputs.items():
            array.tofile(tmp_path / f"{name}.bin")
            command += ["--input", tmp_path / f"{name}.bin"]
        for spec in engine.outputs:
            command += ["--output", tmp_path / f"{spec.name}.out"]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        for name, want in engine.run(inputs).items():
            got = np.fromfile(tmp_path / f"{name}.out", "float32").reshape(want.shape)
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_python_computes_what_this_machine_does(python, cases):
    script = (
        "import sys, numpy as np, tvm_sparse\n"
        "for folder in sys.argv[1:]:\n"
        "    engine = tvm_sparse.load(f'{folder}/rpi5-float32.so', threads=2)\n"
        "    inputs = [np.fromfile(f'{folder}/{s.name}.bin', s.dtype).reshape(s.shape)\n"
        "              for s in engine.inputs]\n"
        "    np.savez(f'{folder}/out.npz', **engine.run(inputs))\n"
    )
    networks = [cases(name) for name in NETWORKS]
    for case in networks:
        case.compile("rpi5")
    folders = [case.folder for case in networks]
    command = [python, "-c", script, *folders]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folders[0])
    assert result.returncode == 0, result.stderr
    for case in networks:
        case.check(np.load(case.folder / "out.npz"))


@pytest.mark.parametrize(("target", "bits"), [("rpi4", 0), ("rpi5", 4)])
def test_a_decoder_writes_what_it_writes_here(python, target, bits, tmp_path):
    """A prompt and three tokens, from caches of float32 and of float16."""
    path = TinyDecoder(layers=1, bits=bits, window=6).write(tmp_path / "tiny.onnx")
    tvm_sparse.compile(path, target=target, threads=2).save(tmp_path / "arm.so")
    script = (
        "import numpy as np, tvm_sparse\n"
        "session = tvm_sparse.load('arm.so', threads=2).session(tokens=64)\n"
        f"np.save('logits.npy', np.concatenate([session.step(ids) for ids in {CHUNKS}]))\n"
    )
    command = [python, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    session = tvm_sparse.compile(path, threads=2).session(tokens=64)
    want = np.concatenate([session.step(ids) for ids in CHUNKS])
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), want, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_board_computes_over_rpc_what_this_machine_does(board, cases, name):
    case = cases(name)
    with RemoteEngine(board.connect(), case.compile("rpi5")) as engine:
        case.check(engine.run(case.inputs))
        assert (engine.threads, engine.info.machine) == (2, "aarch64")
        assert len(engine.measure(2)) == 2


def test_a_board_is_tuned_over_rpc(board, tmp_path):
    model, records = write_mlp(tmp_path / "mlp.onnx"), tmp_path / "records.jsonl"
    shapes = {"x": (1, 20, 32)}
    tuned = tune.tune(model, shapes, "rpi5", 2, board=board, trials_per_region=1, records=records)
    assert tuned and not any(part.outcome.failures for part in tuned)
    assert "cortex-a76" in records.read_text()


@pytest.mark.parametrize(
    ("target", "cpu"),
    [
        ("armv8-a", "cortex-a53"),
        ("rpi3", "cortex-a53"),
        ("rpi4", "cortex-a72"),
        ("rpi5", "cortex-a76"),
        ("graviton2", "neoverse-n1"),
        # Its code has no SVE: any length of SVE's vectors, and none, must do.
        ("graviton3", "max,sve=off"),
        ("graviton3", "max,sve-max-vq=1"),
        ("graviton3", "max,sve-max-vq=4"),
        ("apple-m1", "max"),
    ],
)
def test_processors_have_all_instructions_of_their_profile(program, cases, target, cpu):
    case = cases("transformer")
    case.run([QEMU, "-cpu", cpu, "-L", SYSROOT, program], case.compile(target))


def test_the_program_says_what_is_wrong(program, cases):
    case = cases("fallbacks")
    library = case.compile("rpi4")

    def fails(*arguments):
        command = [QEMU, "-L", SYSROOT, program, *arguments]
        result = subprocess.run(command, capture_output=True, text=True)
        assert (result.returncode, result.stdout) == (2, "")
        return result.stderr

    assert "usage: run MODEL.so" in fails()
    assert "missing.so" in fails("missing.so")
    assert "no.bin: cannot be read" in fails(library, "--input", "no.bin")
    assert "bytes, and x has 2560" in fails(library, "--input", library)
    assert "has 1 inputs and 3 outputs" in fails(library, *["--input", library] * 2)
    assert "--inptu: unknown argument" in fails(library, "--inptu", "x.bin")


def test_the_program_builds_for_this_machine_too(cases, tmp_path):
    tools("cmake", "c++")
    program, case = build(tmp_path), cases("fallbacks")
    library = case.compile("native")
    case.run([program], library)
    result = subprocess.run([program, library], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[0] == "input x float32 [1,20,32]"
    result = subprocess.run([program, "--help"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("usage: run MODEL.so")


def test_the_program_refuses_what_onnxruntime_has_to_run(tmp_path):
    tools("cmake", "c++")
    program = build(tmp_path)
    nodes = [onnx.helper.make_node("Det", ["x"], ["y"], name="/head/Det")]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": [3, 4, 4]}, ["y"], {})
    tvm_sparse.compile(path).save(tmp_path / "m.so")
    result = subprocess.run([program, tmp_path / "m.so"], capture_output=True, text=True)
    assert result.returncode == 2
    assert "ONNX Runtime has to run /head/Det (Det)" in result.stderr
