"""read, write and edit. A change is one rename: whoever looks sees the old file or the new one, and its mode stays."""

from __future__ import annotations

import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from itertools import islice

from crewlog.tools.answers import DENIED, FAILED, NotDone, shown_output
from crewlog.tools.limits import (
    ANSWER_CHARACTERS_MAX,
    EDIT_FILE_BYTES_MAX,
    READ_FILE_BYTES_MAX,
    READ_LINE_CHARACTERS_MAX,
    READ_LINES_DEFAULT,
    WRITE_FILE_BYTES_MAX,
)
from crewlog.tools.root import Place, open_place, reason_of
from crewlog.tools.tool import ToolContext, ToolInput
from pydantic import Field

_BINARY_PROBE_BYTES = 8192
_LINE_BYTES_MAX = 4 * READ_LINE_CHARACTERS_MAX
_PLACES_NAMED_MAX = 10
_NEAR_MISS_LINES_MAX = 5_000
_PATH = "Path relative to the root of the workspace."


class ReadInput(ToolInput):
    path: str = Field(min_length=1, description=_PATH)
    offset: int = Field(default=1, ge=1, description="First line to read, counted from 1.")
    limit: int = Field(default=READ_LINES_DEFAULT, ge=1, description="How many lines to read.")


class WriteInput(ToolInput):
    path: str = Field(min_length=1, description=_PATH + " Missing directories are made.")
    content: str = Field(description="The whole content of the file.")


class EditInput(ToolInput):
    path: str = Field(min_length=1, description=_PATH)
    old_text: str = Field(
        min_length=1, description="The exact text to replace, with its indentation, without line numbers."
    )
    new_text: str = Field(description="The text to put in its place.")
    replace_all: bool = Field(default=False, description="Replace every occurrence instead of the only one.")


def read(given: ReadInput, context: ToolContext) -> str:
    with context.files.open_file(given.path) as (descriptor, info, place):
        if info.st_size > READ_FILE_BYTES_MAX:
            raise NotDone(FAILED, f"{place.shown} has {info.st_size} bytes, too many to read: use grep, or bash")
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            return _read(stream, info.st_size, place, given)


def _read(stream: io.BufferedReader, size: int, place: Place, given: ReadInput) -> str:
    if b"\0" in stream.peek(_BINARY_PROBE_BYTES)[:_BINARY_PROBE_BYTES]:
        raise NotDone(FAILED, f"{place.shown} is a binary file of {size} bytes; it cannot be shown as text")
    if size == 0:
        return f"({place.shown} is empty)"
    return _numbered(_lines(stream), place, given)


def _numbered(lines: Iterator[str], place: Place, given: ReadInput) -> str:
    passed = sum(1 for _ in islice(lines, given.offset - 1))
    shown_lines: list[str] = []
    characters, number = 0, passed
    for line in islice(lines, given.limit):
        numbered = f"{number + 1:6d}\t{line}"
        if characters + len(numbered) > ANSWER_CHARACTERS_MAX:
            return _with_rest([*shown_lines], number, 1 + sum(1 for _ in lines))
        shown_lines.append(numbered)
        characters += len(numbered) + 1
        number += 1
    if not shown_lines:
        raise NotDone(FAILED, f"{place.shown} has only {passed} lines; offset {given.offset} is behind its end")
    return _with_rest(shown_lines, number, sum(1 for _ in lines))


def _with_rest(lines: list[str], last: int, rest: int) -> str:
    more = [f"({rest} more lines: read on with offset {last + 1})"] if rest else []
    return "\n".join([*lines, *more])


def _lines(stream: io.BufferedReader) -> Iterator[str]:
    while line := stream.readline(_LINE_BYTES_MAX):
        cut = not line.endswith(b"\n") and len(line) == _LINE_BYTES_MAX
        if cut:
            _skip_line(stream)
        yield _shown_line(line, cut)


def _shown_line(line: bytes, cut: bool) -> str:
    text = line.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")
    if not cut and len(text) <= READ_LINE_CHARACTERS_MAX:
        return shown_output(text)
    return f"{shown_output(text[:READ_LINE_CHARACTERS_MAX])} (line cut)"


def _skip_line(stream: io.BufferedReader) -> None:
    while (rest := stream.readline(_LINE_BYTES_MAX)) and not rest.endswith(b"\n"):
        pass


def write(given: WriteInput, context: ToolContext) -> str:
    content = given.content.encode("utf-8")
    if len(content) > WRITE_FILE_BYTES_MAX:
        raise NotDone(DENIED, f"the content has {len(content)} bytes; at most {WRITE_FILE_BYTES_MAX} can be written")
    with context.files.resolve_for_writing(given.path, make_directories=True) as place:
        made = _replace(place, content)
        return f"{'made' if made else 'replaced'} {place.shown}: {len(content)} bytes"


def edit(given: EditInput, context: ToolContext) -> str:
    if given.old_text == given.new_text:
        raise NotDone(FAILED, "old_text and new_text are the same: there is nothing to change")
    with context.files.resolve_for_writing(given.path) as place:
        text = _text_of(place)
        old, new = _with_line_ends_of(text, given.old_text), _with_line_ends_of(text, given.new_text)
        count = _checked_count(text, old, given.replace_all, place)
        content = text.replace(old, new).encode("utf-8")
        if len(content) > WRITE_FILE_BYTES_MAX:
            raise NotDone(DENIED, f"{place.shown} would have {len(content)} bytes; at most {WRITE_FILE_BYTES_MAX}")
        _replace(place, content)
        return f"changed {place.shown}: {count} replacement{'s' if count > 1 else ''}"


def _text_of(place: Place) -> str:
    with open_place(place) as (descriptor, info), os.fdopen(os.dup(descriptor), "rb") as stream:
        if info.st_size > EDIT_FILE_BYTES_MAX:
            raise NotDone(FAILED, f"{place.shown} has {info.st_size} bytes, too many to edit: use bash")
        content = stream.read()
    if b"\0" in content[:_BINARY_PROBE_BYTES]:
        raise NotDone(FAILED, f"{place.shown} is a binary file: edit changes text only")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"{place.shown} is not UTF-8 at byte {error.start}"
        raise NotDone(FAILED, f"{where}: edit would damage it; use bash") from error


def _with_line_ends_of(text: str, given: str) -> str:
    """`read` shows no carriage returns, so a model cannot write them."""
    if "\r\n" in text and "\r\n" not in given and text.count("\r\n") == text.count("\n"):
        return given.replace("\n", "\r\n")
    return given


def _checked_count(text: str, old: str, replace_all: bool, place: Place) -> int:
    count = text.count(old)
    if count == 0:
        raise NotDone(FAILED, f"old_text is not in {place.shown}. {_near_miss(text, old)}")
    if count > 1 and not replace_all:
        where = ", ".join(map(str, islice(_lines_of(text, old), _PLACES_NAMED_MAX)))
        what_to_do = "give more of the text around it, or set replace_all"
        raise NotDone(FAILED, f"old_text is {count} times in {place.shown} (lines {where}): {what_to_do}")
    return count


def _lines_of(text: str, old: str) -> Iterator[int]:
    at = text.find(old)
    while at >= 0:
        yield text.count("\n", 0, at) + 1
        at = text.find(old, at + len(old))


def _near_miss(text: str, old: str) -> str:
    """Where the model has probably meant: lines that differ in white space only, else the most similar ones."""
    lines = text.splitlines()[:_NEAR_MISS_LINES_MAX]
    wanted = [line.strip() for line in old.strip().splitlines()]
    stripped = [line.strip() for line in lines]
    for at in range(len(lines) - len(wanted) + 1):
        if wanted and stripped[at : at + len(wanted)] == wanted:
            return f"Only white space differs here:\n{_quoted(lines, range(at, at + len(wanted)))}"
    return _similar(lines, stripped, max(wanted, key=len, default=""))


def _similar(lines: list[str], stripped: list[str], wanted: str) -> str:
    short = [line[:200] for line in stripped]
    close = set(get_close_matches(wanted[:200], set(short) - {""}, n=3, cutoff=0.6))
    if not close:
        return "No line of the file is similar: read it again."
    places = [at for at, line in enumerate(short) if line in close]
    return f"The most similar lines are:\n{_quoted(lines, places[:_PLACES_NAMED_MAX])}"


def _quoted(lines: list[str], places: range | list[int]) -> str:
    return "\n".join(f"{at + 1:6d}\t{shown_output(lines[at][:READ_LINE_CHARACTERS_MAX])}" for at in islice(places, 50))


def _replace(place: Place, content: bytes) -> bool:
    """Puts `content` at `place` by a rename; True if there was no file. Not synced: a snapshot is, before it counts."""
    mode = _mode_of(place)
    temporary = f".crewlog-{secrets.token_hex(8)}"
    try:
        _write_new(temporary, content, mode, place)
        os.rename(temporary, place.name, src_dir_fd=place.directory, dst_dir_fd=place.directory)
    except OSError as error:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=place.directory)
        raise NotDone(FAILED, f"{place.shown} could not be written: {reason_of(error)}") from error
    return mode is None


def _write_new(name: str, content: bytes, mode: int | None, place: Place) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o666, dir_fd=place.directory)
    with os.fdopen(descriptor, "wb") as stream:
        if mode is not None:
            os.fchmod(descriptor, mode)
        stream.write(content)


def _mode_of(place: Place) -> int | None:
    try:
        info = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(info.st_mode):
        raise NotDone(FAILED, f"{place.shown} is a directory; name a file")
    if not stat.S_ISREG(info.st_mode):
        raise NotDone(DENIED, f"{place.shown} is not a regular file")
    return stat.S_IMODE(info.st_mode) & 0o777
