"""The example of a server with OpenAI's routes, with a session that needs no model."""

from __future__ import annotations

import importlib.util
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tvm_sparse
from tvm_sparse.testing.sessions import WordySession, byte_tokenizer
from tvm_sparse.testing.tiny_decoders import TinyDecoder

pytest.importorskip("tokenizers")
testclient = pytest.importorskip("starlette.testclient")
pytest.importorskip("httpx")

SERVER = Path(__file__).parents[2] / "examples/chat/server.py"


class Engine:
    """Makes sessions, and knows them."""

    def __init__(self):
        self.sessions = []

    def session(self, tokens):
        assert tokens == 64
        self.sessions.append(WordySession(vocabulary=256))
        return self.sessions[-1]


@pytest.fixture
def server(monkeypatch):
    spec = importlib.util.spec_from_file_location("chat_server", SERVER)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def client(server, engine, tmp_path):
    byte_tokenizer(tmp_path)
    made = server.Server(tmp_path / "model.so", engine, sessions=1, context=64)
    return testclient.TestClient(made.app())


def ask(client, **options):
    asked = {"prompt": "ab", "max_tokens": 8, "temperature": 0, **options}
    return client.post("/v1/completions", json=asked)


def test_models(client):
    assert client.get("/v1/models").json()["data"][0]["id"] == "model.so"


def test_completion(client):
    reply = ask(client).json()
    assert reply["object"] == "text_completion"
    assert reply["usage"] == {"prompt_tokens": 2, "completion_tokens": 8, "total_tokens": 10}
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["choices"][0]["text"] == ask(client).json()["choices"][0]["text"]


def test_stream(client):
    whole = ask(client).json()["choices"][0]["text"]
    events = [line.removeprefix("data: ") for line in ask(client, stream=True).text.split("\n\n")]
    assert events[-2:] == ["[DONE]", ""]
    choices = [json.loads(event)["choices"][0] for event in events[:-2]]
    assert "".join(choice["text"] for choice in choices) == whole
    assert choices[-1]["finish_reason"] == "length"


def test_what_was_read_is_not_read_again(client, engine):
    ask(client)
    (session,) = engine.sessions
    asked, read = [], session.step
    session.step = lambda ids, **options: asked.append(list(ids)) or read(ids, **options)
    text = "ab" + ask(client, max_tokens=1).json()["choices"][0]["text"]
    assert len(asked[0]) == 1
    asked.clear()
    other = ask(client, prompt=text + "!", max_tokens=1)
    assert other.status_code == 200
    assert sum(map(len, asked)) == len(session.read) - 2


def test_chat(client):
    messages = [{"role": "user", "content": "hi"}]
    asked = {"messages": messages, "max_tokens": 4, "temperature": 0}
    reply = client.post("/v1/chat/completions", json=asked).json()
    assert reply["choices"][0]["message"]["role"] == "assistant"
    assert reply["usage"]["prompt_tokens"] == len("user: hi\nassistant: ")


def test_template(server, tmp_path):
    pytest.importorskip("jinja2")
    source = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    settings = {"chat_template": source, "bos_token": {"content": "<s>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    template = server.chat_template(tmp_path)
    assert template([{"role": "user", "content": "hi"}]) == "<s>[user]hi"


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 63},
        {"max_tokens": -1},
        {"prompt": ""},
        {"temperature": -1},
        {"stop": [""]},
        {"temperature": "hot"},
    ],
    ids=str,
)
def test_mistakes(client, options):
    reply = ask(client, **options)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]


def test_no_json(client):
    assert client.post("/v1/completions", content=b"{").status_code == 400
    assert client.post("/v1/completions", json={}).status_code == 400


def test_the_session_is_free_after_an_error(client, engine):
    (session,) = engine.sessions
    read = session.step

    def fail(ids, **options):
        raise RuntimeError("no")

    session.step = fail
    with pytest.raises(RuntimeError):
        ask(client)
    session.step = read
    assert ask(client).status_code == 200


def test_requests_at_the_same_time(server, tmp_path):
    """Each of two requests gets the text that it gets alone."""
    byte_tokenizer(tmp_path)
    decoder = TinyDecoder(layers=1, vocabulary=256).write(tmp_path / "tiny.onnx")
    engine = tvm_sparse.compile(decoder, threads=1)
    made = server.Server(tmp_path / "model.so", engine, sessions=2, context=64)
    with testclient.TestClient(made.app()) as client:
        prompts = ["ab", "cde"]
        alone = [ask(client, prompt=prompt, max_tokens=30).json() for prompt in prompts]
        with ThreadPoolExecutor(2) as pool:
            work = [pool.submit(ask, client, prompt=p, max_tokens=30) for p in prompts]
            replies = [each.result().json() for each in work]
    for reply, expected in zip(replies, alone, strict=True):
        assert reply["choices"] == expected["choices"]
