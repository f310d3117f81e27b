"""What the platform needs of the host, said once: the service of repositories refuses without it, `crewlog doctor` says
so before."""

from __future__ import annotations

import re

GIT_VERSION_MIN = (2, 38)
GIT = f"git {'.'.join(map(str, GIT_VERSION_MIN))} or newer"

_VERSION = re.compile(r"(\d+)\.(\d+)")


def is_new_enough(said: str) -> bool:
    """`said` is what `git version` prints."""
    found = _VERSION.search(said)
    return found is not None and (int(found[1]), int(found[2])) >= GIT_VERSION_MIN
