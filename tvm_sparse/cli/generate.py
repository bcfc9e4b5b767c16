"""``tvm-sparse generate``: writes text with a language model, and says how fast."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_sparse.cli import arguments, streams
from tvm_sparse.errors import InputError, printable

if TYPE_CHECKING:
    from tvm_sparse.generation.text import Tokenizer
    from tvm_sparse.runtime.engine import Engine

_LIBRARY = ".so"

_TOKENS = 128
"""The most tokens that are written if nobody says how many."""


_WINDOW = 512
"""The tokens of a window for perplexity if nobody says how many."""


def declare(verbs: arguments.Verbs) -> None:
    """Declare the verb and its arguments."""
    does = "writes text with a language model, and says how many tokens a second"
    command = arguments.add_verb(verbs, "generate", does, run)
    command.add_argument("model", type=Path, metavar="MODEL", help="model, or compiled LIB.so")
    text = command.add_mutually_exclusive_group(required=True)
    text.add_argument("--prompt", metavar="TEXT", help="text to go on with; - reads standard input")
    text.add_argument(
        "--ids", type=token_ids, metavar="1,2,3",
        help="numbers of tokens to go on with, for models without a tokenizer",
    )  # fmt: skip
    command.add_argument(
        "--tokens", type=int, metavar="N",
        help=f"most tokens to write (default: {_TOKENS}, or as many as there is room for)",
    )  # fmt: skip
    command.add_argument(
        "--context", type=int, metavar="N",
        help="tokens that the cache holds (default: as many as prompt and answer need)",
    )  # fmt: skip
    command.add_argument(
        "--temperature", type=float, default=0.0, metavar="T",
        help="0 takes the likeliest token (default), more draws at random",
    )  # fmt: skip
    command.add_argument(
        "--top-p", type=float, default=1.0, metavar="P",
        help="draw among the likeliest tokens that have this probability together (default: 1)",
    )  # fmt: skip
    command.add_argument("--seed", type=int, metavar="N", help="seed of what is drawn")
    command.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="text that ends the answer"
    )
    command.add_argument(
        "--ignore-eos", action="store_true",
        help="write all tokens, also after one that ends a text",
    )  # fmt: skip
    command.add_argument(
        "--lookup", type=int, default=0, metavar="N",
        help="guess up to N tokens from the text so far and verify them at once, which changes "
        "nothing but the time (default: 0; 3 for text that repeats itself)",
    )  # fmt: skip
    command.add_argument(
        "--perplexity", action="store_true",
        help="write nothing: say how well the model predicts the prompt, in windows of --context",
    )  # fmt: skip
    command.add_argument(
        "--tokenizer", type=Path, metavar="FILE",
        help="tokenizer.json, or the GGUF file of the model (default: that beside the model)",
    )  # fmt: skip
    arguments.add_threads(command, "those of the library")
    arguments.add_json(command)


def run(options: argparse.Namespace) -> None:
    """Write text with a language model."""
    from tvm_sparse.cli import console
    from tvm_sparse.generation.generate import Progress, generate
    from tvm_sparse.generation.model_folder import stop_tokens_beside
    from tvm_sparse.generation.sampling import Sampler
    from tvm_sparse.generation.text import until_stop_word

    _check(options)
    if options.perplexity:
        _measure(options)
        return
    sampler = Sampler(options.temperature, options.top_p, options.seed)
    prompt, tokenizer = _prompt(options)
    given = options.model, options.tokenizer
    stop = frozenset() if options.ignore_eos else stop_tokens_beside(*given)
    with console.progress(f"preparing {options.model}"):
        engine = _engine(options)
        room, count = _room(options, engine, len(prompt))
        session = engine.session(tokens=room)
        # The first call starts threads and reads the weights, whose time is none of a token.
        session.step(prompt[:1])
        session.reset()
    progress, written = Progress(), list[int]()

    def tokens() -> Iterator[int]:
        for token in generate(session, prompt, count, sampler, stop, options.lookup, progress):
            written.append(token)
            yield token

    if tokenizer is None:
        pieces: Iterator[str] = (
            ("" if i == 0 else ",") + str(token) for i, token in enumerate(tokens())
        )
    else:
        pieces = until_stop_word(tokenizer.decode_stream(tokens()), options.stop)
    said = ""
    for piece in pieces:
        said += piece
        if not options.json:
            streams.write(_shown(piece))
    if options.json:
        console.print_json(_result(progress, written, said, bool(tokenizer)))
    else:
        streams.write("\n")
        print(_summary(progress), file=sys.stderr)


def _prompt(options: argparse.Namespace) -> tuple[list[int], Tokenizer | None]:
    """Return the tokens of the prompt, and what makes text of tokens unless they were given."""
    from tvm_sparse.generation.model_folder import tokenizer_beside
    from tvm_sparse.generation.text import Tokenizer

    if options.ids is not None:
        return options.ids, None
    tokenizer = Tokenizer(options.tokenizer or tokenizer_beside(options.model))
    text = sys.stdin.read() if options.prompt == "-" else options.prompt
    return tokenizer.encode(text), tokenizer


def _measure(options: argparse.Namespace) -> None:
    """Say how well a model predicts the prompt."""
    from dataclasses import asdict

    from tvm_sparse.cli import console
    from tvm_sparse.generation.perplexity import perplexity

    ids, _ = _prompt(options)
    with console.progress(f"preparing {options.model}"):
        engine = _engine(options)
        limit = engine.info.decoder.limit if engine.info.decoder else 0
        window = options.context or min(_WINDOW, limit or _WINDOW)
        session = engine.session(tokens=window)
    with console.progress(f"reading {len(ids)} tokens"):
        found = perplexity(session, ids, window)
    rate = found.tokens / found.seconds
    if options.json:
        named = {"perplexity" if k == "value" else k: v for k, v in asdict(found).items()}
        console.print_json({**named, "window": window, "tokens_per_second": rate})
    else:
        print(
            f"perplexity {found.value:.4f} over {found.scored} of {found.tokens} tokens, in "
            f"windows of {window}; {rate:.1f} tokens a second"
        )


def token_ids(text: str) -> list[int]:
    """Return the numbers in ``1,2,3``."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 1,2,3") from None


def _check(options: argparse.Namespace) -> None:
    """Refuse numbers that make no sense, and options that would have no effect."""
    for name, least in (("tokens", 1), ("context", 1), ("lookup", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(f"--{name} is {value}; it must be {least} or more")
    if options.temperature == 0 and (options.top_p != 1 or options.seed is not None):
        raise InputError("--top-p and --seed say nothing without --temperature above 0")
    if options.perplexity:
        drawn = options.temperature or options.lookup or options.tokens or options.stop
        if drawn or options.ignore_eos:
            raise InputError(
                "--perplexity writes nothing, so --temperature, --lookup, --tokens, --stop and "
                "--ignore-eos say nothing"
            )
    if options.ids is not None:
        unused = [f"--{name}" for name in ("stop", "tokenizer") if getattr(options, name)]
        if unused:
            raise InputError(f"--ids needs no text, so {', '.join(unused)} says nothing")


def _engine(options: argparse.Namespace) -> Engine:
    if options.model.suffix == _LIBRARY:
        from tvm_sparse.runtime.loading import load

        return load(options.model, options.threads)
    from tvm_sparse.compiler import compile

    return compile(options.model, threads=options.threads)


def _room(options: argparse.Namespace, engine: Engine, prompt: int) -> tuple[int, int]:
    """Return the tokens of the session, and the most tokens to write.

    The last token that is written is not read, so that it takes no room.
    """
    limit = engine.info.decoder.limit if engine.info.decoder else None
    most = options.context or limit or prompt + _TOKENS
    tokens = options.tokens or max(min(_TOKENS, most - prompt + 1), 1)
    return options.context or prompt + tokens - 1, tokens


def _shown(piece: str) -> str:
    """Return a piece of text for a terminal: what could control it is escaped, but line ends."""
    return "\n".join(printable(line) for line in piece.split("\n"))


def _result(progress: Any, ids: list[int], text: str, has_text: bool) -> dict[str, object]:
    return {
        "text": text if has_text else None,
        "ids": ids,
        "ended": progress.ended or "stop",
        "prompt_tokens": progress.prompt_tokens,
        "written_tokens": progress.written_tokens,
        "drafted_tokens": progress.drafted_tokens,
        "accepted_tokens": progress.accepted_tokens,
        "prefill_tokens_per_second": progress.prefill_tokens_per_second,
        "decode_tokens_per_second": progress.decode_tokens_per_second,
    }


def _summary(progress: Any) -> str:
    guessed = ""
    if progress.drafted_tokens:
        guessed = f"; {progress.accepted_tokens} of {progress.drafted_tokens} guesses were right"
    return (
        f"{progress.prompt_tokens} tokens read, {progress.prefill_tokens_per_second:.1f} a second; "
        f"{progress.written_tokens} written, {progress.decode_tokens_per_second:.1f} a second"
        f"{guessed}"
    )
