"""Sessions of a decoder: tokens, positions, and what several sessions share."""

import threading

import numpy as np
import pytest

import tvm_sparse
from tvm_sparse.errors import ClosedError, InputError
from tvm_sparse.sizes.decoder import CacheSpec, Decoder
from tvm_sparse.testing.models import write_mlp
from tvm_sparse.testing.tiny_decoders import TinyDecoder
from tvm_sparse.verification.decoder import OnnxDecoder


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return TinyDecoder().write(tmp_path_factory.mktemp("decoder") / "tiny.onnx")


@pytest.fixture(scope="module")
def engine(path):
    return tvm_sparse.compile(path, threads=2)


@pytest.mark.parametrize("length", [1, 3, 16, 17, 40])
def test_prompts(engine, path, length):
    """A prompt of any length, whole or the last token only, and the token behind it."""
    ids = [(7 * i + 3) % 50 for i in range(length)]
    reference = OnnxDecoder(path)
    expected = reference.step(ids)
    session, last = engine.session(tokens=64), engine.session(tokens=64)
    np.testing.assert_allclose(session.step(ids), expected, atol=1e-5)
    np.testing.assert_allclose(last.step(ids, last_only=True), expected[-1:], atol=1e-5)
    following = reference.step([5])
    for one in (session, last):
        np.testing.assert_allclose(one.step([5]), following, atol=1e-5)
        assert one.position == length + 1


def test_rewind(engine):
    """The same tokens behind the same ones give the same bits, whatever was there before."""
    session = engine.session(tokens=100)
    session.step(list(range(20)))
    first = [session.step([i]) for i in (3, 1, 4)]
    session.rewind(3)
    session.step([9, 9, 9, 9, 9])
    session.rewind(5)
    assert session.position == 20
    for i, expected in zip((3, 1, 4), first, strict=True):
        np.testing.assert_array_equal(session.step([i]), expected)
    session.reset()
    assert session.position == 0
    session.step(list(range(20)))
    np.testing.assert_array_equal(session.step([3]), first[0])


def test_several_sessions(engine):
    """Sessions in turn, and in threads, do not disturb each other."""
    prompts = [[1, 2, 3], [7] * 18]
    alone = []
    for prompt in prompts:
        session = engine.session(tokens=64)
        alone.append([session.step(prompt), *(session.step([i]) for i in range(5))])
    sessions = [engine.session(tokens=64) for _ in prompts]
    in_turn = [[s.step(p)] for s, p in zip(sessions, prompts, strict=True)]
    for i in range(5):
        for session, found in zip(sessions, in_turn, strict=True):
            found.append(session.step([i]))
    in_threads = [[], []]

    def generate(prompt, found):
        session = engine.session(tokens=64)
        found += [session.step(prompt), *(session.step([i]) for i in range(5))]

    threads = [
        threading.Thread(target=generate, args=both)
        for both in zip(prompts, in_threads, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found in (in_turn, in_threads):
        for one, expected in zip(found, alone, strict=True):
            for logits, other in zip(one, expected, strict=True):
                np.testing.assert_array_equal(logits, other)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 17])
def test_sessions_together(engine, count):
    """Sessions of several lengths and rooms that step together compute what each does alone."""
    together, alone = ([engine.session(tokens=30 + 5 * i) for i in range(count)] for _ in "ab")
    ids = list(range(count))
    for i, both in enumerate(zip(together, alone, strict=True)):
        for session in both:
            session.step([i + 1] * (1 + i))
    for _ in range(4):
        found = tvm_sparse.step_sessions(together, ids)
        expected = np.concatenate([s.step([i]) for s, i in zip(alone, ids, strict=True)])
        np.testing.assert_allclose(found, expected, atol=1e-5)
        ids = expected.argmax(1).tolist()
        assert ids == found.argmax(1).tolist()
    for session, other in zip(together, alone, strict=True):
        assert session.position == other.position
        np.testing.assert_allclose(session.cache(1), other.cache(1), atol=1e-5)
        np.testing.assert_allclose(session.step([3, 4]), other.step([3, 4]), atol=1e-5)


def test_sessions_together_in_threads(engine):
    """Calls that name the same sessions in other orders wait for each other, and not forever."""
    sessions = [engine.session(tokens=64) for _ in range(3)]
    threads = [
        threading.Thread(
            target=lambda order=order: [
                tvm_sparse.step_sessions([sessions[i] for i in order], [1, 1, 1]) for _ in range(9)
            ]
        )
        for order in ([0, 1, 2], [2, 1, 0])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert [session.position for session in sessions] == [18] * 3


def test_wrong_sessions_together(engine, path):
    first, full = engine.session(tokens=9), engine.session(tokens=2)
    full.step([1, 2])
    other = tvm_sparse.compile(path, threads=1).session()
    for sessions, ids, message in (
        ([], [], "one session or more"),
        ([first], [1, 2], "1 sessions and 2 tokens"),
        ([first, first], [1, 2], "stands there twice"),
        ([first, other], [1, 2], "several engines"),
        ([first, full], [1, 2], "has 2 of at most 2 tokens"),
        ([first, engine.session()], [1, 50], "50 is no token"),
    ):
        with pytest.raises(InputError, match=message):
            tvm_sparse.step_sessions(sessions, ids)
        assert first.position == 0


def test_saved(engine, tmp_path):
    engine.save(tmp_path / "tiny.so")
    loaded = tvm_sparse.load(tmp_path / "tiny.so", threads=2)
    assert loaded.is_decoder
    assert loaded.info == engine.info
    ids = list(range(7))
    np.testing.assert_array_equal(loaded.session().step(ids), engine.session().step(ids))


def test_weights_are_shared(engine, tmp_path):
    """The functions for several numbers of tokens read the same table of embeddings."""
    wide = TinyDecoder(vocabulary=20_000, layers=1).write(tmp_path / "wide.onnx")
    tvm_sparse.compile(wide, threads=2).save(tmp_path / "wide.so")
    table = 4 * 20_000 * 32
    # The head is packed in one way for one row, and in others for several.
    assert (tmp_path / "wide.so").stat().st_size < 4.5 * table


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "one or more token ids"),
        ([[1, 2]], "one or more token ids"),
        ([0.5], "one or more token ids"),
        ([3, 50], "50 is no token: the vocabulary has 50"),
        ([-1], "-1 is no token"),
        ([1] * 9, "8 of at most 16 tokens, and 9 more do not fit"),
    ],
)
def test_wrong_tokens(engine, ids, message):
    session = engine.session(tokens=16)
    session.step([1] * 8)
    with pytest.raises(InputError, match=message):
        session.step(ids)
    assert session.position == 8
    assert session.step([1] * 8).shape == (8, 50)


def test_wrong_sessions(engine, tmp_path):
    with pytest.raises(InputError, match="tables for sequences of up to 128"):
        engine.session(tokens=129)
    with pytest.raises(InputError, match="number from 1 on"):
        engine.session(tokens=0)
    with pytest.raises(InputError, match="cannot forget 1"):
        engine.session().rewind(1)
    with pytest.raises(InputError, match=r"a decoder: call engine\.session"):
        engine.run({"input_ids": np.array([[1]])})
    mlp = tvm_sparse.compile(write_mlp(tmp_path / "mlp.onnx"), {"x": (1, 4, 32)}, threads=1)
    assert not mlp.is_decoder
    with pytest.raises(InputError, match="no decoder"):
        mlp.session()


def test_closed(path):
    engine = tvm_sparse.compile(path, threads=1)
    session = engine.session()
    engine.close()
    with pytest.raises(ClosedError):
        session.step([1])


def test_chunks():
    decoder = Decoder(10, (CacheSpec(1, 8, "float32"),))
    chunks = {n: list(decoder.chunks(n)) for n in (1, 2, 4, 5, 8, 9, 16, 17, 40)}
    assert chunks == {
        1: [(1, 1)],
        2: [(4, 2)],
        4: [(4, 4)],
        5: [(4, 4), (1, 1)],
        8: [(4, 4), (4, 4)],
        9: [(16, 9)],
        16: [(16, 16)],
        17: [(16, 16), (1, 1)],
        40: [(16, 16), (16, 16), (4, 4), (4, 4)],
    }
