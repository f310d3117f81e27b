"""Story lines on a terminal, or as plain text where there is none."""

from __future__ import annotations

import sys

from crewlog.cli import config, wording
from crewlog.cli.lines import Line, Tone
from rich.console import Console
from rich.text import Text

WHO_CHARACTERS = 16
_STYLES = {Tone.PLAIN: "", Tone.GOOD: "green", Tone.BAD: "red", Tone.DETAIL: "dim"}


def new_console() -> Console:
    """For standard error: with colours and a live view on a terminal, plain lines elsewhere or with NO_COLOR."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def is_interactive() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def stood_back(text: str) -> str:
    """Of less account than what stands around it, where standard output can show that."""
    return f"\x1b[2m{text}\x1b[0m" if sys.stdout.isatty() and config.may_colour() else text


def in_words(line: Line) -> str:
    """The line without colours: who, what, how long, how much."""
    amounts = ", ".join(_amounts(line))
    return f"{line.who:<{WHO_CHARACTERS}} {line.text}" + (f"  [{amounts}]" if amounts else "")


def in_colours(line: Line, width: int) -> Text:
    """The line in at most `width` columns: what is too long loses its end, never its amounts."""
    amounts = "  " + ", ".join(_amounts(line))
    text = Text(f"{line.who:<{WHO_CHARACTERS}} ", style="bold" if line.tone is not Tone.DETAIL else "dim")
    text.append(line.text, style=_STYLES[line.tone])
    text.truncate(max(WHO_CHARACTERS, width - len(amounts)), overflow="ellipsis")
    return text.append(amounts, style="dim")


def _amounts(line: Line) -> list[str]:
    time = [wording.duration(line.duration_micros)] if line.duration_micros else []
    return time + ([wording.money(line.cost_usd_micros)] if line.cost_usd_micros else [])
