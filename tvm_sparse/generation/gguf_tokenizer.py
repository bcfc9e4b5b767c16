"""The tokenizer inside a GGUF file, and the tokens that end a text there.

Files hold the tokens, and for byte pairs on bytes the merges. For those of SentencePiece, they hold
a score for each token instead: of two neighbours, those are joined first that make the token with
the highest score, so that merges follow from scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tvm_sparse.errors import InputError, border
from tvm_sparse.files.gguf import gguf_reader

SUFFIX = ".gguf"

_PREFIX = "tokenizer.ggml."
_CONTROL, _USER_DEFINED = 3, 4
"""Types of tokens that are found in a text before all others; the first ones are no text."""

_SPACE = "▁"
"""What SentencePiece writes for a space."""

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS = {"llama-bpe": _WORDS.replace("DIGITS", "{1,3}"), "qwen2": _WORDS.replace("DIGITS", "")}
"""How texts are cut into words, by the name that llama.cpp gives to it."""
_PLAIN = {"gpt-2": False, "smollm": True, "starcoder": True}
"""Names of GPT-2's words, and whether digits stand alone."""


def read_tokenizer(path: Path) -> Any:
    """Return the tokenizer of a GGUF file, of the package tokenizers.

    Raises
    ------
    ToolError
        If the package gguf is not installed.
    InputError
        If the file cannot be read, or has a tokenizer of a kind that is not known.
    """
    fields = _fields(path)
    with border(InputError, f"{path}: the tokenizer in it cannot be read"):
        makers = {"llama": _of_scores, "gpt2": _of_merges}
        model = fields.get("model")
        if model not in makers:
            raise InputError(
                f"{path}: a tokenizer of the kind {model!r} cannot be read; those that can are "
                f"{', '.join(makers)}; name a tokenizer.json by --tokenizer"
            )
        tokenizer = makers[model](path, fields)
        _add_special(tokenizer, fields)
        return tokenizer


def stop_tokens(path: Path) -> frozenset[int]:
    """Return the tokens that end a text, as a GGUF file says; none if it does not."""
    fields = _fields(path)
    names = ("eos_token_id", "eot_token_id", "eom_token_id")
    return frozenset(int(fields[name]) for name in names if name in fields)


def _fields(path: Path) -> Mapping[str, Any]:
    with gguf_reader(path, InputError) as (reader, _):
        return {
            name.removeprefix(_PREFIX): field.contents()
            for name, field in reader.fields.items()
            if name.startswith(_PREFIX)
        }


def _of_merges(path: Path, fields: Mapping[str, Any]) -> Any:
    """Return a tokenizer of byte pairs on bytes."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    words = str(fields.get("pre", "gpt-2"))
    if words not in _PATTERNS and words not in _PLAIN:
        known = ", ".join([*_PATTERNS, *_PLAIN])
        raise InputError(
            f"{path}: its tokenizer cuts words as {words!r} does, which is not known; known are "
            f"{known}; name a tokenizer.json by --tokenizer"
        )
    merges = [tuple(merge.split(" ", 1)) for merge in fields["merges"]]
    # Llama 3 takes a word that is a token as it is.
    model = models.BPE(_vocabulary(fields), merges, ignore_merges=words == "llama-bpe")
    tokenizer = Tokenizer(model)
    steps: list[Any] = []
    if words in _PATTERNS:
        steps.append(pre_tokenizers.Split(Regex(_PATTERNS[words]), "isolated"))
    elif _PLAIN[words]:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words in _PLAIN))
    if words == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _of_scores(_path: Path, fields: Mapping[str, Any]) -> Any:
    """Return a tokenizer of SentencePiece's pairs of characters."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocabulary = _vocabulary(fields)
    unknown = fields["tokens"][int(fields.get("unknown_token_id", 0))]
    merges = _merges(fields["tokens"], fields["scores"], vocabulary)
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    has_space = bool(fields.get("add_space_prefix", True))
    before = [normalizers.Prepend(_SPACE)] if has_space else []
    tokenizer.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", _SPACE)])
    behind = [decoders.Strip(" ", 1, 0)] if has_space else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *behind]
    )
    return tokenizer


def _vocabulary(fields: Mapping[str, Any]) -> dict[str, int]:
    return {token: number for number, token in enumerate(fields["tokens"])}


def _merges(
    tokens: Sequence[str], scores: Sequence[float], vocabulary: Mapping[str, int]
) -> list[tuple[str, str]]:
    """Return the pairs of tokens that make a token, those of the highest scores first."""
    found = []
    for number, token in enumerate(tokens):
        for cut in range(1, len(token)):
            pair = token[:cut], token[cut:]
            if pair[0] in vocabulary and pair[1] in vocabulary:
                order = -scores[number], vocabulary[pair[0]], vocabulary[pair[1]]
                found.append((order, pair))
    return [pair for _, pair in sorted(found)]


def _add_special(tokenizer: Any, fields: Mapping[str, Any]) -> None:
    """Add the tokens that are no text, and those that a text begins and ends with."""
    from tokenizers import AddedToken, processors

    tokens = fields["tokens"]
    kinds = fields.get("token_type", [])
    for wanted, add in (
        (_USER_DEFINED, tokenizer.add_tokens),
        (_CONTROL, tokenizer.add_special_tokens),
    ):
        named = [token for token, kind in zip(tokens, kinds, strict=False) if kind == wanted]
        add([AddedToken(t, normalized=False, special=wanted == _CONTROL) for t in named])
    begins = fields.get("model") == "llama" or fields.get("pre") == "llama-bpe"
    edges = {
        "bos": bool(fields.get("add_bos_token", begins)),
        "eos": bool(fields.get("add_eos_token", False)),
    }
    numbers = {
        name: int(fields[f"{name}_token_id"])
        for name, is_added in edges.items()
        if is_added and f"{name}_token_id" in fields
    }
    if numbers:
        text = [*([tokens[numbers["bos"]]] if "bos" in numbers else []), "$A"]
        text += [tokens[numbers["eos"]]] if "eos" in numbers else []
        special = [(tokens[number], number) for number in numbers.values()]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=text, special_tokens=special
        )
