"""Commands as people write them, in one line: no shell takes it apart, so it has to be a list of words."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence

LINE_CHARACTERS_MAX = 200

_SHELL = re.compile(r"[|&;<>$`*?~(){}\n]|^\w+=")
_PLAIN = re.compile(r"(?![-+.]*[0-9])[A-Za-z0-9_./+-]*[A-Za-z_/][A-Za-z0-9_./+=-]*")
_NO_TEXTS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


def as_list(line: str) -> str:
    """How the line is written as a list; through a shell where it needs one."""
    if "{{" in line or len(line) > LINE_CHARACTERS_MAX:
        return '[program, "argument"]'
    if _SHELL.search(line):
        return f"[bash, -c, {json.dumps(line, ensure_ascii=False)}]"
    return f"[{', '.join(map(_written, _words(line)))}]"


def is_line(argv: Sequence[str]) -> bool:
    """Whether the one word that there is holds a program and its arguments."""
    return len(argv) == 1 and "{{" not in argv[0] and len(argv[0].split()) > 1


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def _written(word: str) -> str:
    """As a text of YAML."""
    is_plain = _PLAIN.fullmatch(word) and word.lower() not in _NO_TEXTS
    return word if is_plain else json.dumps(word, ensure_ascii=False)
