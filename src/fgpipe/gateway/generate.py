"""`POST /api/generate`: one question in, text and decoded calls out, for clients that want no OpenAI library."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fgpipe.functiongemma.tokens import TRIGGER_SENTENCE
from fgpipe.gateway.connections import Answer, BrokenError, NoHttpError
from fgpipe.gateway.exchange import Record
from fgpipe.gateway.faults import RefusedError, Send, send_json
from fgpipe.gateway.reading import Asked, Reading, StreamReader, count_calls, events, json_object, read_whole
from fgpipe.gateway.relay import Exchanged

CHAT = "/v1/chat/completions"


class GenerateRequest(BaseModel):
    """What may be asked: an adapter or base, and a prompt or a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    adapter: str | None = Field(default=None, description="`sql`, `sql@v0002` or `sql@best`; or give `model`")
    model: str | None = Field(default=None, description="the same, or the base's own name")
    prompt: str | None = Field(default=None, description="what the user says; or give `messages`")
    messages: list[dict[str, Any]] | None = Field(default=None, description="a conversation in OpenAI's shape")
    tools: list[dict[str, Any]] | None = Field(default=None, description="functions in OpenAI's shape")
    tool_choice: str | dict[str, Any] | None = Field(default=None, description="auto, none, required, or a function")
    stream: bool = Field(default=False, description="server-sent events: text as it comes, then the whole answer")
    max_tokens: int = Field(default=256, ge=1, le=1_000_000)
    temperature: float = Field(default=0, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: str | list[str] | None = Field(default=None)


class Usage(BaseModel):
    """Tokens of prompt and answer."""

    prompt_tokens: int
    completion_tokens: int


class Call(BaseModel):
    """A function the model calls."""

    name: str
    arguments: Any


class Timings(BaseModel):
    """Seconds inside the gateway, waiting for the upstream included."""

    total_s: float
    first_token_s: float | None = None


class GenerateAnswer(BaseModel):
    """What comes back."""

    model: str = Field(description="the version that answered, `sql@v0002`")
    version: str | None = Field(description="`v0002`; null for the base")
    text: str
    calls: list[Call]
    finish_reason: Literal["stop", "length", "tool_calls"] | str
    unknown_tool_calls: int
    schema_violations: int
    usage: Usage
    timings: Timings


def chat_request(request: GenerateRequest) -> dict[str, Any]:
    """`request` as vLLM's chat endpoint takes it.

    Raises:
        RefusedError: it names no model or two, or no prompt or two.
    """
    if (request.adapter is None) == (request.model is None):
        raise RefusedError(
            400, "adapter: got " + ("none" if request.model is None else "model too") + ", expected one of both"
        )
    if (request.prompt is None) == (request.messages is None):
        given = "none" if request.prompt is None else "messages too"
        raise RefusedError(400, f"prompt: got {given}, expected prompt or messages")
    messages = request.messages
    if messages is None:
        # The sentence that FunctionGemma was trained to see in front of functions.
        said = [{"role": "developer", "content": TRIGGER_SENTENCE}] if request.tools else []
        messages = [*said, {"role": "user", "content": request.prompt}]
    optional = {name: getattr(request, name) for name in ("tool_choice", "top_p", "seed", "stop")}
    model = request.model if request.adapter is None else request.adapter
    chat = {"model": model, "messages": messages, "tools": request.tools or None, **optional}
    chat |= {"max_tokens": request.max_tokens, "temperature": request.temperature, "stream": request.stream}
    if request.stream:
        chat["stream_options"] = {"include_usage": True}
    return {name: value for name, value in chat.items() if value is not None}


class Generate(Exchanged):
    """The answer to `POST /api/generate`."""

    def asked(self, body: bytes) -> Asked:
        """See `Exchanged`."""
        try:
            request = GenerateRequest.model_validate(json_object(body))
        except ValidationError as error:
            fault = error.errors()[0]
            path = ".".join(map(str, fault["loc"]))
            expected = fault["msg"].removeprefix("Input should be ")
            raise RefusedError(400, f"{path}: got {str(fault['input'])[:80]!r}, expected {expected}") from None
        chat = chat_request(request)
        return Asked(CHAT, json.dumps(chat).encode(), str(chat["model"]), request.stream, request.tools or [])

    async def exchange(self, asked: Asked, headers: Mapping[str, str], record: Record, send: Send) -> None:
        """See `Exchanged`."""
        plain = {name: value for name, value in headers.items() if name != "accept"}
        async with self.gateway.answer(asked, plain, record) as answer:
            record.status = answer.status
            streams = answer.status == 200 and asked.stream
            try:
                async with asyncio.timeout(self.gateway.config.total_timeout_s):
                    if streams:
                        await _stream(answer, asked, record, send)
                        return
                    body = await answer.read()
            except TimeoutError:
                record.status = 504
            except (BrokenError, NoHttpError):
                record.status = 502
            else:
                await _send_whole(answer.status, body, asked, record, send)
                return
            refusal = RefusedError(record.status, "upstream: got no end of its answer, expected all of it")
            if not streams:
                raise refusal
            await send({"type": "http.response.body", "body": _event(json.loads(refusal.body())), "more_body": False})


async def _send_whole(status: int, body: bytes, asked: Asked, record: Record, send: Send) -> None:
    if status != 200:
        await send_json(send, status, body)
        return
    record.reading = read_whole(body)
    await send_json(send, 200, json.dumps(_answer(record, asked), ensure_ascii=False).encode())


async def _stream(answer: Answer, asked: Asked, record: Record, send: Send) -> None:
    """Text as it comes, an event a piece; then the whole answer as one last event."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    reader = StreamReader(hides_usage=False, keeps_events=True)
    async for data in answer.pieces():
        for event in events(reader.feed(data)):
            text = "".join((choice.get("delta") or {}).get("content") or "" for choice in event.get("choices") or [])
            if text:
                await send({"type": "http.response.body", "body": _event({"text": text}), "more_body": True})
            if "error" in event:
                await send({"type": "http.response.body", "body": _event(event), "more_body": False})
                return
    record.reading = reader.reading()
    record.first_s, record.last_s = reader.first_s, reader.last_s
    done = _event({"done": True, **_answer(record, asked)})
    await send({"type": "http.response.body", "body": done, "more_body": False})


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def _answer(record: Record, asked: Asked) -> dict[str, Any]:
    reading: Reading = record.reading
    counts = count_calls(reading.calls, asked.tools)
    _, at, version = reading.model.partition("@")
    first_token_s = round(record.first_s - record.began_s, 6) if record.first_s else None
    return {
        "model": reading.model,
        "version": version if at else None,
        "text": reading.content,
        "calls": [{"name": name, "arguments": _decoded(text)} for name, text in reading.calls],
        "finish_reason": reading.finish_reason,
        "unknown_tool_calls": counts.unknown,
        "schema_violations": counts.violations,
        "usage": {name: int(reading.usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")},
        "timings": {"total_s": round(time.perf_counter() - record.began_s, 6), "first_token_s": first_token_s},
    }


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
