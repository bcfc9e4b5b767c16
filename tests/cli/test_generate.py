"""``tvm-sparse generate``: text of a tiny language model, and how mistakes end."""

import json

import numpy as np
import pytest

import tvm_sparse
from tvm_sparse.testing.sessions import byte_tokenizer
from tvm_sparse.testing.tiny_decoders import TinyDecoder


@pytest.fixture(scope="module")
def decoder(folder):
    """Return a library whose tokens are bytes."""
    path = TinyDecoder(vocabulary=256).write(folder / "decoder.onnx")
    engine = tvm_sparse.compile(path, threads=2)
    engine.save(folder / "decoder.so")
    return folder / "decoder.so"


def likeliest(library, ids, tokens):
    session, written = tvm_sparse.load(library).session(tokens=64), []
    logits = session.step(ids)
    while len(written) < tokens:
        written.append(int(np.argmax(logits[-1])))
        logits = session.step(written[-1:])
    return written


@pytest.mark.parametrize("lookup", [0, 3])
def test_numbers(call, decoder, lookup):
    status, out, err = call(
        "generate", decoder, "--ids", "5,6,7", "--tokens", 12, "--lookup", lookup
    )
    assert status == 0
    assert [int(number) for number in out.split(",")] == likeliest(decoder, [5, 6, 7], 12)
    assert "3 tokens read" in err and "12 written" in err


def test_writing_needs_no_compiler(decoder, without_compiler):
    written = without_compiler("generate", decoder, "--ids", "5", "--tokens", 2)
    assert len(written.split(",")) == 2


def test_json(call, decoder):
    status, out, _ = call("generate", decoder, "--ids", "5", "--tokens", 4, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["ids"] == likeliest(decoder, [5], 4)
    assert found["prefill_tokens_per_second"] > 0
    assert found["decode_tokens_per_second"] > 0


def test_perplexity(call, decoder):
    ids = np.random.default_rng(0).integers(0, 256, 40).tolist()
    ask = ("generate", decoder, "--ids", ",".join(map(str, ids)), "--perplexity")
    found = json.loads(call(*ask, "--context", 64, "--json")[1])
    logits = tvm_sparse.load(decoder).session(tokens=64).step(ids)[:-1].astype("float64")
    known = logits[np.arange(39), ids[1:]] - np.log(np.exp(logits).sum(-1))
    np.testing.assert_allclose(found["perplexity"], np.exp(-known.mean()), rtol=1e-4)
    assert (found["scored"], found["tokens"], found["window"]) == (39, 40, 64)
    status, out, _ = call(*ask, "--context", 10)
    assert status == 0 and "over 20 of 40 tokens, in windows of 10" in out
    status, _, err = call(*ask, "--tokens", 3)
    assert status and "--perplexity writes nothing" in err


def test_text(call, decoder, folder):
    pytest.importorskip("tokenizers")
    byte_tokenizer(folder)
    ask = ("generate", decoder, "--prompt", "ab", "--tokens", 8, "--json")
    whole = json.loads(call(*ask)[1])
    assert (whole["prompt_tokens"], whole["ended"]) == (2, "length")
    word = whole["text"][3:5]
    stopped = json.loads(call(*ask, "--stop", word)[1])
    assert stopped["text"] == whole["text"][: whole["text"].index(word)]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": whole["ids"][2]}))
    ended = json.loads(call(*ask)[1])
    assert ended["ids"] == whole["ids"][: whole["ids"].index(whole["ids"][2])]
    assert json.loads(call(*ask, "--ignore-eos")[1])["ids"] == whole["ids"]


def test_draws(call, decoder):
    ask = ("generate", decoder, "--ids", "5", "--tokens", 20, "--temperature", 2, "--seed", 1)
    assert call(*ask)[1] == call(*ask)[1]
    assert call(*ask)[1] != call(*ask[:-1], 2)[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ids", "300"], "300 is no token"),
        (["--ids", "1", "--tokens", "0"], "--tokens is 0"),
        (["--ids", "1", "--context", "2", "--tokens", "9"], "do not fit"),
        (["--ids", "1", "--top-p", "0.5"], "--temperature"),
        (["--ids", "1", "--stop", "x"], "--stop says nothing"),
        (["--prompt", "x", "--tokenizer", "none.json"], "none.json"),
    ],
)
def test_mistakes(call, decoder, arguments, said):
    status, _, err = call("generate", decoder, *arguments)
    assert status == 2
    assert said in err and err.count("error: ") == 1


def test_other_models(fails, library):
    assert "no decoder" in fails("generate", library, "--ids", "1")
