"""What the launcher tells every process, besides the configuration of the service."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def parent_fd(environment: Mapping[str, str] = os.environ) -> int | None:
    """The reading end of a pipe that the launcher holds open as long as it lives."""
    text = environment.get("CREWLOG_PARENT_FD", "")
    return int(text) if text else None


def failpoints(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The directory of crewlog.runtime.failpoints, in tests of crashes."""
    text = environment.get("CREWLOG_FAILPOINTS", "")
    return Path(text) if text else None
