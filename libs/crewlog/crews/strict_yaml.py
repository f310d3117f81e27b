"""YAML as people write it by hand, and no more: no aliases, no tags, no key twice, a size limit, every field known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from crewlog.domain.errors import InvalidCommand

BYTES_MAX = 128 * 1024
DEPTH_MAX = 16

_WITHOUT_A_TAG = (None, "!")


def read_text(path: Path) -> str:
    """The text of a file; raises InvalidCommand for one that is too large, cannot be read or is not UTF-8."""
    try:
        with path.open("rb") as file:
            content = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise invalid(str(path), "file", f"cannot be read: {error.strerror}") from None
    if len(content) > BYTES_MAX:
        raise invalid(str(path), "file", f"is larger than {BYTES_MAX} bytes")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise invalid(str(path), "file", f"is not UTF-8: {error.reason} at byte {error.start}") from None


def parse(text: str, where: str) -> Mapping[str, Any]:
    """The mapping that the text holds. Raises InvalidCommand that names `where` and the line."""
    try:
        loader = _Loader(text)
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise invalid(where, "file", f"is not valid YAML: {_told(error)}") from None
    except ValueError as error:
        raise invalid(where, "file", f"holds a value that cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise invalid(where, "file", "has to be a mapping of fields to values")
    return value


class Fields:
    """The fields of a mapping, taken one by one; what is left over in the end is an error."""

    def __init__(self, where: str, name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise invalid(where, name, "has to be a mapping of fields to values")
        self._where = where
        self._name = name
        self._values = dict(value)

    def text(self, field: str, default: str | None = None) -> str:
        return str(self._take(field, str, "a text", default))

    def number(self, field: str, default: int) -> int:
        value = self._take(field, int, "a whole number", default)
        if isinstance(value, bool) or not 0 <= value < 2**31:
            raise invalid(self._where, self._path(field), "has to be a whole number from 0 to 2147483647")
        return int(value)

    def yes_or_no(self, field: str) -> bool:
        """False where it is left out."""
        return bool(self._take(field, bool, "true or false", False))

    def one_of(self, field: str, values: Iterable[str], default: str) -> str:
        value = self.text(field, default)
        if value not in values:
            raise invalid(self._where, self._path(field), f"has to be one of: {', '.join(filter(None, values))}")
        return value

    def texts(self, field: str) -> list[str]:
        values = self.items(field)
        if not all(isinstance(value, str) for value in values):
            raise invalid(self._where, self._path(field), "has to be a list of texts")
        return [str(value) for value in values]

    def items(self, field: str) -> Sequence[Any]:
        return list(self._take(field, list, "a list", []))

    def has(self, field: str) -> bool:
        return field in self._values

    def mapping(self, field: str) -> Fields:
        return Fields(self._where, self._path(field), self._values.pop(field, None))

    def done(self) -> None:
        """Raises InvalidCommand for the first field that nobody has asked for."""
        for field in self._values:
            raise invalid(self._where, self._path(str(field)), "is no field")

    def _take(self, field: str, kind: type, described: str, default: Any) -> Any:
        value = self._values.pop(field, default)
        if value is None:
            raise invalid(self._where, self._path(field), "is missing")
        if not isinstance(value, kind):
            raise invalid(self._where, self._path(field), f"has to be {described}")
        return value

    def _path(self, field: str) -> str:
        return f"{self._name}.{field}" if self._name else field


def invalid(where: str, field: str, why: str) -> InvalidCommand:
    return InvalidCommand(f"{where}: {field} {why}", violations={field: why})


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.composer.ComposerError(None, None, "anchors and aliases are not allowed", event.start_mark)
        if getattr(event, "tag", None) not in _WITHOUT_A_TAG:
            raise yaml.composer.ComposerError(None, None, "tags are not allowed", event.start_mark)
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise yaml.composer.ComposerError(None, None, "it is nested too deeply", event.start_mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                raise yaml.constructor.ConstructorError(None, None, "a key has to be a plain text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _told(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "it cannot be read"
    return f"{problem} (line {mark.line + 1})" if mark else str(problem)
