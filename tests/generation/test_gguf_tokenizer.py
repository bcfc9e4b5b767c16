"""Tokenizers inside GGUF files: words, byte pairs, scores, and the tokens that end a text."""

from __future__ import annotations

import itertools
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.errors import InputError, ToolError
from tvm_sparse.generation.model_folder import stop_tokens_beside, tokenizer_beside
from tvm_sparse.generation.text import Tokenizer

gguf = pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
SPACE = "▁"


def write(path, model, tokens, kinds, pre=None, scores=None, merges=None, **fields):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    if scores is not None:
        writer.add_token_scores(scores)
    if merges is not None:
        writer.add_token_merges(merges)
    for name, value in fields.items():
        getattr(writer, f"add_{name}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>"]
BYTES = [f"<0x{number:02X}>" for number in range(256)]
LETTERS = [SPACE, *"abc"]
JOINED = ["ab", SPACE + "a", "bc", SPACE + "ab", "abc", "ca", "aa", SPACE + "c", "aab", SPACE * 2]
SCORED = [*SPECIAL, *BYTES, *JOINED, *LETTERS]
SCORES = {token: -float(i) for i, token in enumerate([*JOINED, *LETTERS])}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    kinds = [UNKNOWN, CONTROL, CONTROL, USER_DEFINED, *[BYTE] * 256]
    kinds += [NORMAL] * (len(SCORED) - len(kinds))
    scores = [SCORES.get(token, 0.0) for token in SCORED]
    path = tmp_path_factory.mktemp("gguf") / "scored.gguf"
    write(path, "llama", SCORED, kinds, scores=scores, bos_token_id=1, eos_token_id=2,
          eot_token_id=3)  # fmt: skip
    return path


def joined_by_scores(text):
    """Join the two neighbours that make the token of the highest score, the first of them."""
    pieces = list((SPACE + text).replace(" ", SPACE))
    while True:
        pairs = [
            (-SCORES[a + b], place)
            for place, (a, b) in enumerate(itertools.pairwise(pieces))
            if a + b in SCORES
        ]
        if not pairs:
            break
        _, place = min(pairs)
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    ids = []
    for piece in pieces:
        raw = [f"<0x{byte:02X}>" for byte in piece.encode()]
        ids += [SCORED.index(token) for token in ([piece] if piece in SCORES else raw)]
    return ids


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="abc dé\n", min_size=1, max_size=20))
def test_scores_decide_what_is_joined(scored, text):
    tokenizer = Tokenizer(scored)
    ids = tokenizer.encode(text)
    assert ids == [1, *joined_by_scores(text)]
    assert tokenizer.decode(ids) == text


def test_special_tokens_are_found_in_a_text(scored):
    ids = Tokenizer(scored).encode("<|user|>a</s>", has_special=True)
    assert ids[0] == 3 and ids[-1] == 2


def test_a_model_is_its_own_tokenizer(scored, tmp_path):
    assert tokenizer_beside(scored) == scored
    assert stop_tokens_beside(scored) == {2, 3}
    assert stop_tokens_beside(tmp_path / "model.so", scored) == {2, 3}


ALPHABET = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
MERGES = ["1 2", "12 3", "d o", "do n", "Ġ w", "' t"]


def byte_pairs(path, pre, **fields):
    tokens = [*ALPHABET, *(merge.replace(" ", "") for merge in MERGES), "<|end|>"]
    kinds = [*[NORMAL] * (len(tokens) - 1), CONTROL]
    ends = {"eos_token_id": len(tokens) - 1, "bos_token_id": len(tokens) - 1}
    return tokens, write(path, "gpt2", tokens, kinds, pre, merges=MERGES, **ends, **fields)


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["123", "12"]),
        ("llama-bpe", ["123", "12"]),
        ("qwen2", [*"12312"]),
        ("smollm", [*"12312"]),
    ],
)
def test_words_of_byte_pairs(tmp_path, pre, pieces):
    tokens, path = byte_pairs(tmp_path / "m.gguf", pre)
    tokenizer = Tokenizer(path)
    ids = tokenizer.encode("12312 don't wé\n")
    begins = [len(tokens) - 1] if pre == "llama-bpe" else []
    assert ids[: len(begins)] == begins
    found = [tokens[i] for i in ids[len(begins) :]]
    assert found == [*pieces, "Ġ", "don", "'t", "Ġw", *found[-3:]]
    assert tokenizer.decode(ids) == "12312 don't wé\n"


def test_a_file_says_whether_a_text_begins_with_a_token(tmp_path):
    tokens, path = byte_pairs(tmp_path / "m.gguf", "gpt-2", add_bos_token=True)
    assert Tokenizer(path).encode("1") == [len(tokens) - 1, tokens.index("1")]


def test_what_is_not_known_is_one_error(tmp_path, monkeypatch):
    _, path = byte_pairs(tmp_path / "m.gguf", "tekken")
    with pytest.raises(InputError, match="cuts words as 'tekken' does"):
        Tokenizer(path)
    path = write(tmp_path / "t5.gguf", "t5", ["a"], [NORMAL])
    with pytest.raises(InputError, match="of the kind 't5'"):
        Tokenizer(path)
    (tmp_path / "cut.gguf").write_bytes(path.read_bytes()[:40])
    for name in ("cut.gguf", "none.gguf"):
        with pytest.raises(InputError, match=name):
            Tokenizer(tmp_path / name)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ToolError, match=r"pip install 'tvm-sparse\[gguf\]'"):
        Tokenizer(path)
