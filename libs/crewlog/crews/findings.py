"""What is wrong in a file: where, which field, why, and the way out. Several are said at once, up to a number."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from crewlog.domain.errors import InvalidCommand

FINDINGS_MAX = 10
LISTED_MAX = 20
SHORT = 8
QUOTED_CHARACTERS_MAX = 80


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file, from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Finding:
    """`field` is the path of what is wrong, such as `nodes[2].role`; `file` for the whole."""

    file: str
    mark: Mark | None
    field: str
    why: str

    def __str__(self) -> str:
        where = f":{self.mark.line}:{self.mark.column}" if self.mark else ""
        return f"{self.file}{where}: {self.field} {self.why}"


class InvalidFile(InvalidCommand):
    """The message is one line for each finding."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        lines = [str(finding) for finding in findings[:FINDINGS_MAX]]
        if len(findings) > FINDINGS_MAX:
            lines.append(f"and {len(findings) - FINDINGS_MAX} more")
        super().__init__("\n".join(lines), violations={each.field: each.why for each in findings[:FINDINGS_MAX]})
        self.findings = tuple(findings)

    def __reduce__(self) -> tuple[type[InvalidFile], tuple[Sequence[Finding]]]:
        return type(self), (self.findings,)


def invalid(file: str, mark: Mark | None, field: str, why: str) -> InvalidFile:
    return InvalidFile([Finding(file, mark, field, why)])


def quoted(text: str) -> str:
    """As a message shows what somebody wrote."""
    return repr(text if len(text) <= QUOTED_CHARACTERS_MAX else text[: QUOTED_CHARACTERS_MAX - 3] + "...")


def way_out(wrong: str, possible: Iterable[str]) -> str:
    """What somebody may have meant, and what is possible where that is little."""
    known = sorted(possible)
    close = difflib.get_close_matches(wrong[:QUOTED_CHARACTERS_MAX], known[:2_000], n=1)
    if close and len(known) > SHORT:
        return f"did you mean {close[0]!r}?"
    meant = f"did you mean {close[0]!r}? " if close else ""
    more = f" and {len(known) - LISTED_MAX} more" if len(known) > LISTED_MAX else ""
    return f"{meant}there are: {', '.join(known[:LISTED_MAX])}{more}" if known else "there is none"
