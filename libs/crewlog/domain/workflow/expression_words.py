"""What an expression is made of, as far as it has to be known before it is evaluated.

The library evaluates. It does not say which names a macro binds, which tasks are meant, or how long it will take.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LOOPS = frozenset({"all", "exists", "exists_one", "filter", "map"})
_LITERALS = frozenset({"true", "false", "null", "in"})
# What the library takes for a loop under another name.
_SYNONYMS = frozenset({"existsOne"})
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")
_WORD = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
      | (?P<text>(?:[rR][bB]?|[bB][rR])(?:"[^"\n]*"|'[^'\n]*') | [bB]?(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>[0-9][0-9A-Za-z_.]*)
      | (?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Word:
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Loop:
    """A macro that goes through a list. Its arguments are the words from `begins` to before `ends`; the first of them
    is the name that it gives to an element."""

    function: str
    name: str
    begins: int
    ends: int


@dataclass(frozen=True, slots=True)
class Call:
    """Of a function: how many arguments it is given, all of them the words from `begins` to before `ends`. `path`: the
    only one is a variable with fields."""

    function: str
    begins: int
    ends: int
    given: int
    is_method: bool
    is_literal: bool
    is_text: bool
    path: tuple[str, ...]


def words(text: str) -> list[Word]:
    found = (Word(match.lastgroup or "", match[0]) for match in _WORD.finditer(text))
    return [word for word in found if word.kind != "space"]


def at(found: Sequence[Word], place: int) -> str:
    return found[place].text if 0 <= place < len(found) else ""


def loops(found: Sequence[Word]) -> list[Loop]:
    return [
        Loop(name, at(found, place + 2), place + 2, _closed(found, place + 1))
        for place, name in calls(found)
        if name in LOOPS | _SYNONYMS and at(found, place - 1) == "."
    ]


def calls(found: Sequence[Word]) -> Iterator[tuple[int, str]]:
    """The names of what is called, with their places."""
    return ((place, name) for place, name in _names(found) if at(found, place + 1) == "(")


def arguments(found: Sequence[Word]) -> Iterator[Call]:
    """Every call of a function, with what it is given."""
    for place, name in calls(found):
        begins, ends = place + 2, _closed(found, place + 1)
        only = found[begins] if ends - begins == 1 else None
        is_literal = only is not None and not _is_name(only)
        path, end = path_at(found, begins) if begins < ends and _is_name(found[begins]) else ((), begins)
        given = _given(found, begins, ends)
        is_text = only is not None and only.kind == "text"
        is_method = at(found, place - 1) == "."
        yield Call(name, begins, ends, given, is_method, is_literal, is_text, path if end == ends else ())


def _given(found: Sequence[Word], begins: int, ends: int) -> int:
    """How many arguments stand there."""
    depth, commas = 0, 0
    for word in found[begins:ends]:
        depth += (word.text in _OPENING) - (word.text in _CLOSING)
        commas += word.text == "," and not depth
    return commas + 1 if begins < ends else 0


def variables(found: Sequence[Word]) -> Iterator[tuple[int, str]]:
    """The names that are neither fields nor called, with their places."""
    for place, name in _names(found):
        if at(found, place - 1) != "." and at(found, place + 1) != "(":
            yield place, name


def path_at(found: Sequence[Word], place: int) -> tuple[tuple[str, ...], int]:
    """The variable at this place with the fields that are named behind it, and where the next word stands."""
    steps = [found[place].text]
    place += 1
    while step := _step(found, place):
        steps.append(step)
        place += 2 if at(found, place) == "." else 3
    return tuple(steps), place


def plain(literal: str) -> str | None:
    """What a text says that has no escapes; None where it is something else."""
    return literal[1:-1] if literal[:1] in ("'", '"') and "\\" not in literal else None


def _step(found: Sequence[Word], place: int) -> str:
    match [at(found, place), at(found, place + 1), at(found, place + 2)]:
        case [".", name, mark] if mark != "(" and found[place + 1].kind == "name":
            return name
        case ["[", literal, "]"]:
            return plain(literal) or ""
    return ""


def is_free(lists: Sequence[Loop], place: int, name: str) -> bool:
    """Whether no loop has given this name at this place."""
    return not any(loop.name == name and loop.begins <= place < loop.ends for loop in lists)


def _names(found: Sequence[Word]) -> Iterator[tuple[int, str]]:
    return ((place, word.text) for place, word in enumerate(found) if _is_name(word))


def _is_name(word: Word) -> bool:
    return word.kind == "name" and word.text not in _LITERALS


def _closed(found: Sequence[Word], opening: int) -> int:
    depth = 0
    for place in range(opening, len(found)):
        depth += {"(": 1, ")": -1}.get(found[place].text, 0)
        if not depth:
            return place
    return len(found)
