"""Data on standard output: a table for people, JSON for programs. Nothing else is ever written there."""

from __future__ import annotations

import json
import sys
from base64 import b64decode
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from crewlog.cli.options import Output
from google.protobuf import json_format
from google.protobuf.message import Message

_HASHES = frozenset({"previous_hash", "request_hash", "sha256"})
_COLUMN_GAP = "  "


def to_json(message: Message, *, with_defaults: bool = True) -> dict[str, Any]:
    """Protobuf's JSON with the names of the protos; hashes in hexadecimal, and bodies that are text as `text`."""
    whole = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=with_defaults
    )
    return {name: _readable(name, value) for name, value in whole.items()}


def write_messages(messages: Iterable[Message], output: Output, *, file: TextIO | None = None) -> None:
    """A list: one JSON array, or one line per message."""
    dicts = [to_json(message) for message in messages]
    if output is Output.JSONL:
        for each in dicts:
            write_line(json.dumps(each, ensure_ascii=False), file)
    else:
        write_line(json.dumps(dicts, indent=2, ensure_ascii=False), file)


def write_message(message: Message, output: Output, *, with_defaults: bool = True, file: TextIO | None = None) -> None:
    """One message: an indented object, or a line."""
    indent = None if output is Output.JSONL else 2
    write_line(json.dumps(to_json(message, with_defaults=with_defaults), indent=indent, ensure_ascii=False), file)


def write_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, file: TextIO | None = None) -> None:
    """Columns as wide as their content. A heading of the form `>name` makes a column of numbers."""
    write_line("\n".join(table(headings, rows)), file)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    shown = [[heading.removeprefix(">").upper() for heading in headings], *rows]
    widths = [max(len(row[column]) for row in shown) for column in range(len(headings))]
    return [
        _COLUMN_GAP.join(
            cell.rjust(width) if heading.startswith(">") else cell.ljust(width)
            for cell, width, heading in zip(row, widths, headings, strict=True)
        ).rstrip()
        for row in shown
    ]


def write_line(text: str, file: TextIO | None = None) -> None:
    """At once, so that whoever reads the stream sees it now."""
    file = file or sys.stdout
    file.write(text + "\n")
    file.flush()


def say(text: str) -> None:
    """For the person at the terminal."""
    write_line(text, sys.stderr)


def _readable(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return _readable_dict(value)
    if isinstance(value, list):
        return [_readable(name, each) for each in value]
    return _hex(value) if name in _HASHES and isinstance(value, str) else value


def _readable_dict(value: dict[str, Any]) -> dict[str, Any]:
    if value.keys() == {"inline"} and isinstance(value["inline"], str):
        text = _text(value["inline"])
        return value if text is None else {"text": text}
    return {name: _readable(name, each) for name, each in value.items()}


def _hex(base64_text: str) -> str:
    return b64decode(base64_text).hex()


def _text(base64_text: str) -> str | None:
    try:
        return b64decode(base64_text).decode()
    except UnicodeDecodeError:
        return None
