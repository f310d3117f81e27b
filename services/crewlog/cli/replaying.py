"""`crewlog replay`: what happened, told from the log; state and files at a revision; and whether it all fits."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from crewlog.cli import effects, files, following, listing, past, story, telling, verifying, wording
from crewlog.cli.gateway import Gateway
from crewlog.cli.lines import Line, Tone
from crewlog.cli.options import Output
from crewlog.cli.output import say, to_json, write_line, write_table
from crewlog.cli.past import Past
from crewlog.cli.verifying import Checked, Difference
from crewlog.domain.errors import InvalidCommand, NotFound
from crewlog.telemetry.ids import trace_id_of_run
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.run_pb2 import RunView


@dataclass(frozen=True, slots=True)
class Wanted:
    run_id: str
    at: int | None = None
    verify: bool = False
    files: bool = False
    file: str = ""
    details: bool = False


async def replay(gateway: Gateway, wanted: Wanted, output: Output) -> int:
    if wanted.verify:
        return await _verify(gateway, wanted.run_id, output)
    entries = await following.until_now(gateway, wanted.run_id)
    if wanted.at is not None or wanted.files or wanted.file:
        await _show_past(gateway, wanted, output, _at(entries, wanted))
        return 0
    lines = [line for line in story.tell_all(entries) if wanted.details or line.tone is not Tone.DETAIL]
    write_story(lines, output)
    return 0


def write_story(lines: list[Line], output: Output) -> None:
    """One line per step: when in the run, at which revision, who, what, how long, how much."""
    if output is Output.TABLE:
        begin = lines[0].at_unix_micros if lines else 0
        for line in lines:
            place = f"{line.revision:>7}  {wording.duration(line.at_unix_micros - begin):>9}"
            write_line(f"{place}  {telling.in_words(line)}")
        return
    dicts = [{**asdict(line), "tone": line.tone.value} for line in lines]
    text = [json.dumps(each, ensure_ascii=False) for each in dicts]
    write_line("\n".join(text) if output is Output.JSONL else json.dumps(dicts, indent=2, ensure_ascii=False))


def in_words(checked: Checked) -> str:
    """What was checked, in one line."""
    counts = (
        wording.counted(checked.entries, "entry").replace("entrys", "entries"),
        wording.counted(checked.events, "event"),
        wording.counted(checked.hashes, "hash").replace("hashs", "hashes"),
        wording.counted(checked.blobs, "blob"),
        wording.counted(checked.views, "view"),
    )
    return f"verified: {', '.join(counts)} of {wording.counted(checked.aggregates, 'aggregate')}; everything fits"


async def _verify(gateway: Gateway, run_id: str, output: Output) -> int:
    try:
        checked = await verifying.verify(gateway, run_id)
    except Difference as difference:
        if output is not Output.TABLE:
            write_line(json.dumps({"run_id": run_id, "fits": False, "difference": str(difference)}))
        say(f"crewlog: run {run_id} does not fit its log: {difference}")
        return 1
    if output is Output.TABLE:
        write_line(in_words(checked))
    else:
        write_line(json.dumps({"run_id": run_id, "fits": True, **asdict(checked)}))
    return 0


def _at(entries: list[RecordedEntry], wanted: Wanted) -> Past:
    found = past.fold_all(entries, wanted.at)
    if not found.revision:
        first = entries[0].revision if entries else 0
        raise InvalidCommand(
            f"run {wanted.run_id} had not begun at revision {wanted.at}", what_to_do=f"it begins at revision {first}"
        )
    return found


async def _show_past(gateway: Gateway, wanted: Wanted, output: Output, found: Past) -> None:
    project_id = found.run.started.project_id
    if wanted.file:
        await files.write_file(gateway, project_id, _tree(found), wanted.file)
    elif wanted.files:
        say(_files_in_words(found))
        await files.list_files(gateway, output, project_id, _tree(found))
    elif output is Output.TABLE:
        await _write_state(gateway, found)
    else:
        write_line(json.dumps(_state_as_json(found), indent=2 if output is Output.JSON else None))


async def _write_state(gateway: Gateway, found: Past) -> None:
    say(f"as it was at revision {found.revision}")
    listing.write_run(_run_view(found))
    write_line("")
    listing.write_agents(past.views_of_agents(found))
    _write_messages(found)
    if found.files is None:
        return
    started = found.run.started
    stat = await files.stat_between(gateway, started.project_id, started.base_commit, found.files.tree)
    write_line(f"\n{_files_in_words(found)}: {wording.diff_stat(stat)} against the base")


def _write_messages(found: Past) -> None:
    headings = ("message to", ">no", "mode", "by", "read", "text")
    rows = [
        (
            message.task_id,
            str(message.number),
            wording.message_mode(message.mode),
            wording.plain(message.sent_by),
            "yes" if is_read else "not yet",
            wording.one_line(effects.text_of(message.text)),
        )
        for message, is_read in past.messages(found)
    ]
    if rows:
        write_line("")
        write_table(headings, rows)


def _state_as_json(found: Past) -> dict[str, object]:
    return {
        "revision": found.revision,
        "run": to_json(_run_view(found)),
        "agents": [to_json(view) for view in past.views_of_agents(found)],
        "messages": [{**to_json(message), "is_read": is_read} for message, is_read in past.messages(found)],
        "files": asdict(found.files) if found.files else None,
    }


def _run_view(found: Past) -> RunView:
    return past.view_of_run(found, f"{trace_id_of_run(found.run.started.run_id):032x}")


def _files_in_words(found: Past) -> str:
    if found.files is None:
        return "no files were recorded yet"
    return (
        f"files of {past.task_of(found.files)} as recorded at revision {found.files.revision}"
        f" (tree {wording.short_id(found.files.tree)})"
    )


def _tree(found: Past) -> str:
    if found.files is None:
        raise NotFound("no files were recorded up to that revision", what_to_do="give a later one with --at")
    return found.files.tree
