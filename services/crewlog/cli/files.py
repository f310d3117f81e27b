"""Files and differences of the past, as the git service kept them."""

from __future__ import annotations

import sys

from crewlog.cli import wording
from crewlog.cli.gateway import Gateway
from crewlog.cli.options import Output
from crewlog.cli.output import say, write_line, write_message, write_messages, write_table
from crewlog.v1.run_pb2 import GetRun
from crewlog.v1.workspace_pb2 import DiffStat, GetDiff, ListFiles, ReadFile


async def write_diff(gateway: Gateway, output: Output, run_id: str, *, stat: bool) -> int:
    """What the change of a run is, against what it started from."""
    view = await gateway.runs.Get(GetRun(run_id=run_id))
    if not view.change.commit or view.change.commit == view.base_commit:
        say(f"run {run_id} has {'changed nothing' if view.ended_at_unix_micros else 'delivered nothing yet'}")
        return 0
    request = GetDiff(project_id=view.project_id, from_tree=view.base_commit, to_tree=view.change.commit)
    found = await gateway.files.Compare(request)
    if output is not Output.TABLE:
        write_message(found, output)
    elif stat:
        write_line(wording.diff_stat(found.stat))
    else:
        _write_foreign(found.patch)
    if found.truncated:
        say("the diff is longer than what is shown: see the branch")
    return 0


async def list_files(gateway: Gateway, output: Output, project_id: str, tree: str) -> None:
    found = await gateway.files.List(ListFiles(project_id=project_id, tree=tree))
    if output is Output.TABLE:
        rows = [(each.mode, str(each.size_bytes), wording.plain(each.path)) for each in found.files]
        write_table(("mode", ">bytes", "path"), rows)
    else:
        write_messages(found.files, output)


async def write_file(gateway: Gateway, project_id: str, tree: str, path: str) -> None:
    """The bytes as they are: a terminal gets them escaped."""
    found = await gateway.files.Read(ReadFile(project_id=project_id, tree=tree, path=path))
    _write_foreign(found.content)


async def stat_between(gateway: Gateway, project_id: str, from_tree: str, to_tree: str) -> DiffStat:
    request = GetDiff(project_id=project_id, from_tree=from_tree, to_tree=to_tree)
    return (await gateway.files.Compare(request)).stat


def _write_foreign(content: bytes) -> None:
    if sys.stdout.isatty():
        sys.stdout.write(wording.plain(content.decode(errors="replace")))
    else:
        sys.stdout.buffer.write(content)
    sys.stdout.flush()
