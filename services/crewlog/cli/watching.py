"""Follows a run on the terminal, lets go of it or cancels it when the person wants that, and ends with its summary.

A run that has paused by itself, and stays so until a person has mended something, is not waited for.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Any

from crewlog.cli import board, costing, following, gates, live, summary, telling
from crewlog.cli.board import Board
from crewlog.cli.exits import ExitCode
from crewlog.cli.gateway import Gateway
from crewlog.cli.live import View
from crewlog.cli.options import Output
from crewlog.cli.output import say, write_line, write_message
from crewlog.eventlog import codec
from crewlog.v1.budget_service_pb2 import QueryCost
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.events_pb2 import GetStatus
from crewlog.v1.run_pb2 import CancelRun, GetRun, RunPaused, RunView
from crewlog.v1.run_service_pb2 import WatchRunMessage


class _LeftRunning(Exception):
    """The person goes; the run goes on."""


async def watch(gateway: Gateway, run_id: str, output: Output, repo: str = "") -> int:
    """The exit status of a command that ends with the run."""
    try:
        state = await _follow(gateway, run_id)
    except _LeftRunning:
        _say_how_to_go_on(gateway, run_id)
        return ExitCode.INTERRUPTED
    view = await gateway.runs.Get(GetRun(run_id=run_id, at_least_revision=state.revision))
    if output is Output.TABLE:
        await write_summary(gateway, view, repo)
    else:
        write_message(view, output)
    return summary.exit_code(view)


async def write_summary(gateway: Gateway, view: RunView, repo: str = "") -> None:
    scripted = (await gateway.events.Status(GetStatus())).scripted
    for line in summary.in_words(view, scripted=scripted):
        write_line(line)
    beside = costing.summary(await gateway.costs.Query(QueryCost(run_id=view.run_id)))
    if beside:
        write_line(f"\n  {beside}")
    write_line("\n  look closer:")
    for command in summary.next_commands(view, gateway, repo):
        write_line(f"    {command}")


async def show(gateway: Gateway, run_id: str, view: View) -> None:
    """Shows the run from where the view is, to its end, or to a pause that somebody has to do something about."""
    stream = following.follow(gateway, run_id, view.board, with_live=True, say=view.say)
    await live.show_all(_until_stuck(gateway, stream, view), view, partial(_hints, gateway))


async def _follow(gateway: Gateway, run_id: str) -> Board:
    """Watches to the end. An interrupt stops the view, asks, and goes on where it was, or raises."""
    view = live.new_view(telling.new_console())
    with _interrupts() as interrupted:
        while True:
            with view:
                await _unless(interrupted, show(gateway, run_id, view))
            if not interrupted.is_set() or board.is_over(view.board):
                return view.board
            interrupted.clear()
            await _ask_what_now(gateway, run_id, interrupted)


async def _until_stuck(
    gateway: Gateway, messages: AsyncGenerator[WatchRunMessage], view: View
) -> AsyncGenerator[WatchRunMessage]:
    """The stream, up to a pause that lasts until somebody does something about its cause."""
    async with aclosing(messages):
        async for message in messages:
            yield message
            if _needs_somebody(message.entry) and await _is_still_paused(gateway, view.board):
                return


def _needs_somebody(recorded: RecordedEntry) -> bool:
    paused = (fact for fact in codec.known_facts((recorded.entry,)) if isinstance(fact, RunPaused))
    return any(fact.failure.reason and not fact.resumes_at_unix_micros for fact in paused)


async def _is_still_paused(gateway: Gateway, state: Board) -> bool:
    """Not when what is shown is the past."""
    now = await gateway.runs.Get(GetRun(run_id=state.run.started.run_id, at_least_revision=state.revision))
    return now.HasField("paused") and now.paused == state.run.paused


def _hints(gateway: Gateway, recorded: RecordedEntry) -> list[str]:
    """What can be done about what has just happened."""
    run_id = recorded.entry.aggregate.id
    paused = any(isinstance(fact, RunPaused) for fact in codec.known_facts((recorded.entry,)))
    answers = [f"  answer it  {command}" for command in gates.how_to_answer(gateway, recorded)]
    return answers + ([f"  resume it  {gateway.command(f'resume {run_id}')}"] if paused else [])


async def _unless(interrupted: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` to its end, or to the interrupt."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(interrupted.wait())
    try:
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        working.cancel()
        waiting.cancel()
        await asyncio.wait((working, waiting))


@contextmanager
def _interrupts() -> Iterator[asyncio.Event]:
    """Ctrl-C sets the event instead of ending the command."""
    interrupted, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupted.set)
    try:
        yield interrupted
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _ask_what_now(gateway: Gateway, run_id: str, interrupted: asyncio.Event) -> None:
    """Returns when the run is to be watched on: it may be one that is being cancelled now."""
    if not telling.is_interactive():
        raise _LeftRunning
    say(f"Run {run_id}: [l]eave it running, [c]ancel it, or [w]atch on?")
    match (await _answer(interrupted))[:1]:
        case "c":
            await gateway.runs.Cancel(CancelRun(run_id=run_id, reason="interrupted by the person who watched it"))
        case "w":
            return
        case _:
            raise _LeftRunning


async def _answer(interrupted: asyncio.Event) -> str:
    """A line from the terminal; empty when there is none, or when the person interrupts once more."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), readable.set)
    try:
        await _unless(interrupted, _wait(readable))
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return "" if interrupted.is_set() else sys.stdin.readline().strip().lower()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def _say_how_to_go_on(gateway: Gateway, run_id: str) -> None:
    say(f"run {run_id} goes on without you")
    say(f"  watch it   {gateway.command(f'watch {run_id}')}")
    say(f"  cancel it  {gateway.command(f'cancel {run_id}')}")
