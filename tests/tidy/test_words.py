"""The project speaks of itself alone: no machine's paths, and nobody's registry, in any file that git has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

Clean = Callable[[Iterable[str]], None]
# Written in pieces, so that this file keeps its own rule. `me` is nobody's name.
HOMES = "|".join(
    (r"(?<![.\w])/ro" + r"ot/\w", "/ho" + r"me/(?!me\b)\w", "/Us" + r"ers/\w", r"(?<![.\w])/wo" + r"rk/\w")
)
HOSTS = "|".join(("py" + r"pi\.org", "pythonho" + r"sted\.org", "npm" + r"js\.", "registry" + r"\.[a-z]+\.(?:com|org)"))
HOSTS += "|" + "|".join(("artifact" + "ory", r"--index-url\s*=?\s*http", r"\bindex-url\s*="))
DOWNLOAD = r'"resolved"|^--(?:extra-)?index-url| @ https?://|^https?://'


@pytest.mark.parametrize("words", [HOMES, HOSTS], ids=["machine paths", "registry hosts"])
def test_no_file_names(clean: Clean, files: list[str], root: Path, words: str) -> None:
    pattern = re.compile(words)
    naming = [
        f"{path}:{number}: {found.group()}"
        for path in files
        for number, line in enumerate((root / path).read_text(errors="replace").splitlines(), 1)
        if (found := pattern.search(line))
    ]
    clean(naming)


def test_lock_files_say_what_and_not_where(clean: Clean, files: list[str], root: Path) -> None:
    assert "requirements.lock" in files
    locks = {path: (root / path).read_text() for path in files if path.endswith(("package-lock.json", ".lock"))}
    clean(path for path, text in locks.items() if re.search(DOWNLOAD, text, re.MULTILINE))
