"""Scripts for DeepSparse run with only the import changed, and compute the same numbers."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx.helper import make_node

from tvm_sparse.bench.peers import PeerError, find_python
from tvm_sparse.testing.models import pruned, write_onnx

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "deepsparse").glob("*.py"))

SAVE = """
import sys
import numpy as np
from tvm_sparse.compat.deepsparse import Engine, Scheduler, compile_model
from tvm_sparse.compat.deepsparse.utils import get_input_names, get_output_names, model_to_path

path = model_to_path(sys.argv[1])
engine = compile_model(path, batch_size=2, num_cores=2, scheduler=Scheduler.multi_stream)
arrays = np.load(sys.argv[2])
inputs = [arrays[name] for name in engine.input_names]
assert engine.input_names == get_input_names(path)
assert engine.output_names == get_output_names(path)
pair = [np.ascontiguousarray(array[:2]) for array in inputs]
found = dict(zip(engine.output_names, engine.run(pair)))
mapped = engine.mapped_run(pair)
timed, seconds = engine.timed_run(pair)
assert seconds > 0
for number, name in enumerate(engine.output_names):
    np.testing.assert_array_equal(mapped[name], found[name])
    np.testing.assert_array_equal(timed[number], found[name])
found |= {f"batched {i}": array for i, array in enumerate(engine.batched_run(inputs))}
results = engine.benchmark(pair, num_iterations=3, include_outputs=True)
assert results.num_batches == 3 and results.num_items == 6
np.testing.assert_array_equal(results.outputs[0][0], found[engine.output_names[0]])
for wrong in (tuple(pair), [array[:1] for array in pair]):
    try:
        engine.run(wrong)
    except ValueError:
        continue
    raise AssertionError("no ValueError")
properties = [engine.batch_size, engine.num_cores, engine.fraction_of_supported_ops,
              [list(shape) for shape in engine.input_shapes]]
print(properties)
np.savez(sys.argv[3], **found)
"""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(path, model, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", [path.name, str(model)])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


@pytest.fixture
def apart(tmp_path):
    """Two inputs and two outputs with nothing in common.

    DeepSparse 1.8.0 computes the sum of two pruned products wrong, by AVX-512 in batches of two.
    """
    rng = np.random.default_rng(0)
    weights = {"w": pruned(rng, (64, 96), 0.1), "v": pruned(rng, (48, 96), 0.1)}
    nodes = [
        make_node("MatMul", ["b", "w"], ["h"]),
        make_node("Relu", ["h"], ["out"]),
        make_node("MatMul", ["a", "v"], ["g"]),
        make_node("Tanh", ["g"], ["other"]),
    ]
    inputs = {"b": [4, 64], "a": [4, 48]}
    return write_onnx(tmp_path / "apart.onnx", nodes, inputs, ["out", "other"], weights)


def test_one_script_in_both_packages(apart, inputs, tmp_path):
    try:
        python = find_python("deepsparse")
    except PeerError as error:
        pytest.skip(f"DeepSparse: {error}")
    np.savez(tmp_path / "in.npz", b=inputs[0][:3], a=inputs[1][:3])
    said = []
    for interpreter, script, name in (
        (sys.executable, SAVE, "ours"),
        (python, SAVE.replace("tvm_sparse.compat.deepsparse", "deepsparse"), "theirs"),
    ):
        (tmp_path / f"{name}.py").write_text(script)
        done = subprocess.run(
            [interpreter, tmp_path / f"{name}.py", apart, tmp_path / "in.npz",
             tmp_path / f"{name}.npz"],
            capture_output=True, text=True, timeout=300,
            env={**os.environ, "NM_DISABLE_ANALYTICS": "True"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.splitlines()[-1])
    assert said[0] == said[1]
    with np.load(tmp_path / "ours.npz") as ours, np.load(tmp_path / "theirs.npz") as theirs:
        assert list(ours) == list(theirs)
        for name in theirs:
            bound = 1e-5 * np.abs(theirs[name]).max()
            np.testing.assert_allclose(ours[name], theirs[name], atol=bound)
