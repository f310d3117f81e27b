"""YAML as people write it by hand, and no more: no aliases, no tags, no key twice, a size and a depth limit.

Everything read knows its place in the file. Nothing is built from what is written but texts, lists and mappings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import yaml
from crewlog.crews.findings import InvalidFile, Mark, invalid, quoted

BYTES_MAX = 128 * 1024
DEPTH_MAX = 32
VALUES_MAX = 50_000
PLAIN_CHARACTERS_MAX = 1_000
"""A longer one has no meaning of its own."""

_LOADER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_RESOLVER: Any = yaml.resolver.Resolver()
_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_WITHOUT_A_TAG = (None, "!")
_MERGE_KEY = "<<"


class Kind(StrEnum):
    """What a plain value looks like; `text` for whatever has no meaning of its own."""

    TEXT = "text"
    WHOLE_NUMBER = "int"
    NUMBER = "float"
    YES_OR_NO = "bool"
    NOTHING = "null"


_KINDS = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class Scalar:
    mark: Mark
    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class Items:
    mark: Mark
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Fields:
    mark: Mark
    values: tuple[tuple[Scalar, Value], ...]


Value = Scalar | Items | Fields


def read_text(path: Path) -> str:
    """The text of a file; raises InvalidFile for one that is too large, cannot be read or is not UTF-8."""
    try:
        with path.open("rb") as file:
            content = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise invalid(str(path), None, "file", f"cannot be read: {error.strerror}") from None
    if len(content) > BYTES_MAX:
        raise invalid(str(path), None, "file", f"is larger than {BYTES_MAX} bytes")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        mark = Mark(before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        why = f"is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8"
        raise invalid(str(path), mark, "file", why) from None


def parse(text: str, file: str, line: int = 1) -> Fields:
    """The mapping that the text holds; it begins at `line` of the file. Raises InvalidFile."""
    found = _UNPRINTABLE.search(text)
    if found:
        before = text[: found.start()]
        mark = Mark(before.count("\n") + line, found.start() - before.rfind("\n"))
        raise invalid(file, mark, "file", f"holds the character {found[0]!a}, which is not possible in YAML")
    try:
        value = _Composer(text, file, line).document()
    except yaml.MarkedYAMLError as error:
        raise _malformed(error, file, line) from None
    if not isinstance(value, Fields):
        mark = value.mark if value else Mark(line, 1)
        raise invalid(file, mark, "file", "has to be a mapping of fields to values, such as `name: mine`")
    return value


def _malformed(error: yaml.MarkedYAMLError, file: str, line: int) -> InvalidFile:
    at = error.problem_mark or error.context_mark
    mark = Mark(at.line + line, at.column + 1) if at else None
    within = f" ({error.context})" if error.context else ""
    return invalid(file, mark, "file", f"is not valid YAML: {error.problem or 'it cannot be read'}{within}")


class _Composer:
    """Builds values from the events of the parser, and stops at the first that is not allowed."""

    def __init__(self, text: str, file: str, line: int) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self._file = file
        self._line = line
        self._depth = 0
        self._values = 0

    def document(self) -> Value | None:
        next(self._events)
        first = next(self._events)
        if isinstance(first, yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events))
        next(self._events)
        second = next(self._events)
        if not isinstance(second, yaml.StreamEndEvent):
            self._refuse(second, "holds another document: leave the line `---` out")
        return value

    def _value(self, event: Any) -> Value:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            self._refuse(event, "uses an anchor or alias: anchors and aliases are not allowed, write the value again")
        if getattr(event, "tag", None) not in _WITHOUT_A_TAG:
            self._refuse(event, f"uses the tag {quoted(event.tag)}: tags are not allowed, leave it out")
        self._values += 1
        if self._values > VALUES_MAX:
            self._refuse(event, f"holds too much: at most {VALUES_MAX} values")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        self._depth += 1
        if self._depth > DEPTH_MAX:
            self._refuse(event, f"is nested too deeply: at most {DEPTH_MAX} levels")
        value = self._items(event) if isinstance(event, yaml.SequenceStartEvent) else self._fields(event)
        self._depth -= 1
        return value

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        kind = _kind_of(event.value) if event.implicit[0] and len(event.value) <= PLAIN_CHARACTERS_MAX else Kind.TEXT
        return Scalar(self._mark(event), kind, event.value)

    def _items(self, event: Any) -> Items:
        values = []
        while not isinstance(inner := next(self._events), yaml.SequenceEndEvent):
            values.append(self._value(inner))
        return Items(self._mark(event), tuple(values))

    def _fields(self, event: Any) -> Fields:
        values: dict[str, tuple[Scalar, Value]] = {}
        while not isinstance(inner := next(self._events), yaml.MappingEndEvent):
            key = self._value(inner)
            if not isinstance(key, Scalar):
                self._refuse(inner, "has a key that is no plain text")
            if key.text == _MERGE_KEY:
                self._refuse(inner, "uses a merge key: `<<` is not allowed, write the fields themselves")
            if key.text in values:
                self._refuse(inner, f"names a field twice: {quoted(key.text)} stands twice; leave one out")
            values[key.text] = (key, self._value(next(self._events)))
        return Fields(self._mark(event), tuple(values.values()))

    def _mark(self, event: Any) -> Mark:
        return Mark(event.start_mark.line + self._line, event.start_mark.column + 1)

    def _refuse(self, event: Any, why: str) -> NoReturn:
        raise invalid(self._file, self._mark(event), "file", why)


@lru_cache(4096)
def _kind_of(text: str) -> Kind:
    name = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)).rpartition(":")[2]
    return Kind(name) if name in _KINDS else Kind.TEXT
