"""What may stand in the words of a command: values become words, and never parts of a script."""

from __future__ import annotations

from collections.abc import Sequence

SHELLS = frozenset({"ash", "bash", "dash", "ksh", "sh", "zsh"})


def script_with_values(argv: Sequence[str]) -> int | None:
    """The place of a shell's script that has values inserted into it; None where there is none.

    A script that is one value as a whole is left alone: to run what another task says is what was asked for.
    """
    place = _script(argv)
    if place is None or "{{" not in argv[place]:
        return None
    script = argv[place].strip()
    is_value = script.startswith("{{") and script.endswith("}}") and script.count("{{") == 1
    return None if is_value else place


def _script(argv: Sequence[str]) -> int | None:
    """Behind the first options that have a `c`, as in `-c`, `-ec` and `-lc`."""
    if not argv or argv[0].rpartition("/")[2] not in SHELLS:
        return None
    for place, word in enumerate(argv[1:-1], start=1):
        if word.startswith("-") and not word.startswith("--") and "c" in word:
            return place + 1
    return None
