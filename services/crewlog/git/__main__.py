"""`python -m crewlog.git`"""

from __future__ import annotations

import logging
import sys

from crewlog.domain.errors import Refused
from crewlog.git import app, config
from crewlog.runtime import failpoints, log, serve
from crewlog.telemetry import traces

_log = logging.getLogger(__name__)


def main() -> int:
    settings = config.from_environment()
    log.configure("git")
    traces.configure("git")
    failpoints.configure("git")
    try:
        return serve.run(lambda stop: app.serve(settings, stop))
    except Refused as refusal:
        _log.error("%s: %s", refusal.message, refusal.what_to_do)
        return 1


if __name__ == "__main__":
    sys.exit(main())
