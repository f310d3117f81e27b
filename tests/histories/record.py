"""Records the runs of a data directory, with the views that the rules of this release lead to.

    python -m tests.histories.record DATA_DIRECTORY tests/histories/0.2.0

Nobody may use the directory meanwhile. Do this with every release, before its rules change again; what was recorded is
never changed. A run becomes two files: `<run>.entries`, a line for each entry with its revision and its stored bytes in
base64, and `<run>.views.json`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections import defaultdict
from contextlib import aclosing
from pathlib import Path

from crewlog.cli import past
from crewlog.eventlog.jetstream import connect_log
from crewlog.eventlog.nats_server import NatsServer
from crewlog.v1.entry_pb2 import Entry, RecordedEntry
from google.protobuf.json_format import MessageToDict

OF_A_RUN = ("run", "agent", "workspace", "change")


async def read(directory: Path) -> dict[str, list[RecordedEntry]]:
    """The entries of each run."""
    server = NatsServer.start(directory / "nats")
    log = await connect_log(server.url, "operator", server.passwords["operator"], name="record")
    runs: defaultdict[str, list[RecordedEntry]] = defaultdict(list)
    head, revision = await log.head(), 0
    async with aclosing(log.follow(0)) as batches:
        while revision < head:
            for stored in await anext(batches):
                revision, entry = stored.revision, Entry.FromString(stored.payload)
                if entry.aggregate.kind in OF_A_RUN:
                    recorded = RecordedEntry(revision=revision, entry=entry, stored=stored.payload)
                    runs[entry.decisions[0].correlation_id].append(recorded)
    await log.close()
    server.stop()
    return runs


def write(folder: Path, run_id: str, entries: list[RecordedEntry]) -> None:
    found = past.fold_all(entries)
    agents = [MessageToDict(view) for view in past.views_of_agents(found)]
    lines = [f"{recorded.revision} {base64.b64encode(recorded.stored).decode()}\n" for recorded in entries]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{run_id}.entries").write_text("".join(lines))
    views = {"run": MessageToDict(past.view_of_run(found)), "agents": agents}
    (folder / f"{run_id}.views.json").write_text(json.dumps(views, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    for name, recorded_entries in asyncio.run(read(Path(sys.argv[1]))).items():
        write(Path(sys.argv[2]), name, recorded_entries)
