"""`python -m tests.simulation.processes FIRST LAST`: one line of JSON for each seed.

Every seed runs in a fork of its own, so that nothing of one is left for the next.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from tests.simulation.processes.campaign import Plan, simulate

# A simulation takes a second. One that does not end is killed, and so reported.
SECONDS_MAX = 600


def main(first: int, last: int, plan: str) -> None:
    for seed in range(first, last):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            signal.alarm(SECONDS_MAX)
            report = simulate(seed, Plan.named(plan))
            sys.stdout.write(json.dumps(report) + "\n")
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            sys.stdout.write(json.dumps({"seed": seed, "mistakes": [f"the simulation ended with {status}"]}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
