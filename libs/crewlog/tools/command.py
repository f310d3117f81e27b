"""One command of an agent: what it may take, how it ended, and what it said.

The executor's side of `launcher`: it starts that process once and hands it a request per command.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from crewlog.domain.errors import Unavailable
from crewlog.tools import limits as standard
from crewlog.tools.confine import Limits, Spec

_LAUNCHER = str(Path(__file__).with_name("launcher.py"))
_PATIENCE_SECONDS = 15.0
_PIECE_BYTES = 64 * 1024

OnOutput = Callable[[str], None]
_TextDecoder = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class CommandLimits:
    """What one command may take, all its processes together. The defaults are those of docs/limits.md."""

    seconds: float = standard.COMMAND_SECONDS_DEFAULT
    grace_seconds: float = standard.COMMAND_GRACE_SECONDS
    memory_bytes: int = standard.COMMAND_MEMORY_BYTES_MAX
    processes: int = standard.COMMAND_PROCESSES_MAX
    open_files: int = standard.COMMAND_OPEN_FILES_MAX
    file_bytes: int = standard.COMMAND_FILE_BYTES_MAX
    temporary_bytes: int = standard.COMMAND_TEMPORARY_BYTES_MAX
    output_bytes: int = standard.COMMAND_OUTPUT_BYTES_MAX

    def for_launcher(self) -> Limits:
        return Limits(
            seconds=self.seconds,
            grace_seconds=self.grace_seconds,
            memory_bytes=self.memory_bytes,
            processes=self.processes,
            open_files=self.open_files,
            file_bytes=self.file_bytes,
            temporary_bytes=self.temporary_bytes,
        )


class Ending(StrEnum):
    EXITED = "exited"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    TOO_MANY_PROCESSES = "too_many_processes"
    TOO_MUCH_OUTPUT = "too_much_output"
    # Its supervisor is gone: somebody killed it, which the levels above `none` do not allow to the command.
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class CommandResult:
    """`exit_code` is 128 and the number for a signal. `output` is stdout and stderr as they came, its middle cut."""

    exit_code: int
    output: str
    ending: Ending
    cut_bytes: int
    seconds: float


@dataclass
class _Output:
    """Keeps head and tail of a stream, and passes the pieces on as text while they come."""

    limit: int
    on_output: OnOutput | None
    total: int = 0
    head: bytearray = field(default_factory=bytearray)
    tail: bytearray = field(default_factory=bytearray)
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    def take(self, piece: bytes) -> None:
        self.total += len(piece)
        self._pass_on(self._decoder.decode(piece))
        room = max(0, standard.COMMAND_OUTPUT_HEAD_BYTES - len(self.head))
        self.head += piece[:room]
        self.tail += piece[room:]
        if len(self.tail) > standard.COMMAND_OUTPUT_TAIL_BYTES:
            del self.tail[: len(self.tail) - standard.COMMAND_OUTPUT_TAIL_BYTES]

    @property
    def is_too_much(self) -> bool:
        return self.total > self.limit

    @property
    def cut_bytes(self) -> int:
        return self.total - len(self.head) - len(self.tail)

    def text(self) -> str:
        if not self.cut_bytes:
            return (self.head + self.tail).decode("utf-8", "replace")
        head, tail = (part.decode("utf-8", "replace") for part in (self.head, self.tail))
        return f"{head}\n[... {self.cut_bytes} bytes are left out here ...]\n{tail}"

    def _pass_on(self, text: str) -> None:
        if self.on_output and text:
            self.on_output(text)


class Launcher:
    """Starts commands. One per executor; `close` it at the end."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    async def run(self, spec: Spec, limits: CommandLimits, on_output: OnOutput | None = None) -> CommandResult:
        """Runs it to its end. Cancelling ends the command first, with all that it has started.

        Raises Unavailable when it could not be started as confined as `spec` wants it.
        """
        output = _Output(limits.output_bytes, on_output)
        async with self._started(spec) as (stdout, report, control):
            reading = asyncio.create_task(_read_all(stdout, output, control))
            try:
                async with asyncio.timeout(limits.seconds + limits.grace_seconds + _PATIENCE_SECONDS):
                    told = await _report_of(report, control)
                await _finish(reading)
            finally:
                reading.cancel()
        return _result(told, output)

    async def close(self) -> None:
        if self._requests is not None:
            self._requests.close()
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
        self._requests = self._process = None

    @asynccontextmanager
    async def _started(
        self, spec: Spec
    ) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamReader, asyncio.WriteTransport], None]:
        ours, theirs = _pipes()
        try:
            self._send(theirs)
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        opening = asyncio.ensure_future(_open(ours))
        try:
            stdout, report, control, transports = await asyncio.shield(opening)
        except asyncio.CancelledError:
            _close((await opening)[-1])
            raise
        control.write(json.dumps(spec).encode("ascii") + b"\n")
        try:
            yield stdout, report, control
        finally:
            _close(transports)

    def _send(self, descriptors: list[int]) -> None:
        """A launcher that somebody has killed is replaced, once."""
        try:
            socket.send_fds(self._running(), [b"r"], descriptors)
        except (BrokenPipeError, ConnectionResetError):
            self._forget()
            socket.send_fds(self._running(), [b"r"], descriptors)

    def _running(self) -> socket.socket:
        if self._requests is None:
            self._requests, theirs = socket.socketpair()
            with theirs:
                self._process = _start_launcher(theirs)
        return self._requests

    def _forget(self) -> None:
        if self._requests is not None and self._process is not None:
            self._requests.close()
            self._process.wait()
        self._requests = self._process = None


def _start_launcher(requests: socket.socket) -> subprocess.Popen[bytes]:
    """With an empty environment: nothing of ours can be read from it or from what it forks."""
    argv = [sys.executable, "-I", "-S", _LAUNCHER]
    return subprocess.Popen(
        argv, stdin=requests.fileno(), stdout=subprocess.DEVNULL, env={}, cwd="/", start_new_session=True
    )


def _pipes() -> tuple[list[int], list[int]]:
    """Ours and theirs, each in the order output, control, report."""
    (output, their_output), (their_control, control), (report, their_report) = os.pipe(), os.pipe(), os.pipe()
    return [output, control, report], [their_output, their_control, their_report]


async def _open(
    descriptors: list[int],
) -> tuple[asyncio.StreamReader, asyncio.StreamReader, asyncio.WriteTransport, tuple[asyncio.BaseTransport, ...]]:
    stdout, reading_stdout = await _reader(descriptors[0])
    report, reading_report = await _reader(descriptors[2])
    control = await _writer(descriptors[1])
    return stdout, report, control, (reading_stdout, reading_report, control)


def _close(transports: tuple[asyncio.BaseTransport, ...]) -> None:
    for transport in transports:
        transport.close()


async def _reader(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    reader = asyncio.StreamReader(limit=_PIECE_BYTES)
    file = os.fdopen(descriptor, "rb", 0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), file
    )
    return reader, transport


async def _writer(descriptor: int) -> asyncio.WriteTransport:
    file = os.fdopen(descriptor, "wb", 0)
    transport, _ = await asyncio.get_running_loop().connect_write_pipe(asyncio.BaseProtocol, file)
    return transport


async def _read_all(stdout: asyncio.StreamReader, output: _Output, control: asyncio.WriteTransport) -> None:
    while piece := await stdout.read(_PIECE_BYTES):
        output.take(piece)
        if output.is_too_much:
            control.close()


async def _report_of(report: asyncio.StreamReader, control: asyncio.WriteTransport) -> dict[str, Any]:
    reading = asyncio.ensure_future(report.read())
    try:
        told = await asyncio.shield(reading)
    except asyncio.CancelledError:
        control.close()
        await asyncio.wait([reading], timeout=_PATIENCE_SECONDS)
        raise
    parsed: dict[str, Any] = json.loads(told) if told else {"ending": Ending.LOST, "exit_code": None, "seconds": 0.0}
    return parsed


async def _finish(reading: asyncio.Task[None]) -> None:
    """Everybody who could write is dead by now; whoever escaped (level none) is not waited for."""
    await asyncio.wait([reading], timeout=1.0)
    if reading.done():
        reading.result()


def _result(told: dict[str, Any], output: _Output) -> CommandResult:
    if "error" in told:
        raise Unavailable(f"the sandbox could not be set up: {told['error']}")
    ending = Ending.TOO_MUCH_OUTPUT if told["ending"] == "stopped" else Ending(told["ending"])
    code = 137 if told["exit_code"] is None else told["exit_code"]
    return CommandResult(code, output.text(), ending, output.cut_bytes, told["seconds"])
