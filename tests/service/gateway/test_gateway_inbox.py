"""Whoever keeps up with the log does not read the file, and whoever does not misses nothing."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
from crewlog.gateway import inbox
from crewlog.gateway.inbox import Inbox
from crewlog.gateway.projection import Projection
from crewlog.gateway.queries import EntryFilter, Page, Queries
from crewlog.gateway.writer import News, Row
from crewlog.v1.events_pb2 import WatchEvents
from hypothesis import given
from hypothesis import strategies as st

from tests.service.gateway.test_gateway_watch import collect

PAGE = 3
SMALL_BYTES = 9
OF_PROJECT = "a"
FILTERS = (EntryFilter(), EntryFilter("a"), EntryFilter("a", kinds=("run",)), EntryFilter(project_id="p"))
Batch = list[tuple[str, str]]
batches = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(("run", "agent"))), min_size=1, max_size=5)
steps = st.lists(st.one_of(batches, st.sampled_from(("tell", "look", "read"))), max_size=30)


class Reading:
    """A file, a projection that may tell of it later, and a stream."""

    def __init__(self, wanted: EntryFilter) -> None:
        self.rows: list[Row] = []
        self.untold: list[News] = []
        self.told = 0
        self.inbox = Inbox(wanted, 0)
        self.cursor = 0
        self.is_over = False
        self.delivered: list[int] = []
        self.looked: tuple[Page, bool] | None = None

    def write(self, batch: Batch) -> None:
        """A run is over when its number of entries is even."""
        new = [Row(len(self.rows) + 1 + place, run, kind, run, b"12345") for place, (run, kind) in enumerate(batch)]
        self.rows += new
        by_run = defaultdict[str, list[Row]](list)
        for row in new:
            by_run[row.run_id].append(row)
        self.untold.append(News(self.rows[-1].revision, new, by_run, {run: self.ended(run) for run in by_run}))

    def ended(self, run_id: str) -> bool:
        return sum(row.run_id == run_id for row in self.rows) % 2 == 0

    def tell(self) -> None:
        for news in self.untold[:1]:
            self.told = news.revision
            if not self.inbox.wanted.run_id or self.inbox.wanted.run_id in news.by_run:
                self.inbox.put(news)
        del self.untold[:1]

    def look(self) -> None:
        """What the stream gets next; of a page of the file more may be told before the stream has it."""
        if self.looked is None:
            taken = self.inbox.take(self.told)
            self.looked = (taken or self._page(), taken is None)

    def read(self) -> bool:
        """Whether there is more."""
        self.look()
        assert self.looked is not None
        (page, is_from_file), self.looked = self.looked, None
        if is_from_file:
            self.inbox.has_read(page)
        self.cursor, self.is_over = page.up_to, page.run_is_over
        self.delivered += [revision for revision, _ in page.entries]
        if self.inbox.wanted == EntryFilter(OF_PROJECT) and self.is_over and not page.has_more:
            assert len(self.delivered) % 2 == 0, "the stream would end here, and more is there"
        return page.has_more

    def wanted(self) -> Sequence[Row]:
        wanted = self.inbox.wanted
        of_run = (row for row in self.rows if not wanted.run_id or row.run_id == wanted.run_id)
        of_kind = (row for row in of_run if not wanted.kinds or row.kind in wanted.kinds)
        return [row for row in of_kind if not wanted.project_id or row.run_id == OF_PROJECT]

    def _page(self) -> Page:
        new = [(row.revision, row.payload) for row in self.wanted() if row.revision > self.cursor]
        is_over = bool(self.inbox.wanted.run_id) and self.ended(self.inbox.wanted.run_id)
        if len(new) > PAGE:
            return Page(new[:PAGE], new[PAGE - 1][0], True, is_over)
        return Page(new, len(self.rows), False, is_over)


@pytest.mark.parametrize("wanted", FILTERS)
@given(steps=steps)
def test_every_entry_comes_once_and_in_order_however_file_and_news_interleave(
    wanted: EntryFilter, steps: list[Batch | str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inbox, "INBOX_BYTES_MAX", SMALL_BYTES)
        reading = Reading(wanted)
        for step in steps:
            if isinstance(step, list):
                reading.write(step)
            else:
                getattr(reading, step)()
        while reading.untold:
            reading.tell()
        reading.read()  # a page that was looked at before
        while reading.read():
            pass
    assert reading.delivered == [row.revision for row in reading.wanted()]
    assert reading.cursor == len(reading.rows)
    if wanted.run_id and reading.rows:
        assert reading.is_over == reading.ended(wanted.run_id)


async def test_a_stream_that_keeps_up_does_not_read_the_file(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read, pages = Projection.read, list[int]()

    async def counted(self: Projection, query: Any, *args: Any) -> Any:
        pages.extend([args[1]] if query is Queries.page else [])
        return await read(self, query, *args)

    monkeypatch.setattr(Projection, "read", counted)
    project_id = await world.register()
    await world.start_run("run-0", project_id)
    head = await world.gateway.projection.caught_up()
    stream = world.event_service.Watch(WatchEvents())
    assert len(await collect(stream, head)) == head
    following = asyncio.create_task(collect(stream, 5))
    for number in range(1, 6):
        await world.start_run(f"run-{number}", project_id)
    assert [entry.revision for entry in await following] == list(range(head + 1, head + 6))
    assert pages == [0]


async def test_a_stream_that_falls_behind_reads_the_file_and_misses_nothing(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "INBOX_BYTES_MAX", 1)
    project_id = await world.register()
    stream = world.event_service.Watch(WatchEvents())
    following = asyncio.create_task(collect(stream, 11))
    for number in range(10):
        await world.start_run(f"run-{number}", project_id)
    assert [entry.revision for entry in await following] == list(range(1, 12))
