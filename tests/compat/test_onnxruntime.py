"""Sessions of ONNX Runtime that run compiled code."""

import importlib.util
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx.helper import make_node

import tvm_sparse
import tvm_sparse.onnxruntime as ort
from tvm_sparse.onnx_runtime import onnxruntime
from tvm_sparse.testing.models import onnxruntime_outputs, write_mlp, write_onnx
from tvm_sparse.zoo.random_weights import RandomWeights
from tvm_sparse.zoo.transformers import BERT_TINY, bert

EXAMPLES = Path(__file__).parents[2] / "examples" / "onnxruntime"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, *["zero", "weights", "take", "no", "time", "a", "column", "of", "rows"]]


def options(**entries):
    found = ort.SessionOptions()
    found.intra_op_num_threads = 1
    for name, value in entries.items():
        found.add_session_config_entry(f"tvm_sparse.{name}", value)
    return found


def feed(tokens, seed=0):
    return {"x": np.random.default_rng(seed).standard_normal((1, tokens, 32), "float32")}


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    return write_mlp(tmp_path_factory.mktemp("ort") / "mlp.onnx")


def test_it_is_a_session_of_onnxruntime_in_all_but_run(mlp):
    session = ort.InferenceSession(str(mlp), options(), providers=["CPUExecutionProvider"])
    plain = onnxruntime.InferenceSession(str(mlp), providers=["CPUExecutionProvider"])
    assert isinstance(session, onnxruntime.InferenceSession)
    for ours, theirs in (
        (session.get_inputs(), plain.get_inputs()),
        (session.get_outputs(), plain.get_outputs()),
    ):
        assert [(v.name, v.type, v.shape) for v in ours] == [
            (v.name, v.type, v.shape) for v in theirs
        ]
    assert session.get_providers() == plain.get_providers()
    assert ort.get_available_providers() == onnxruntime.get_available_providers()


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("auto", 1e-2)])
def test_one_library_takes_all_sizes(mlp, precision, tolerance, caplog):
    session = ort.InferenceSession(mlp, options(precision=precision))
    for tokens in (20, 8, 64):
        (y,) = session.run(None, feed(tokens))
        expected = onnxruntime_outputs(mlp, feed(tokens))["y"]
        np.testing.assert_allclose(y, expected, atol=tolerance * np.abs(expected).max())
    assert session._open.inputs[0].shape == ("batch", "tokens", 32)
    assert len(session._engines) == 1
    with pytest.raises(Exception, match="Got: 31 Expected: 32"):
        session.run(None, {"x": np.zeros((1, 20, 31), "float32")})
    assert not caplog.records


def test_sizes_that_kernels_must_know_have_a_library_each(tmp_path, caplog):
    nodes = [make_node("Einsum", ["x", "x"], ["y"], equation="bik,bjk->bij")]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": ["n", "k", 8]}, ["y"], {}, opset=13)
    session = ort.InferenceSession(path, options())
    for count in (4, 6):
        x = np.random.default_rng(0).standard_normal((2, count, 8)).astype("float32")
        np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ x.swapaxes(1, 2), rtol=1e-4)
    assert len(session._engines) == 2
    assert "each set of shapes gets a library" in caplog.text


def test_every_set_of_shapes_is_compiled_once(mlp):
    session = ort.InferenceSession(mlp, options(shapes="8"))
    for tokens in (20, 8, 20):
        (y,) = session.run(None, feed(tokens))
        expected = onnxruntime_outputs(mlp, feed(tokens))["y"]
        np.testing.assert_allclose(y, expected, atol=1e-4 * np.abs(expected).max())
    assert len(session._engines) == 2
    assert all(engine.threads == 1 for engine in session._engines.values())


def test_names_of_outputs(model, inputs, expected):
    session = ort.InferenceSession(model, options())
    named = dict(zip(("b", "a"), inputs, strict=True))
    found = session.run(["h"], named)
    np.testing.assert_allclose(found[0], expected["h"], atol=1e-4 * np.abs(expected["h"]).max())
    assert [array.shape for array in session.run([], named)] == [(4, 96), (4, 96)]
    with pytest.raises(tvm_sparse.TvmSparseError, match="unknown output 'z'"):
        session.run(["z"], named)


def test_other_shapes_run_in_onnxruntime_after_one_warning(mlp, caplog):
    session = ort.InferenceSession(mlp, options(shapes="1"))
    session.run(None, feed(20))
    with caplog.at_level(logging.WARNING, "tvm_sparse"):
        for tokens in (8, 9):
            (y,) = session.run(None, feed(tokens))
            expected = onnxruntime_outputs(mlp, feed(tokens))["y"]
            np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    (record,) = caplog.records
    assert "ONNX Runtime runs others, such as x [1, 8, 32]" in record.message


def test_mistakes_are_those_of_onnxruntime(mlp):
    session = ort.InferenceSession(mlp, options())
    with pytest.raises(Exception, match="Required inputs"):
        session.run(None, {"z": feed(20)["x"]})


def test_libraries_are_kept_for_the_next_process(mlp, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = ort.InferenceSession(mlp, options(cache=str(cache))).run(None, feed(20))
    (library,) = cache.iterdir()
    monkeypatch.setattr(tvm_sparse.compiler, "compile", None)
    again = ort.InferenceSession(mlp, options(cache=str(cache)))
    np.testing.assert_array_equal(again.run(None, feed(20))[0], first[0])
    monkeypatch.undo()
    library.unlink()  # the old file is mapped
    library.write_bytes(b"damaged")
    third = ort.InferenceSession(mlp, options(cache=str(cache)))
    np.testing.assert_array_equal(third.run(None, feed(20))[0], first[0])


def test_models_in_memory_run_in_onnxruntime(mlp, caplog):
    with caplog.at_level(logging.WARNING, "tvm_sparse"):
        session = ort.InferenceSession(mlp.read_bytes(), options())
    assert "it is in memory" in caplog.text
    assert session.run(None, feed(20))[0].shape == (1, 20, 48)


def test_our_own_parts_in_onnxruntime_are_not_taken_over(tmp_path):
    nodes = [make_node("Det", ["x"], ["d"]), make_node("Relu", ["x"], ["y"])]
    path = write_onnx(tmp_path / "d.onnx", nodes, {"x": [3, 3]}, ["d", "y"], {})
    ort.take_over()
    try:
        session = onnxruntime.InferenceSession(str(path), options())
        assert isinstance(session, ort.InferenceSession)
        x = np.eye(3, dtype="float32") * 2
        assert session.run(["d"], {"x": x})[0] == pytest.approx(8)
        assert session._engines[((3, 3),)].info.fallbacks
    finally:
        ort.give_back()
    assert onnxruntime.InferenceSession is not ort.InferenceSession


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BERT with a tokenizer, as a folder of transformers."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    folder = tmp_path_factory.mktemp("bert")
    bert(folder / "model.onnx", BERT_TINY, RandomWeights(0.9))
    tokenizer = tokenizers.Tokenizer(
        WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = Whitespace()
    ends = [(name, WORDS.index(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]",
               "sep_token": "[SEP]", "mask_token": "[MASK]"}  # fmt: skip
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 16, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(
        json.dumps({"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 64,
                    "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0,
                    "intermediate_size": 256, "vocab_size": 1000})
    )  # fmt: skip
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("library", ["fastembed", "optimum", "sentence_transformers"])
def test_libraries_switch_by_one_line(library, folder, tmp_path):
    """Their vectors are those of a plain session, which is told apart by its module's name."""
    needed = {
        "fastembed": ["fastembed"],
        "optimum": ["optimum.onnxruntime", "torch"],
        "sentence_transformers": ["sentence_transformers", "optimum.onnxruntime"],
    }
    for name in needed[library]:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            pytest.skip(f"{name} is not installed")
    script = (EXAMPLES / f"with_{library}.py").read_text()
    plain = script.replace("tvm_sparse.onnxruntime.take_over()", "pass")
    said, vectors = [], []
    for number, text in enumerate((script, plain)):
        path = tmp_path / f"script{number}.py"
        path.write_text(text)
        saved = tmp_path / f"{number}.npy"
        done = subprocess.run(
            [sys.executable, path, folder, "64", saved],
            capture_output=True, text=True, timeout=300,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.split()[0])
        vectors.append(np.load(saved))
    assert said[0] == "tvm_sparse.onnxruntime.session"
    assert said[1].startswith("onnxruntime")
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-4)
    assert np.abs(vectors[0][0] - vectors[0][1]).max() > 1e-3
