import dataclasses
import json
import sys

import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import make_node
from rich.console import Console
from run import joined

from tvm_sparse.bench import peers
from tvm_sparse.bench.arrays import output_error, random_inputs
from tvm_sparse.bench.comparison import compare
from tvm_sparse.bench.multiply_adds import MultiplyAdds, count_multiply_adds
from tvm_sparse.bench.peers import PeerError, PeerProcess
from tvm_sparse.bench.results import Comparison, EngineResult
from tvm_sparse.bench.tables import latency_table, readme_table, to_json
from tvm_sparse.errors import InputError
from tvm_sparse.frontends.input_shapes import bind_shapes
from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.specs import TensorSpec
from tvm_sparse.testing.models import write_onnx
from tvm_sparse.zoo import recipes, transformers

QUICK = {"rounds": 2, "seconds": 0.0, "threads": 1}

# Stands in for a peer's Python: ONNX Runtime behind the real protocol, its outputs scaled.
FAKE_PYTHON = """#!{python}
import importlib.util, sys
spec = importlib.util.spec_from_file_location("peer_worker", sys.argv[1])
worker = importlib.util.module_from_spec(spec)
sys.modules["peer_worker"] = worker
spec.loader.exec_module(worker)

def open_scaled(path, threads, float32=False):
    engine = worker.open_onnxruntime(path, threads)
    engine.precision = "float32" if float32 else "{precision}"
    print("a banner on standard output")
    engine.arrays = lambda outputs: [output * {scale} for output in outputs]
    engine.version = "0.1"
    return engine

worker.ENGINES["openvino"] = ("onnxruntime", open_scaled)
worker.main(sys.argv[2])
"""


def fake_python(scale, precision="float32"):
    return FAKE_PYTHON.format(python=sys.executable, scale=scale, precision=precision)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    recipe = recipes.recipe("bert-tiny-90")
    return recipe.build(tmp_path_factory.mktemp("model") / "bert.onnx"), recipe.shapes


@pytest.fixture
def install_peer(tmp_path, monkeypatch):
    monkeypatch.setenv(peers.PEERS_VARIABLE, str(tmp_path))

    def install(engine, script):
        python = tmp_path / engine / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(script)
        python.chmod(0o755)

    return install


def comparison_of(*measurements, work=None):
    return Comparison("model", 2, measurements, work, fma_peak=1e9)


def test_engines_are_checked_and_timed_in_rounds(model, install_peer):
    install_peer("openvino", fake_python(1.00001))
    path, shapes = model
    before = path.read_bytes()
    comparison = compare(path, shapes, engines=("onnxruntime", "openvino"), **QUICK)
    reference, peer = comparison.measurements
    assert [len(reference.rounds), len(peer.rounds)] == [2, 2]
    assert all(len(samples) >= 3 for samples in peer.rounds)
    assert reference.output_error is None
    assert 1e-6 < peer.output_error < 1e-4
    assert peer.version == "0.1"
    assert peer.peak_bytes > 1e6
    assert reference.library_bytes == pytest.approx(len(before), rel=0.01)
    assert comparison.ratio("onnxruntime", "openvino") is not None
    assert path.read_bytes() == before


def test_a_peer_that_chooses_another_precision_is_measured_in_float32_too(model, install_peer):
    install_peer("openvino", fake_python(1.0001, precision="bfloat16"))
    comparison = compare(*model, engines=("onnxruntime", "openvino"), **QUICK)
    found = {m.engine: m.precision for m in comparison.measurements}
    assert found == {
        "onnxruntime": "float32", "openvino": "bfloat16", "openvino-float32": "float32"
    }  # fmt: skip
    # The error of 1e-4 is more than float32 may have.
    assert comparison["openvino"].rounds and not comparison["openvino-float32"].rounds
    assert comparison.share_of_peak("openvino") is None
    header = readme_table([comparison]).splitlines()[0]
    assert "| ONNX Runtime fp32 ms | OpenVINO bf16 ms | OpenVINO fp32 ms |" in header


def test_wrong_outputs_are_reported_and_not_timed(model, install_peer):
    install_peer("openvino", fake_python(1.01))
    comparison = compare(*model, engines=("onnxruntime", "openvino"), **QUICK)
    assert comparison["openvino"].failure.startswith("wrong outputs: relative error 1.0e-02")
    assert comparison["openvino"].rounds == ()
    assert comparison["onnxruntime"].rounds


def test_a_missing_and_a_dying_peer_stay_in_the_result(model, install_peer):
    install_peer("openvino", "#!/bin/sh\necho out of luck >&2\nexit 3\n")
    comparison = compare(*model, engines=("onnxruntime", "deepsparse", "openvino"), **QUICK)
    assert "not installed" in comparison["deepsparse"].failure
    assert "benchmarks/peers.sh" in comparison["deepsparse"].failure
    assert comparison["openvino"].failure == "failed: ended with code 3: out of luck"
    assert comparison["onnxruntime"].rounds


def test_without_a_model_only_a_library_with_inputs_can_be_measured():
    with pytest.raises(InputError, match="give a library and its inputs"):
        compare(None, engines=("onnxruntime",))


def test_worker_answers_errors_and_goes_on(model):
    with PeerProcess("onnxruntime") as process:
        with pytest.raises(PeerError, match="failed: "):
            process.call("load", path="/nowhere.onnx", threads=1)
        assert process.call("memory")["peak_bytes"] > 1e6


def test_unknown_engine():
    with pytest.raises(PeerError, match="unknown engine 'torch'"):
        PeerProcess("torch")


def test_ratios_are_taken_round_by_round():
    slow = EngineResult("onnxruntime", rounds=((4.0, 6.0), (9.0, 8.0), (5.0,)))
    fast = EngineResult("tvm-sparse", rounds=((2.0, 3.0), (2.0, 9.0), (1.0,)))
    ratio = comparison_of(slow, fast).ratio("onnxruntime")
    assert (ratio.of_minima, ratio.median, ratio.low, ratio.high) == (4.0, 4.0, 2.0, 5.0)


def test_several_starts_count_together_and_a_failure_in_one_for_all():
    starts = [
        comparison_of(
            EngineResult("tvm-sparse", rounds=((ours,),)),
            EngineResult("deepsparse", rounds=((peer,),)),
            EngineResult("openvino", **last),
        )
        for ours, peer, last in [
            (1.0, 5.0, {"failure": "died"}),
            (2.0, 4.0, {"rounds": ((1.0,),)}),
        ]
    ]
    comparison = joined(starts)
    ratio = comparison.ratio("deepsparse")
    assert (ratio.of_minima, ratio.low, ratio.high) == (4.0, 2.0, 5.0)
    assert comparison["openvino"].failure == "died" and comparison.ratio("openvino") is None


def test_ratio_to_an_engine_that_was_not_timed_is_none():
    comparison = comparison_of(EngineResult("tvm-sparse", rounds=((1.0,),)))
    assert comparison.ratio("deepsparse") is None


def test_share_of_peak_counts_nonzero_work_of_all_threads():
    fast = EngineResult("tvm-sparse", rounds=((0.5, 1.0),))
    comparison = comparison_of(fast, work=MultiplyAdds(total=10**10, nonzero=10**8))
    # In float16 the peak is twice as high.
    half = dataclasses.replace(fast, engine="half", precision="float16")
    assert comparison_of(half, work=comparison.work).share_of_peak("half") == pytest.approx(0.1)
    quicker = dataclasses.replace(half, rounds=((0.01,),))
    assert comparison_of(quicker, work=comparison.work).share_of_peak("half") is None
    # 2e8 operations in half a second, on two threads of 1e9 a second each.
    assert comparison.share_of_peak("tvm-sparse") == pytest.approx(0.2)


@pytest.mark.parametrize(
    "actual, error",
    [([[4.0, -8.0]], 0.0), ([[4.0, -7.0]], 0.125), ([[0.0]], np.inf), ([], np.inf)],
)
def test_output_error_is_relative_to_the_largest_output(actual, error):
    arrays = [np.array(a, np.float32) for a in actual]
    assert output_error(arrays, [np.array([4.0, -8.0], np.float32)]) == error


def test_output_error_of_nan_is_nan():
    assert np.isnan(output_error([np.array([np.nan])], [np.array([1.0])]))


def test_random_inputs_suit_their_names():
    specs = [
        TensorSpec("input_ids", (2, 50), "int64"),
        TensorSpec("attention_mask", (2, 50), "int64"),
        TensorSpec("token_type_ids", (2, 50), "int64"),
        TensorSpec("pixel_values", (1, 3, 8, 8), "float32"),
    ]
    inputs = random_inputs(specs, seed=3)
    for spec in specs:
        spec.check(inputs[spec.name])
    assert inputs["input_ids"].max() > 500
    assert (inputs["attention_mask"] == 1).all()
    assert set(np.unique(inputs["token_type_ids"])) == {0, 1}
    np.testing.assert_array_equal(inputs["input_ids"], random_inputs(specs, 3)["input_ids"])


def test_multiply_adds_of_bert(model):
    path, shapes = model
    proto, folder = read_model(path)
    bind_shapes(proto, shapes)
    work = count_multiply_adds(proto, folder)
    config, tokens = transformers.BERT_TINY, 16
    linear = config.width * (4 * config.width + 2 * config.intermediate) * tokens * config.layers
    attention = 2 * tokens * tokens * config.width * config.layers
    pooler = config.width**2
    assert work.total == linear + attention + pooler
    assert work.nonzero == pytest.approx(0.1 * linear + attention + pooler, rel=1e-3)


def test_multiply_adds_of_a_convolution(tmp_path):
    recipe = recipes.recipe("vit-tiny-0")
    proto, folder = read_model(recipe.build(tmp_path / "vit.onnx"))
    bind_shapes(proto, recipe.shapes)
    config, tokens = transformers.VIT_TINY, 17
    patches = 16 * config.width * 3 * 16 * 16
    linear = config.width * (4 * config.width + 2 * config.intermediate) * tokens * config.layers
    attention = 2 * tokens * tokens * config.width * config.layers
    work = count_multiply_adds(proto, folder)
    assert work.total == work.nonzero == patches + linear + attention + 10 * config.width


@pytest.mark.parametrize(
    "before",
    [
        [
            make_node("NonZero", ["x"], ["places"]),
            make_node("Cast", ["places"], ["t"], to=TensorProto.FLOAT),
        ],
        [make_node("Scaler", ["x"], ["t"], domain="ai.onnx.ml", offset=[1.0], scale=[2.0])],
    ],
    ids=["NonZero", "Scaler"],
)
def test_no_multiply_adds_where_shapes_are_open(tmp_path, before):
    nodes = [*before, make_node("MatMul", ["r", "t"], ["y"])]
    weights = {"r": np.ones((5, 2), "float32")}
    path = tmp_path / "m.onnx"
    write_onnx(path, nodes, {"x": [2, 8]}, ["y"], weights, domains=["ai.onnx.ml"])
    assert count_multiply_adds(*read_model(path)) is None


@pytest.fixture
def results():
    return comparison_of(
        EngineResult("tvm-sparse", "0.1.0", rounds=((0.01,),), output_error=2e-6,
                    compile_seconds=31.0, library_bytes=10**8, peak_bytes=2 * 10**8),
        EngineResult("onnxruntime", "1.20", rounds=((0.09,),)),
        EngineResult("deepsparse", failure="not installed: .peers/deepsparse does not exist"),
        work=MultiplyAdds(10**7, 10**6),
    )  # fmt: skip


def test_readme_table(results):
    header, _, row, _, footer = readme_table([results]).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["model", "2", "**10.0**", "90.0 (9.0x)", "not installed", "10%", "31", "100",
                     "200"]  # fmt: skip
    assert header.count("|") == row.count("|")
    assert "tvm-sparse 0.1.0, ONNX Runtime 1.20" in footer


def test_terminal_table_fits_80_columns(results):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(latency_table(results))
    text = capture.get()
    assert "…" not in text
    assert "9.00x" in text
    assert "DeepSparse: not installed: .peers/deepsparse does not exist" in text
    assert "compiled in 31.0 s" in text


def test_json_holds_machine_and_every_run(results):
    record = json.loads(json.dumps(to_json([results])))
    assert record["machine"]["cpu"]
    measurement = record["comparisons"][0]["measurements"][1]
    assert measurement["rounds"] == [[0.09]]
    assert measurement["ratio_to_ours"]["of_minima"] == pytest.approx(9.0)
