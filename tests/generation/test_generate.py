"""The loop of generation, on a session that needs no model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_sparse.errors import InputError
from tvm_sparse.generation.generate import Progress, generate
from tvm_sparse.generation.sampling import Sampler
from tvm_sparse.testing.sessions import WordySession

PROMPT = [3, 1, 4]


@pytest.fixture
def session() -> WordySession:
    return WordySession()


def reference(session, prompt, tokens):
    """Return the likeliest tokens one by one, with nothing but `step`."""
    logits, ids = session.step(prompt)[-1], []
    while len(ids) < tokens:
        ids.append(int(np.argmax(logits)))
        logits = session.step(ids[-1:])[-1]
    return ids


def test_likeliest_tokens(session):
    expected = reference(WordySession(), PROMPT, 20)
    assert list(generate(session, PROMPT, 20)) == expected
    assert session.read == PROMPT + expected[:-1]


@given(st.integers(0, 50), st.integers(0, 6), st.integers(1, 40), st.sampled_from([0, 0.7]))
def test_lookup_changes_nothing_but_the_steps(seed, lookup, tokens, temperature):
    plain, guessing = WordySession(seed), WordySession(seed)
    expected = list(generate(plain, PROMPT, tokens, Sampler(temperature, seed=1)))
    progress = Progress()
    found = generate(
        guessing, PROMPT, tokens, Sampler(temperature, seed=1), lookup=lookup, progress=progress
    )
    assert list(found) == expected
    assert guessing.steps == plain.steps - progress.accepted_tokens
    assert guessing.read == PROMPT + expected[:-1]


def test_guesses_are_accepted(session):
    progress = Progress()
    list(generate(session, PROMPT, 60, lookup=3, progress=progress))
    assert progress.accepted_tokens > 20
    assert session.steps < 40


@pytest.mark.parametrize("lookup", [0, 3])
def test_stop_token(session, lookup):
    expected = reference(WordySession(), PROMPT, 40)
    stop = expected[10]
    first = expected.index(stop)
    progress = Progress()
    found = list(generate(session, PROMPT, 40, stop=[stop], lookup=lookup, progress=progress))
    assert found == expected[:first]
    assert progress.ended == "stop"
    assert session.read == PROMPT + found


@given(st.integers(1, 30), st.integers(0, 4))
def test_caller_ends_it(count, lookup):
    session = WordySession()
    expected = reference(WordySession(), PROMPT, 40)
    tokens = generate(session, PROMPT, 40, lookup=lookup)
    found = [next(tokens) for _ in range(count)]
    tokens.close()
    assert found == expected[:count]
    assert session.read in (PROMPT + found, PROMPT + found[:-1])


def test_text_goes_on(session):
    """A session that read a text before goes on with it."""
    first = list(generate(session, PROMPT, 5))
    rest = list(generate(session, first[-1:], 5, before=session.read))
    assert first + rest == reference(WordySession(), PROMPT, 10)


def test_progress(session):
    progress = Progress()
    assert progress.decode_tokens_per_second == 0
    list(generate(session, PROMPT, 5, progress=progress))
    assert (progress.prompt_tokens, progress.written_tokens) == (3, 5)
    assert progress.ended == "length"
    assert progress.prefill_tokens_per_second > 0
    assert progress.decode_tokens_per_second > 0


def test_empty_prompt(session):
    with pytest.raises(InputError, match="no tokens"):
        next(generate(session, [], 5))
