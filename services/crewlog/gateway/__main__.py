"""`python -m crewlog.gateway`"""

from __future__ import annotations

import sys

from crewlog.gateway import app, config
from crewlog.runtime import failpoints, log, serve
from crewlog.telemetry import traces


def main() -> int:
    settings = config.from_environment()
    log.configure("gateway")
    traces.configure("gateway")
    failpoints.configure("gateway")
    return serve.run(lambda stop: app.serve(settings, stop))


if __name__ == "__main__":
    sys.exit(main())
