"""The example of a server of embeddings, on a tiny encoder."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import tvm_sparse
from tvm_sparse.zoo.transformers import TransformerConfig, bert

testclient = pytest.importorskip("starlette.testclient")
httpx = pytest.importorskip("httpx")

EXAMPLES = Path(__file__).parents[2] / "examples/embeddings"
TINY = TransformerConfig(layers=1, width=32, heads=2, intermediate=64, vocabulary=50, positions=64)


@pytest.fixture(scope="module")
def server():
    spec = importlib.util.spec_from_file_location("embeddings_server", EXAMPLES / "server.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
    return bert(path, TINY, lambda _, shape: rng.standard_normal(shape).astype("float32") / 4)


@pytest.fixture(scope="module")
def engine(model):
    return tvm_sparse.compile(model, padding="drop", streams=2)


def test_sentences_of_any_length_are_computed_together(server, engine, model):
    rng = np.random.default_rng(1)
    sentences = [rng.integers(0, 50, n).tolist() for n in (3, 17, 40, 1, 25, 8)]
    batcher = server.Batcher(server.packed(engine), streams=2, wait=0.2)
    reference = server.padded(model, 1)([np.array(one) for one in sentences])
    with testclient.TestClient(server.Server("tiny", batcher).app()) as client:

        def ask(given):
            answer = client.post("/v1/embeddings", json={"input": given})
            assert answer.status_code == 200
            return answer.json()

        with ThreadPoolExecutor(len(sentences)) as clients:
            alone = list(clients.map(ask, sentences))
        together = ask(sentences)
    assert max(batcher.sizes[:-1]) > 1
    assert batcher.sizes[-1] == len(sentences)
    assert [one["index"] for one in together["data"]] == list(range(len(sentences)))
    assert together["usage"]["total_tokens"] == sum(map(len, sentences))
    for one, other, want in zip(alone, together["data"], reference, strict=True):
        assert one["data"][0]["embedding"] == other["embedding"]
        np.testing.assert_allclose(other["embedding"], want, rtol=1e-4, atol=1e-5)


def test_a_load_is_measured_in_turns(server, engine, model, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("load_test", EXAMPLES / "load_test.py")
    load_test = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load_test)
    functions = {"ours": server.packed(engine), "theirs": server.padded(model, 1)}
    batchers = {name: server.Batcher(function, wait=0) for name, function in functions.items()}
    apps = {name: server.Server(name, batcher).app() for name, batcher in batchers.items()}
    client = httpx.AsyncClient

    def connected(base_url, **options):  # to the service in this process
        transport = httpx.ASGITransport(apps[base_url.removeprefix("http://")])
        return client(base_url=base_url, transport=transport)

    monkeypatch.setattr(httpx, "AsyncClient", connected)
    options = argparse.Namespace(mean=8, most=40, words=50, rounds=1, clients=4, seconds=0.1)

    async def measured():
        async with contextlib.AsyncExitStack() as stack:
            for batcher in batchers.values():
                await stack.enter_async_context(batcher.running())
            await load_test.compare({name: f"http://{name}" for name in apps}, options)

    asyncio.run(measured())
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["ours", "theirs"]
    for _, rate, median, most in rows:
        assert float(rate) > 0 and 0 <= float(median) <= float(most)


def test_mistakes_are_answered(server, engine):
    batcher = server.Batcher(server.packed(engine), wait=0)
    with testclient.TestClient(server.Server("tiny", batcher, most=64).app()) as client:
        for given, message in (
            ({"input": "a text"}, "no tokenizer.json"),
            ({"input": []}, None),
            ({"input": [[]]}, "from 1 to 64 tokens"),
            ({"input": [[1] * 65]}, "from 1 to 64 tokens"),
            ({"input": [[1.5]]}, "from 1 to 64 tokens"),
            ({"input": [[50]]}, "out of range"),
            ({}, "KeyError"),
        ):
            answer = client.post("/v1/embeddings", json=given)
            assert answer.status_code == (400 if message else 200)
            assert message is None or message in answer.json()["error"]["message"]


def test_texts_are_encoded(server, engine):
    batcher = server.Batcher(server.packed(engine), wait=0)
    made = server.Server("tiny", batcher, encode=lambda text: [len(word) for word in text.split()])
    with testclient.TestClient(made.app()) as client:
        text, ids = (
            client.post("/v1/embeddings", json={"input": given}).json()["data"]
            for given in ("one three", [3, 5])
        )
    assert text == ids
