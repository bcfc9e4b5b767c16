"""A server with OpenAI's routes for chats and completions, in front of a language model.

    pip install ".[generate]" starlette uvicorn jinja2
    python examples/chat/server.py model.so --sessions 2 --context 4096
    curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \
         -d '{"messages": [{"role": "user", "content": "Hello"}], "stream": true}'

The model is one that `tvm-sparse compile` wrote, or a file that it takes. The tokenizer, and the
template of a chat, lie beside it. Requests that come at the same time take a session each and wait
for a free one; their tokens are computed in one call, which reads the weights once. A session keeps
what it has read: a request whose text begins like the one before reads only what is new.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import tvm_sparse
from tvm_sparse.errors import InputError
from tvm_sparse.generation.generate import Progress, Session, generate
from tvm_sparse.generation.model_folder import folder_of, stop_tokens_beside, tokenizer_beside
from tvm_sparse.generation.sampling import Sampler
from tvm_sparse.generation.text import Tokenizer, until_stop_word
from tvm_sparse.generation.together import Member, Together


@dataclass
class Question:
    """What a request asks for, and what became of it."""

    prompt: list[int]
    tokens: int
    stop_words: list[str]
    sampler: Sampler
    progress: Progress = field(default_factory=Progress)


class Conversation:
    """A session, and the tokens that it has read."""

    def __init__(self, session: Session, writing: Callable[[], AbstractContextManager]) -> None:
        self.session, self.writing = session, writing
        self.read: list[int] = []

    def answer(self, prompt: list[int], tokens: int, **options: Any) -> Iterator[int]:
        """Yield the tokens that follow a prompt; what was read before is not read again."""
        known = 0
        while known < min(len(self.read), len(prompt) - 1) and self.read[known] == prompt[known]:
            known += 1
        self.session.rewind(self.session.position - known)
        told = list(prompt)
        try:
            new = prompt[known:]
            with self.writing():
                for token in generate(self.session, new, tokens, before=prompt[:known], **options):
                    told.append(token)
                    yield token
        finally:
            self.read = told[: self.session.position]


class Server:
    """Answers requests with a fixed number of conversations.

    Parameters
    ----------
    model : Path
        The model; its tokenizer lies beside it.
    engine : Engine
        The compiled model.
    sessions, context : int
        How many requests may be answered at once, and the tokens that each may have.
    """

    def __init__(
        self, model: Path, engine: tvm_sparse.Engine, sessions: int = 1, context: int = 2048
    ) -> None:
        self.name, self.context = model.name, context
        self.tokenizer = Tokenizer(tokenizer_beside(model))
        self.stop = stop_tokens_beside(model)
        self.template = chat_template(folder_of(model))
        self.free: asyncio.Queue[Conversation] = asyncio.Queue()
        together = Together()
        for _ in range(sessions):
            session = engine.session(tokens=context)
            if sessions > 1:
                member = Member(session, together)
                self.free.put_nowait(Conversation(member, together.writing))
            else:
                self.free.put_nowait(Conversation(session, nullcontext))
        # Guesses make steps of several tokens, which are computed alone.
        self.lookup = 3 if sessions == 1 else 0

    def app(self) -> Starlette:
        """Return the application of the routes."""
        return Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/completions", self.completions, methods=["POST"]),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
            ]
        )

    async def models(self, _request: Request) -> Response:
        """List the one model."""
        return JSONResponse({"object": "list", "data": [{"id": self.name, "object": "model"}]})

    async def completions(self, request: Request) -> Response:
        """Go on with a text."""
        return await self._respond(
            request, "text_completion", lambda asked: self.tokenizer.encode(asked["prompt"])
        )

    async def chat(self, request: Request) -> Response:
        """Answer in a chat."""
        return await self._respond(request, "chat.completion", self._chat_tokens)

    def _chat_tokens(self, asked: dict[str, Any]) -> list[int]:
        if self.template is None:
            lines = [f"{each['role']}: {each['content']}\n" for each in asked["messages"]]
            return self.tokenizer.encode("".join(lines) + "assistant: ")
        return self.tokenizer.encode(self.template(asked["messages"]), has_special=True)

    async def _respond(
        self, request: Request, kind: str, tokens_of: Callable[[dict[str, Any]], list[int]]
    ) -> Response:
        try:
            asked = json.loads(await request.body())
            question = self._question(asked, tokens_of(asked))
        except (KeyError, TypeError, ValueError, InputError) as error:
            said = {"message": f"{type(error).__name__}: {error}", "type": "invalid_request_error"}
            return JSONResponse({"error": said}, 400)
        if asked.get("stream"):
            return StreamingResponse(self._events(kind, question), media_type=EVENTS)
        text = "".join([piece async for piece in self._answer(question)])
        return JSONResponse(self._whole(kind, text, question.progress))

    def _question(self, asked: dict[str, Any], prompt: list[int]) -> Question:
        tokens = int(asked.get("max_completion_tokens") or asked.get("max_tokens") or 256)
        if tokens < 1 or not prompt or len(prompt) + tokens > self.context:
            raise InputError(
                f"{len(prompt)} tokens of the prompt and {tokens} of the answer are not between 1 "
                f"and the context of {self.context}"
            )
        stop = asked.get("stop") or []
        words = [stop] if isinstance(stop, str) else list(stop)
        until_stop_word((), words)  # refuses empty words before anything is computed
        sampler = Sampler(
            float(asked.get("temperature", 1)), float(asked.get("top_p", 1)), asked.get("seed")
        )
        return Question(prompt, tokens, words, sampler)

    async def _answer(self, question: Question) -> AsyncIterator[str]:
        """Yield the text of an answer, which a thread computes piece by piece."""
        conversation = await self.free.get()
        ids = conversation.answer(
            question.prompt,
            question.tokens,
            sampler=question.sampler,
            stop=self.stop,
            lookup=self.lookup,
            progress=question.progress,
        )
        try:
            pieces = until_stop_word(self.tokenizer.decode_stream(ids), question.stop_words)
            async for piece in iterate_in_threadpool(pieces):
                yield piece
        finally:
            ids.close()
            self.free.put_nowait(conversation)

    def _whole(self, kind: str, text: str, progress: Progress) -> dict[str, Any]:
        is_chat = kind == "chat.completion"
        said = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
        choice = {"index": 0, **said, "finish_reason": progress.ended or "stop"}
        read, written = progress.prompt_tokens, progress.written_tokens
        usage = {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        }
        return {**self._head(kind), "choices": [choice], "usage": usage}

    async def _events(self, kind: str, question: Question) -> AsyncIterator[str]:
        is_chat = kind == "chat.completion"
        head = self._head("chat.completion.chunk" if is_chat else kind)

        def event(text: str, ended: str | None = None) -> str:
            said: dict[str, Any] = {"delta": {"content": text} if text else {}}
            choice = {"index": 0, **(said if is_chat else {"text": text}), "finish_reason": ended}
            return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"

        async for piece in self._answer(question):
            if piece:
                yield event(piece)
        yield event("", question.progress.ended or "stop")
        yield "data: [DONE]\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        name = f"cmpl-{uuid.uuid4().hex}"
        return {"id": name, "object": kind, "created": int(time.time()), "model": self.name}


EVENTS = "text/event-stream"


def chat_template(folder: Path) -> Callable[[list[dict[str, str]]], str] | None:
    """Return a function that writes messages as ``tokenizer_config.json`` says, if it does."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    source = settings.get("chat_template")
    if source is None:
        return None
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(source)
    names = {
        name: token["content"] if isinstance(token, dict) else token
        for name in ("bos_token", "eos_token")
        if (token := settings.get(name)) is not None
    }
    return lambda messages: template.render(messages=messages, add_generation_prompt=True, **names)


def main() -> None:
    """Parse the command line and serve."""
    import uvicorn

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    ready = given.model.suffix == ".so"
    engine = (tvm_sparse.load if ready else tvm_sparse.compile)(given.model, threads=given.threads)
    server = Server(given.model, engine, given.sessions, given.context)
    uvicorn.run(server.app(), host=given.host, port=given.port)


if __name__ == "__main__":
    main()
