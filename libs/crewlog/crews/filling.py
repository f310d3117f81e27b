"""Fills the messages of workflow_file.proto from YAML, by their descriptors: a key is the name of a field.

What is wrong is collected, so that one reading says all of it; where everything stands is remembered by its path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from crewlog.crews import command_words, plain
from crewlog.crews.findings import Finding, InvalidFile, Mark, quoted, way_out
from crewlog.crews.follow_ups import WHOLE, FollowUps, Unknown
from crewlog.crews.plain import Unreadable
from crewlog.crews.strict_yaml import Fields, Items, Kind, Scalar, Value
from crewlog.domain.workflow.references import Certain
from crewlog.v1.workflow_file_pb2 import Form, form, required, short_for
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


class Source:
    """A file that is read: where its fields stand, and what was found to be wrong."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._marks: dict[str, Mark] = {}
        self._texts: dict[str, str] = {}
        self._findings: list[Finding] = []
        self._unknown: list[Unknown] = []
        self._follow_ups = FollowUps()

    def remember(self, path: str, value: Value) -> None:
        self._marks.setdefault(path, value.mark)
        if isinstance(value, Scalar):
            self._texts[path] = value.text

    def has(self, path: str) -> bool:
        return path in self._marks

    def text(self, path: str) -> str:
        """What stands there, as it was written."""
        return self._texts.get(path, "")

    def mark(self, path: str) -> Mark | None:
        """Where the field stands, or the nearest one around it."""
        while path not in self._marks and path:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self._marks.get(path)

    def refuse(self, path: str, why: str, mark: Mark | None = None) -> None:
        """Unless it may follow from what was refused before the last `settle`."""
        if not self.is_settled(path):
            self._findings.append(Finding(self.file, mark or self.mark(path), path or WHOLE, why))

    def refuse_unknown(self, within: str, key: Scalar, possible: set[str]) -> str:
        """A field that there is not. Gives the one that was meant, where there is one."""
        found = Unknown.of(within, key.text, possible)
        why = f"is no field; {way_out(key.text, possible)}"
        self._unknown.append(found)
        self._findings.append(Finding(self.file, key.mark, _shown(_path(within, key.text)), why))
        return found.meant

    def settle(self) -> Certain:
        """What is refused from now on can follow from what was refused so far. Says what is certain all the same."""
        self._follow_ups = FollowUps([each.field for each in self._findings], self._unknown)
        return self._follow_ups.certain

    def is_settled(self, path: str) -> bool:
        return self._follow_ups.has(path)

    def check(self) -> None:
        """Raises InvalidFile when something was refused, in the order of the file."""
        if self._findings:
            raise InvalidFile(sorted(self._findings, key=lambda each: _order(each.mark)))


def fill(kind: type[M], value: Value, source: Source, path: str = "") -> M:
    """A message of this kind; without the fields that were refused."""
    message = kind()
    source.remember(path, value)
    _fill(message, value, source, path)
    return message


def _fill(message: Message, value: Value, source: Source, path: str) -> None:
    descriptor = message.DESCRIPTOR
    short = descriptor.GetOptions().Extensions[short_for]
    if isinstance(value, Fields):
        _fill_fields(message, value, source, path)
    elif short and not _is_nothing(value):
        _set(message, descriptor.fields_by_name[short], value, source, path)
    else:
        source.refuse(path, f"has to be a mapping of fields to values: {', '.join(descriptor.fields_by_name)}")


def _fill_fields(message: Message, value: Fields, source: Source, path: str) -> None:
    fields = message.DESCRIPTOR.fields_by_name
    given = {key.text for key, _ in value.values}
    meant = set[str]()
    for key, inner in value.values:
        where = _path(path, key.text)
        if key.text in fields:
            source.remember(where, inner)
            _set(message, fields[key.text], inner, source, where)
        else:
            meant.add(source.refuse_unknown(path, key, set(fields) - given))
    _refuse_missing(message.DESCRIPTOR, given | meant, source, path)


def _refuse_missing(descriptor: Any, given: set[str], source: Source, path: str) -> None:
    for field in descriptor.fields:
        if field.GetOptions().Extensions[required] and field.name not in given:
            source.refuse(_path(path, field.name), "is missing")


def _path(within: str, name: str) -> str:
    return f"{within}.{name}" if within else name


def _set(message: Message, field: Any, value: Value, source: Source, path: str) -> None:
    if _is_nothing(value):
        source.refuse(path, "is missing: give it a value, or leave the field out")
    elif not field.is_repeated:
        _set_one(message, field, value, source, path)
    elif isinstance(value, Items):
        for number, inner in enumerate(value.values):
            where = f"{path}[{number}]"
            source.remember(where, inner)
            _add(message, field, inner, source, where)
    else:
        source.refuse(path, f"has to be a list{_as_a_list(field, value)}")


def _set_one(message: Message, field: Any, value: Value, source: Source, path: str) -> None:
    if field.message_type is not None:
        inner = getattr(message, field.name)
        inner.SetInParent()
        _fill(inner, value, source, path)
        return
    read = _read(field, value, source, path)
    if read is not None:
        setattr(message, field.name, read)


def _add(message: Message, field: Any, value: Value, source: Source, path: str) -> None:
    values = getattr(message, field.name)
    if field.message_type is not None:
        _fill(values.add(), value, source, path)
        return
    read = _read(field, value, source, path)
    # What was refused leaves its place: those behind it keep theirs.
    values.append(_nothing_of(field) if read is None else read)


def _nothing_of(field: Any) -> str | int:
    return "" if field.type == FieldDescriptor.TYPE_STRING else 0


def _read(field: Any, value: Value, source: Source, path: str) -> Any:
    """The value of a field that is no message; None where it was refused."""
    written_as = field.GetOptions().Extensions[form]
    try:
        if field.enum_type is not None:
            return plain.enum(field.enum_type, value)
        reader = _FORMS.get(written_as) or _TYPES[field.type]
        return reader(value)
    except Unreadable as refusal:
        source.refuse(refusal.inner(path), refusal.why, refusal.mark)
        return None


_FORMS: dict[Form.ValueType, Callable[[Value], Any]] = {
    Form.FORM_DURATION: plain.duration,
    Form.FORM_JSON: plain.json_text,
    Form.FORM_USD: plain.usd_micros,
}
_TYPES: dict[int, Callable[[Value], Any]] = {
    FieldDescriptor.TYPE_STRING: plain.text,
    FieldDescriptor.TYPE_BOOL: plain.yes_or_no,
    FieldDescriptor.TYPE_INT32: lambda value: plain.whole_number(value, -(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: lambda value: plain.whole_number(value, 0, 2**31 - 1),
    FieldDescriptor.TYPE_UINT64: lambda value: plain.whole_number(value, 0, 2**53),
}


def _is_nothing(value: Value) -> bool:
    return isinstance(value, Scalar) and value.kind is Kind.NOTHING


def _as_a_list(field: Any, value: Value) -> str:
    if field.full_name == "crewlog.v1.CommandFile.argv" and isinstance(value, Scalar) and value.text.strip():
        return f" of words, no shell reads it: write {command_words.as_list(value.text)}"
    return f": write [{value.text}]" if isinstance(value, Scalar) and len(value.text) < 40 else ""


def _shown(path: str) -> str:
    return path if len(path) <= 120 and path.isprintable() else quoted(path[-60:])


def _order(mark: Mark | None) -> tuple[int, int]:
    return (mark.line, mark.column) if mark else (0, 0)
