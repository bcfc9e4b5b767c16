"""Sessions in threads, whose tokens are computed in one call."""

import threading

import numpy as np
import pytest

import tvm_sparse
from tvm_sparse.errors import InputError
from tvm_sparse.generation.generate import generate
from tvm_sparse.generation.together import Member, Together
from tvm_sparse.testing.tiny_decoders import TinyDecoder


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = TinyDecoder(layers=1).write(tmp_path_factory.mktemp("decoder") / "tiny.onnx")
    return tvm_sparse.compile(path, threads=1)


def in_threads(work, count):
    found = [None] * count

    def run(i):
        found[i] = work(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found


def test_each_writes_what_it_writes_alone(engine):
    prompts = [[3, 1, 4], [1], [5, 9, 2, 6, 5]]
    alone = [list(generate(engine.session(tokens=64), prompt, 20)) for prompt in prompts]
    together = Together()

    def write(i):
        with together.writing():
            return list(generate(Member(engine.session(tokens=64), together), prompts[i], 20))

    assert in_threads(write, 3) == alone


def test_tokens_meet_in_a_call(engine):
    """With a long patience, threads that step at the same time share calls."""
    together = Together()
    together._seconds = 600.0
    sessions = [engine.session(tokens=8) for _ in range(3)]
    barrier = threading.Barrier(3)

    def step(i):
        with together.writing():
            barrier.wait(60)
            return together.step(sessions[i], i)

    found = in_threads(step, 3)
    assert together.calls == 1
    for i, logits in enumerate(found):
        np.testing.assert_allclose(logits, engine.session(tokens=8).step([i]), atol=1e-5)


def test_an_error_is_that_of_its_own_session(engine):
    together = Together()
    together._seconds = 600.0
    full, free = engine.session(tokens=1), engine.session(tokens=8)
    full.step([1])
    barrier = threading.Barrier(2)

    def step(i):
        with together.writing():
            barrier.wait(60)
            try:
                return together.step((full, free)[i], 1)
            except InputError as error:
                return str(error)

    error, logits = in_threads(step, 2)
    assert "1 of at most 1 tokens" in error
    assert logits.shape == (1, 50)
