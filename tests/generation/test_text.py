"""Text to tokens and back, and words that end a text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_sparse.errors import InputError
from tvm_sparse.generation.model_folder import stop_tokens_beside, tokenizer_beside
from tvm_sparse.generation.text import Tokenizer, until_stop_word
from tvm_sparse.testing.sessions import byte_tokenizer


@pytest.fixture
def tokenizer(tmp_path):
    """Return the file of a tokenizer whose tokens are bytes."""
    pytest.importorskip("tokenizers")
    return byte_tokenizer(tmp_path)


class TestTokenizer:
    def test_round_trip(self, tokenizer):
        made = Tokenizer(tokenizer)
        ids = made.encode("naïve 🙂 text")
        assert made.decode(ids) == "naïve 🙂 text"

    def test_stream_waits_for_whole_characters(self, tokenizer):
        made = Tokenizer(tokenizer)
        pieces = list(made.decode_stream(made.encode("a🙂b")))
        assert pieces == ["a", "", "", "", "🙂", "b"]

    def test_no_tokenizer(self, tmp_path):
        pytest.importorskip("tokenizers")
        path = tmp_path / "tokenizer.json"
        path.write_text("{}")
        with pytest.raises(InputError, match="is no tokenizer"):
            Tokenizer(path)


class TestStopWord:
    @pytest.mark.parametrize(
        ("pieces", "words", "expected"),
        [
            (["hello wor", "ld"], [], "hello world"),
            (["hello wor", "ld STO", "P more"], ["STOP"], "hello world "),
            (["ab", "ac"], ["aa"], "abac"),
            (["x</", "s", "y"], ["</s>"], "x</sy"),
            (["one two"], ["two", "one"], ""),
        ],
    )
    def test_text(self, pieces, words, expected):
        assert "".join(until_stop_word(pieces, words)) == expected

    def test_nothing_is_taken_after_the_word(self):
        pieces = iter(["a", "b", "c"])
        list(until_stop_word(pieces, ["b"]))
        assert next(pieces) == "c"

    def test_empty_word(self):
        with pytest.raises(InputError, match="empty"):
            until_stop_word(["a"], [""])

    @given(
        st.lists(st.text("ab", max_size=3), max_size=12),
        st.lists(st.text("ab", min_size=1, max_size=3), max_size=3),
    )
    def test_as_the_whole_text(self, pieces, words):
        text = "".join(pieces)
        ends = [text.index(word) for word in words if word in text]
        found = "".join(until_stop_word(pieces, words))
        # A shorter word may complete in an earlier piece than one that begins before it.
        assert text.startswith(found)
        assert (found == text) if not ends else (len(found) >= min(ends))


class TestModelFolder:
    @pytest.mark.parametrize(
        ("name", "content", "expected"),
        [
            ("generation_config.json", '{"eos_token_id": [1, 2]}', {1, 2}),
            ("config.json", '{"eos_token_id": 2}', {2}),
            ("genai_config.json", '{"model": {"eos_token_id": 7}}', {7}),
            ("config.json", "{}", set()),
        ],
    )
    def test_stop_tokens(self, tmp_path, name, content, expected):
        (tmp_path / name).write_text(content)
        assert stop_tokens_beside(tmp_path / "model.onnx") == expected
        assert stop_tokens_beside(tmp_path) == expected

    @pytest.mark.parametrize("content", ["[1", '{"eos_token_id": "x"}', "[]"])
    def test_unreadable(self, tmp_path, content):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(InputError, match="cannot be read"):
            stop_tokens_beside(tmp_path)

    def test_no_tokenizer(self, tmp_path):
        with pytest.raises(InputError, match="--ids"):
            tokenizer_beside(tmp_path / "model.onnx")
