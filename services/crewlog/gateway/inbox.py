"""What is new for one stream: whoever keeps up gets it from the batch that was just written, without the file.

A stream that falls behind reads pages until it has caught up again, so it loses nothing and holds up nobody.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from crewlog.gateway.queries import EntryFilter, Page
from crewlog.gateway.writer import News

INBOX_BYTES_MAX = 1024 * 1024


@dataclass(eq=False, slots=True)
class Inbox:
    """`changed` is set whenever there may be something new; `seen` is how far the projection has told of it."""

    wanted: EntryFilter
    seen: int
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _since: int | None = None
    _is_over: bool = False
    _entries: list[tuple[int, bytes]] = field(default_factory=list)
    _size: int = 0

    def put(self, news: News) -> None:
        self.seen = news.revision
        self.changed.set()
        if self._since is None:
            return
        for row in news.by_run.get(self.wanted.run_id, ()) if self.wanted.run_id else news.rows:
            if row.revision > self._since and (not self.wanted.kinds or row.kind in self.wanted.kinds):
                self._entries.append((row.revision, row.payload))
                self._size += len(row.payload)
        self._is_over = news.over.get(self.wanted.run_id, self._is_over)
        if self._size > INBOX_BYTES_MAX:
            self._since = None
            self._empty()

    def take(self, revision: int) -> Page | None:
        """Everything new up to `revision`, where the projection is; None when it has to be read."""
        if self._since is None:
            return None
        self._since = max(self._since, revision)
        return Page(self._empty(), self._since, False, self._is_over)

    def has_read(self, page: Page) -> None:
        """What comes after the last page comes in here unless it was told before; a page that is not the last may know
        already that the run is over. The file alone knows what a project has."""
        if not page.has_more and page.up_to >= self.seen and not self.wanted.project_id:
            self._since, self._is_over = page.up_to, page.run_is_over

    def _empty(self) -> list[tuple[int, bytes]]:
        entries, self._entries, self._size = self._entries, [], 0
        return entries
