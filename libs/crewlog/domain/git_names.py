"""What may be handed to git: branches, revisions, labels and paths inside a repository.

Whatever passes here cannot be read as an option, leave its namespace or reach into a `.git`. The rules are those of
`git check-ref-format`, and stricter.
"""

from __future__ import annotations

import re

from crewlog.domain.errors import InvalidCommand

BRANCH_BYTES_MAX = 200
REVISION_CHARACTERS_MAX = 250
PATH_BYTES_MAX = 4096
LABEL_CHARACTERS_MAX = 64

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_FORBIDDEN_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")
_ANCESTRY = re.compile(r"(?:[~^][0-9]{0,6}){0,8}")


def check_branch(field: str, value: str) -> None:
    """Refuses what is not the short name of a branch."""
    if not _is_ref_name(value) or value.startswith("refs/") or value in ("HEAD", "@"):
        _refuse(field, value, "has to be the name of a branch, such as `crewlog/fix-slug`")


def check_revision(field: str, value: str) -> None:
    """Refuses what is not a branch, a tag, a commit id or one of these with `~` and `^` behind it."""
    name = re.split(r"[~^]", value, maxsplit=1)[0]
    if len(value) > REVISION_CHARACTERS_MAX or not _is_ref_name(name) or not _ANCESTRY.fullmatch(value[len(name) :]):
        _refuse(field, value, "has to be a branch, a tag or a commit")


def check_label(field: str, value: str) -> None:
    """Refuses what is not `[a-z0-9-]`, or is too long."""
    if len(value) > LABEL_CHARACTERS_MAX or not _LABEL.fullmatch(value):
        _refuse(field, value, f"has to be 1 to {LABEL_CHARACTERS_MAX} of a-z, 0-9 and '-'")


def check_file_path(field: str, value: str) -> None:
    """Refuses what is not the relative path of a file inside a repository: no `..`, no `.git`, no NUL."""
    parts = value.split("/")
    bad = any(part in ("", ".", "..") or part.lower() == ".git" for part in parts)
    if bad or "\0" in value or len(value.encode()) > PATH_BYTES_MAX:
        _refuse(field, value, "has to be the path of a file relative to the top of the repository")


def check_host_path(field: str, value: str) -> None:
    """Refuses what is not an absolute path on the host, or holds a control character."""
    if not value.startswith("/") or len(value.encode()) > PATH_BYTES_MAX or any(ord(letter) < 32 for letter in value):
        _refuse(field, value, "has to be an absolute path")


def _is_ref_name(value: str) -> bool:
    if not value or len(value.encode()) > BRANCH_BYTES_MAX or _FORBIDDEN_IN_REF.search(value):
        return False
    return all(_is_component(part) for part in value.split("/"))


def _is_component(part: str) -> bool:
    return bool(part) and not part.startswith((".", "-")) and not part.endswith((".", ".lock"))


def _refuse(field: str, value: str, why: str) -> None:
    raise InvalidCommand(f"{field} {value[:80]!r} {why}", violations={field: why})
