"""A server that speaks the Messages API on loopback and plays a script: a model without a key and without a network.

    python -m crewlog.models.scripted --script FILE [--port N]

prints its address and serves until SIGTERM, SIGINT or the end of its parent (CREWLOG_PARENT_FD). `GET /ledger` lists
the requests that it has had. docs/scripted-model.md describes the script.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

import uvicorn
from crewlog.domain.errors import InvalidCommand
from crewlog.models.prompt_cache import InputCount, PromptCache, request_hash, total_tokens
from crewlog.models.request_checks import REQUEST_BYTES_MAX, has_key, wrong_with
from crewlog.models.script import Error, Fault, Move, RetryAfter, Script, fault_of, next_move
from crewlog.models.script_file import load_script
from crewlog.models.scripted_answer import Message, as_events, as_json, encoded, message_of
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

LEDGER_ENTRIES_MAX = 10_000
SYSTEM_HEAD_CHARACTERS = 80
KEEP_ALIVE_SECONDS = 75

_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


@dataclass(frozen=True)
class LedgerEntry:
    """One request: the same `request_sha256` twice means that the same answer was asked for twice. `fault`: what was to
    go wrong with it; only an answer with status 200 and without one was sent as a whole."""

    request_sha256: str
    model: str
    system_head: str
    conversation: int
    step: int
    stream: bool
    status: int
    usage: Mapping[str, Any]
    fault: str = ""


class ScriptedModel:
    """The ASGI application. It remembers prefixes for its cache figures, how often a request with faults has come, and
    the ledger; nothing else."""

    def __init__(self, script_path: Path) -> None:
        """Raises InvalidCommand for a script that is not valid."""
        self._script: Script = load_script(script_path)
        self._cache = PromptCache()
        self._requests: Counter[str] = Counter()
        self._ledger: deque[LedgerEntry] = deque(maxlen=LEDGER_ENTRIES_MAX)
        self.app = Starlette(
            routes=[
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/messages/count_tokens", self._count_tokens, methods=["POST"]),
                Route("/ledger", self._show_ledger),
            ],
            exception_handlers={404: _not_found, 405: _not_found},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)

    async def _messages(self, request: Request) -> Response:
        body, refusal = await self._checked(request, counting=False)
        if refusal:
            return refusal
        move = next_move(self._script, body)
        if move is None:
            return _error(400, f"the script {self._script.name!r} has no conversation for {_head(body)!r}")
        return self._played(body, move)

    async def _count_tokens(self, request: Request) -> Response:
        body, refusal = await self._checked(request, counting=True)
        return refusal or JSONResponse({"input_tokens": total_tokens(body)})

    async def _show_ledger(self, _: Request) -> Response:
        lines = "".join(json.dumps(asdict(entry)) + "\n" for entry in self._ledger)
        return Response(lines, media_type="application/jsonl")

    async def _checked(self, request: Request, *, counting: bool) -> tuple[Any, Response | None]:
        """The body, and the refusal if it is to be refused."""
        if not has_key(request.headers):
            return None, _error(401, "x-api-key header or bearer token is required")
        content = await request.body()
        if len(content) > REQUEST_BYTES_MAX:
            return None, _error(413, f"the request exceeds {REQUEST_BYTES_MAX} bytes")
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            return None, _error(400, "the body is not JSON")
        if wrong := wrong_with(request.headers, body, counting=counting):
            return None, _error(400, wrong)
        if not counting and (tokens := total_tokens(body)) > self._script.context_tokens:
            return None, _error(400, f"prompt is too long: {tokens} tokens > {self._script.context_tokens} maximum")
        return body, None

    def _played(self, body: Mapping[str, Any], move: Move) -> Response:
        key = request_hash(body)
        fault = self._fault(key, move)
        error = fault.error
        if error and error.after is None:
            self._record(body, key, move, error.status, {}, fault)
            return _scripted_error(error)
        count: InputCount = self._cache.count(body)
        message = message_of(move.answer, key, body["model"], body["max_tokens"], count.usage())
        self._record(body, key, move, 200, message.reported(), fault)
        return _Answered(move.answer.delay_millis, fault, message, stream=bool(body.get("stream")))

    def _fault(self, key: str, move: Move) -> Fault:
        """Counted by request: a client that starts again meets what is left of them."""
        before = self._requests[key] if move.answer.faults else 0
        fault = fault_of(move.answer, before)
        if fault is None:
            return Fault()
        self._requests[key] += 1
        return fault

    def _record(
        self, body: Mapping[str, Any], key: str, move: Move, status: int, usage: Mapping[str, Any], fault: Fault
    ) -> None:
        self._ledger.append(
            LedgerEntry(
                request_sha256=key,
                model=body["model"],
                system_head=_head(body),
                conversation=move.conversation,
                step=move.step,
                stream=bool(body.get("stream")),
                status=status,
                usage=usage,
                fault=_named(fault),
            )
        )


def _named(fault: Fault) -> str:
    kinds = ("error", fault.error), ("disconnect", fault.disconnect_after), ("stall", fault.stall_after)
    return next((name for name, given in kinds if given is not None), "delay" if fault.delay_millis else "")


class _Answered(Response):
    """Sends the answer piece by piece; where the script says so, it falls silent or breaks off."""

    def __init__(self, delay_millis: int, fault: Fault, message: Message, *, stream: bool) -> None:
        self._delay_seconds = (delay_millis + fault.delay_millis) / 1000
        self._fault = fault
        self._pieces = (
            [encoded(event) for event in as_events(message)] if stream else [json.dumps(as_json(message)).encode()]
        )
        media_type = "text/event-stream" if stream else "application/json"
        super().__init__(media_type=media_type, headers={"request-id": f"req_{message.id[4:]}"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._delay_seconds and await _left(receive, self._delay_seconds):
            return
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        error = self._fault.error
        for place, piece in enumerate(self._pieces):
            if place == self._fault.disconnect_after:
                return  # the server closes a connection whose answer has no end
            if place == self._fault.stall_after and await _left(receive, None):
                return
            if error and place == error.after:
                await send({"type": "http.response.body", "body": encoded(_error_event(error)), "more_body": True})
                break
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive, seconds: float | None) -> bool:
    """Waits until the client has gone (True), or for the time given (False)."""
    try:
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True


def _head(body: Mapping[str, Any]) -> str:
    system = body.get("system") or ""
    text = system if isinstance(system, str) else system[0]["text"]
    return str(text)[:SYSTEM_HEAD_CHARACTERS]


def _scripted_error(error: Error) -> Response:
    headers = {**error.headers, **_retry_after(error.retry_after)}
    return JSONResponse(_error_event(error), error.status, {"request-id": "req_refused", **headers})


def _error_event(error: Error) -> dict[str, Any]:
    return _error_body(error.status, error.message or "as the script says", error.type, error.code)


def _retry_after(wish: RetryAfter | None) -> dict[str, str]:
    match wish:
        case RetryAfter("seconds", millis):
            return {"retry-after": f"{millis // 1000}"}
        case RetryAfter("millis", millis):
            return {"retry-after-ms": f"{millis}"}
        case RetryAfter(_, millis):
            return {"retry-after": formatdate(math.ceil(time.time() + millis / 1000), usegmt=True)}
    return {}


def _error(status: int, message: str) -> Response:
    return JSONResponse(_error_body(status, message), status, {"request-id": "req_refused"})


def _error_body(status: int, message: str, error_type: str = "", code: str = "") -> dict[str, Any]:
    details = {"details": {"error_code": code}} if code else {}
    error = {"type": error_type or _TYPES.get(status, "api_error"), "message": message, **details}
    return {"type": "error", "error": error, "request_id": "req_refused"}


async def _not_found(request: Request, _: Exception) -> Response:
    return _error(404, f"there is nothing at {request.url.path}")


class _Server(uvicorn.Server):
    """Leaves the signals to whoever runs it, and stops when it is told to instead of looking every 100 ms."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.stop.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serve_scripted(script_path: Path, port: int = 0) -> AsyncIterator[str]:
    """Serves on loopback while the block runs, and gives the address: port 0 is a free one.

    Raises InvalidCommand for a script that is not valid, and OSError for a port that is taken.
    """
    model = ScriptedModel(script_path)
    listener = _listener(port)
    server = _Server(
        uvicorn.Config(
            model,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.stop.set()
        await serving
        listener.close()


def _listener(port: int) -> socket.socket:
    # The protocol is named because asyncio switches Nagle's delay off only where it is: it costs 40 ms an answer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def main(arguments: Sequence[str] | None = None) -> int:
    from crewlog.runtime.serve import run

    parser = argparse.ArgumentParser(prog="crewlog.models.scripted", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--script", type=Path, required=True, help="the script, YAML")
    parser.add_argument("--port", type=int, default=0, help="the port on 127.0.0.1; 0, the default, is a free one")
    options = parser.parse_args(arguments)

    async def serve(stop: asyncio.Event) -> None:
        async with serve_scripted(options.script, options.port) as url:
            sys.stdout.write(f"{url}\n")
            sys.stdout.flush()
            await stop.wait()

    try:
        return run(serve)
    except (InvalidCommand, OSError) as error:
        sys.stderr.write(f"{error}\n{getattr(error, 'what_to_do', '')}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
