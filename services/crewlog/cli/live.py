"""Shows a run while it goes on: on a terminal a table of its tasks below its story, elsewhere one line per step."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Protocol, Self

from crewlog.cli import board, story, telling, wording
from crewlog.cli.board import Board, Row
from crewlog.cli.lines import Line, Tone
from crewlog.cli.story import Story
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.run_pb2 import TaskStatus
from crewlog.v1.run_service_pb2 import LiveDelta, WatchRunMessage
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

REFRESHES_PER_SECOND = 8
DOING_CHARACTERS = 60
WAITING_LINES_MAX = 3
_STYLES = {
    TaskStatus.TASK_STATUS_CLAIMED: "cyan",
    TaskStatus.TASK_STATUS_SUCCEEDED: "green",
    TaskStatus.TASK_STATUS_FAILED: "red",
    TaskStatus.TASK_STATUS_CANCELLED: "yellow",
    TaskStatus.TASK_STATUS_PARKED: "yellow",
    TaskStatus.TASK_STATUS_TIMED_OUT: "red",
}
_GOING_ON = (TaskStatus.TASK_STATUS_CLAIMED, TaskStatus.TASK_STATUS_PARKED)
_TO_COME = (TaskStatus.TASK_STATUS_READY, TaskStatus.TASK_STATUS_WAITING)


class View(Protocol):
    """What a run is shown with, while the context is entered; it can be entered again, and goes on where it was."""

    board: Board
    told: Story

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def tell(self, line: Line) -> None:
        """A line of the run's story."""

    def say(self, text: str) -> None:
        """Something beside the run: about the connection, or what to do."""

    def withdraw(self, who: str, what: str) -> None:
        """What was shown of it is taken back already."""


def new_view(console: Console) -> View:
    return _Screen(console) if console.is_terminal and not console.is_dumb_terminal else _Lines(console)


async def show_all(
    messages: AsyncGenerator[WatchRunMessage],
    view: View,
    hints: Callable[[RecordedEntry], Sequence[str]] = lambda entry: (),
) -> None:
    """Shows the stream to its end. `hints` are what an entry suggests to do."""
    async with aclosing(messages):
        async for message in messages:
            match message.WhichOneof("message"):
                case "entry":
                    view.board = board.fold(view.board, message.entry)
                    view.told, lines = story.tell(view.told, message.entry)
                    for line in lines:
                        if line.tone is not Tone.DETAIL:
                            view.tell(line)
                    for hint in hints(message.entry):
                        view.say(hint)
                case "live":
                    _stream(view, message.live)


def _stream(view: View, delta: LiveDelta) -> None:
    shown = board.shown_of(view.board, delta) if delta.withdrawn else ""
    view.board = board.stream(view.board, delta)
    if shown:
        what = "the model has begun to say" if delta.index == board.MODEL else "the command has written"
        view.withdraw(story.task_of(delta.agent_id), f"withdrawn: what {what} in turn {delta.turn}")


class _Lines:
    """For logs: no line is ever taken back."""

    def __init__(self, console: Console) -> None:
        self.board = Board()
        self.told = Story()
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def tell(self, line: Line) -> None:
        self.say(f"{wording.time_of_day(line.at_unix_micros)}  {telling.in_words(line)}")

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def withdraw(self, who: str, what: str) -> None:
        self.tell(Line(who, what, at_unix_micros=time.time_ns() // 1000))


class _Screen:
    """A thread draws `board`, which is replaced and never changed."""

    def __init__(self, console: Console) -> None:
        self.board = Board()
        self.told = Story()
        self._console = console
        self._live: Live | None = None

    def __enter__(self) -> Self:
        # It goes away with the end of the run: the summary, which follows, has a table of its own.
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
        )
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, line: Line) -> None:
        self._console.print(telling.in_colours(line, self._console.width), no_wrap=True, soft_wrap=False)

    def say(self, text: str) -> None:
        self._console.print(text, style="yellow", markup=False)

    def withdraw(self, who: str, what: str) -> None:
        """It is not in the table any more."""

    def _render(self) -> RenderableType:
        return screen(self.board, self._console.height, time.time_ns() // 1000)


def screen(state: Board, height: int, now_micros: int) -> RenderableType:
    """The table of the tasks, as many as fit, what they wait for, and a line about the run."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("task", "status", "turn", "doing"):
        table.add_column(heading, no_wrap=True)
    for heading in ("tokens", "cost", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    waiting = _waiting_for(state)
    for row in _fitting(board.rows(state), max(3, height - 6 - len(waiting))):
        table.add_row(*_cells(row, now_micros))
    return Group(Text(), table, *waiting, _footer(state, now_micros))


def _fitting(rows: Sequence[Row], most: int) -> list[Row]:
    """What goes on comes first, then what comes next, then what has ended last; all in their order."""
    numbered = list(enumerate(rows))
    chosen = sorted(numbered, key=lambda each: _rank(each[1], each[0]))[:most]
    return [row for _, row in sorted(chosen, key=lambda each: each[0])]


def _rank(row: Row, number: int) -> tuple[int, int]:
    if row.status in _GOING_ON:
        return 0, number
    return (1, number) if row.status in _TO_COME else (2, -number)


def _cells(row: Row, now_micros: int) -> tuple[Text, ...]:
    style = _STYLES.get(row.status, "dim")
    cells = (
        wording.plain(row.task_id),
        wording.task_status(row.status) if row.status != TaskStatus.TASK_STATUS_CLAIMED else "working",
        str(row.turn or ""),
        _doing(row),
        wording.count(row.tokens) if row.tokens else "",
        wording.money(row.cost_usd_micros) if row.cost_usd_micros else "",
        _elapsed(row.started_at_unix_micros, row.ended_at_unix_micros, now_micros),
    )
    return tuple(Text(cell, style=style) for cell in cells)


def _waiting_for(state: Board) -> list[Text]:
    """Why the run is paused, and the gates that are open, as many as fit."""
    paused = board.head(state).paused
    lines = [f"paused {wording.pause(paused)}"] if paused.ByteSize() else []
    lines += [f"gate {gate.gate_id} asks: {wording.one_line(gate.question)}" for gate in board.open_gates(state)]
    return [Text(wording.plain(line), style="yellow", no_wrap=True) for line in lines[:WAITING_LINES_MAX]]


def _footer(state: Board, now_micros: int) -> Text:
    view = board.head(state)
    limit = f" of {wording.money(view.budget.usd_micros)}" if view.budget.usd_micros else ""
    time_so_far = _elapsed(view.started_at_unix_micros, view.ended_at_unix_micros, now_micros)
    spent = wording.money(board.spent_usd_micros(state))
    return Text(f"{view.run_id}  {wording.run_status(view.status)}  {spent}{limit}  {time_so_far}", style="bold")


def _elapsed(started: int, ended: int, now_micros: int) -> str:
    return wording.duration((ended or now_micros) - started) if started else ""


def _doing(row: Row) -> str:
    """The end of what is being written, as that is the newest part; the beginning of what has come of it."""
    if row.status != TaskStatus.TASK_STATUS_CLAIMED:
        return wording.one_line(row.doing, DOING_CHARACTERS)
    text = wording.one_line(row.doing, board.TAIL_CHARACTERS_MAX * 2)
    return text if len(text) <= DOING_CHARACTERS else "…" + text[-(DOING_CHARACTERS - 1) :]
