"""What a tool call comes to. A tool that cannot do what was asked raises NotDone, and the registry answers with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MALFORMED_INPUT: Final = "malformed_input"
INVALID_OUTPUT: Final = "invalid_output"
UNKNOWN_TOOL: Final = "unknown_tool"
DENIED: Final = "denied"
TIMED_OUT: Final = "timed_out"
FAILED: Final = "failed"
KILLED: Final = "killed"
INTERRUPTED: Final = "interrupted"
CANCELLED: Final = "cancelled"


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """`text` is for the model; `reason` is empty, or a `ToolFailure.reason` of crewlog.v1 when `is_error`.
    `structured_json` is what the agent ends with, `cut_from_bytes` as in Kept."""

    text: str
    is_error: bool = False
    reason: str = ""
    structured_json: str = ""
    cut_from_bytes: int = 0


class NotDone(Exception):
    """The tool did not do it. `text` tells the model why, and what would work."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


def shown(text: str) -> str:
    """`text` with everything escaped that would not survive a terminal, JSON or UTF-8: for names and messages."""
    return "".join(_escaped(character) for character in text)


def shown_output(text: str) -> str:
    """The same for longer text: tabs and line ends stay."""
    return "".join(character if character in "\t\n" else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
