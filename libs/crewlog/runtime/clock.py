"""The only place that reads the wall clock."""

from __future__ import annotations

import time


def now_micros() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000
