"""`python -m crewlog.scheduler`"""

from __future__ import annotations

import sys

from crewlog.runtime import failpoints, log, serve
from crewlog.scheduler import app, config
from crewlog.telemetry import traces


def main() -> int:
    settings = config.from_environment()
    log.configure("scheduler")
    traces.configure("scheduler")
    failpoints.configure("scheduler")
    return serve.run(lambda stop: app.serve(settings, stop))


if __name__ == "__main__":
    sys.exit(main())
