"""Texts of which only a part may be kept: they say so, and beside them stands how much there was."""

from __future__ import annotations

from dataclasses import dataclass

_MARK = "[... {} bytes are left out here ...]"
_MARK_BYTES = len(_MARK) + 20


@dataclass(frozen=True, slots=True)
class Kept:
    """What is there of a text. `cut_from_bytes`: how much there was, where some of it is left out; else 0."""

    text: str
    cut_from_bytes: int = 0

    def end(self, size: int) -> Kept:
        """At most so many bytes, or nothing but the mark, without the beginning of what is longer."""
        whole = self.text.encode(errors="replace")
        if len(whole) <= size:
            return self
        room = max(0, size - _MARK_BYTES)
        part = whole[len(whole) - room :].decode(errors="ignore")
        return self._cut(f"{self._mark(whole, room)}\n{part}", len(whole))

    def beginning(self, size: int) -> Kept:
        """At most so many bytes, or nothing but the mark, without the end of what is longer."""
        whole = self.text.encode(errors="replace")
        if len(whole) <= size:
            return self
        room = max(0, size - _MARK_BYTES)
        part = whole[:room].decode(errors="ignore")
        return self._cut(f"{part}\n{self._mark(whole, room)}", len(whole))

    def _mark(self, whole: bytes, room: int) -> str:
        return _MARK.format(max(self.cut_from_bytes, len(whole)) - room)

    def _cut(self, text: str, size: int) -> Kept:
        return Kept(text, max(self.cut_from_bytes, size))
