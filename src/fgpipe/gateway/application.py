"""The gateway's routes. Every upstream path is one of those named here; none is made from what a client wrote."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from fgpipe.config import GatewayConfig
from fgpipe.gateway.access import Access, ClientKeys
from fgpipe.gateway.desk import OwnDesk
from fgpipe.gateway.exchange import Gateway
from fgpipe.gateway.faults import error_json
from fgpipe.gateway.generate import Generate, GenerateAnswer, GenerateRequest
from fgpipe.gateway.published import Versions
from fgpipe.gateway.relay import Relay
from fgpipe.gateway.shortcut import GENERATE, PASSED_THROUGH, Shortcut

PAGE = Path(__file__).with_name("page.html")
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NO_ANSWER = {429: "come back later", 502: "no upstream answers", 503: "no upstream is well", 504: "too slow"}


def create(config: GatewayConfig, *, versions: Versions, keys: ClientKeys) -> Access:
    """The ASGI application: keys, then the shortcut, then the routes.

    Args:
        config: its limits; `upstreams` are the servers behind it.
        versions: what is published.
        keys: of clients; `access.require_keys` says whether they suffice for where it listens.
    """
    desk = OwnDesk(config, versions=versions)
    gateway = Gateway(config, desk)
    return Access(Shortcut(routes(gateway, desk), gateway), keys=keys)


def routes(gateway: Gateway, desk: OwnDesk) -> FastAPI:
    """All routes; its lifespan runs `desk` and `gateway`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with desk.running(), gateway.running():
            yield

    app = FastAPI(title="fgpipe gateway", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    app.add_exception_handler(HTTPException, _http_error)
    _add_generating(app, gateway)
    _add_telling(app, desk)
    return app


def _add_generating(app: FastAPI, gateway: Gateway) -> None:
    async def generate(request: Request) -> Response:
        return Generate(gateway, GENERATE)

    app.add_api_route(
        GENERATE,
        generate,
        methods=["POST"],
        summary="One answer: text and decoded calls",
        responses={200: {"model": GenerateAnswer}, 400: {"description": "the request is at fault"}, **_errors()},
        openapi_extra=_takes(GenerateRequest.model_json_schema()),
    )
    for path, summary in PASSED_THROUGH.items():
        app.add_api_route(
            path,
            _relay(gateway, path),
            methods=["POST"],
            summary=summary,
            name=path,
            responses={400: {"description": "the request is at fault"}, **_errors()},
            openapi_extra=_takes({"type": "object", "properties": {"model": {"type": "string"}}}),
        )


def _relay(gateway: Gateway, path: str) -> Any:
    async def relay(request: Request) -> Response:
        return Relay(gateway, path)

    return relay


def _add_telling(app: FastAPI, desk: OwnDesk) -> None:
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": desk.published.models()})

    async def model(name: str) -> Response:
        if (found := desk.published.model(name)) is not None:
            return JSONResponse(found)
        return _error(404, f"model: got {name[:200]!r}, expected a name of /v1/models")

    async def adapters() -> JSONResponse:
        return JSONResponse({"adapters": desk.published.listing()})

    async def figures() -> JSONResponse:
        return JSONResponse(desk.figures())

    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def ready() -> JSONResponse:
        well = len(desk.pool.healthy())
        facts = {"status": "ready" if well else "not ready", "upstreams": len(desk.pool.all), "healthy": well}
        return JSONResponse(facts, status_code=200 if well else 503, headers=None if well else {"retry-after": "2"})

    async def metrics() -> Response:
        return Response(desk.metrics_text(), headers={"content-type": METRICS_TYPE})

    body, headers = _page()

    async def page() -> Response:
        return Response(body, headers=headers)

    app.add_api_route("/v1/models", models, summary="Bases and adapters that can be asked")
    unknown: dict[int | str, dict[str, Any]] = {404: {"description": "no such model"}}
    app.add_api_route("/v1/models/{name:path}", model, summary="One of them, by its name", responses=unknown)
    app.add_api_route("/api/adapters", adapters, summary="Published versions, scores, and who answers by them")
    app.add_api_route("/api/figures", figures, summary="Upstreams, queue, and figures by adapter and version")
    app.add_api_route("/health", health, summary="The gateway runs")
    unready: dict[int | str, dict[str, Any]] = {503: {"description": "no upstream is well"}}
    app.add_api_route("/ready", ready, summary="An upstream is well", responses=unready)
    app.add_api_route("/metrics", metrics, include_in_schema=False)
    app.add_api_route("/", page, include_in_schema=False)


def _errors() -> dict[int | str, dict[str, Any]]:
    told = {401: "no key, or a wrong one", 404: "no such model", 408: "body too slow", 413: "body too large"}
    return {status: {"description": text} for status, text in {**told, **NO_ANSWER}.items()}


def _takes(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    expected = "another method"
    if error.status_code == 404:
        expected = f"one of {', '.join(_served(request.app))}"
    message = f"{request.method} {request.url.path[:200]}: got {error.detail}, expected {expected}"
    return _error(error.status_code, message, error.headers)


def _served(app: FastAPI) -> list[str]:
    """The described paths, with their methods."""
    found = [route for route in app.routes if isinstance(route, APIRoute) and route.include_in_schema]
    return [f"{' '.join(sorted(route.methods))} {route.path_format}" for route in found]


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    all_headers = {**(headers or {}), "content-type": "application/json"}
    return Response(error_json(status, message), status_code=status, headers=all_headers)


def _page() -> tuple[bytes, dict[str, str]]:
    """The page, and headers that let it run its own script, ask this gateway, and nothing else."""
    text = PAGE.read_text(encoding="utf-8")
    script, style = (_hash(re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[0]) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return text.encode(), headers


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
