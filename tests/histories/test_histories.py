"""What earlier releases have recorded is folded by the rules of today, to what those releases showed.

A view may have got more fields since; what it had before says the same.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from crewlog.cli import past
from crewlog.cli.verifying import check_history
from crewlog.v1.entry_pb2 import Entry, RecordedEntry
from google.protobuf.json_format import MessageToDict

FOLDER = Path(__file__).parent
HISTORIES = sorted(FOLDER.glob("*/*.entries"))


def entries_of(path: Path) -> list[RecordedEntry]:
    found = []
    for line in path.read_text().splitlines():
        revision, stored = line.split()
        payload = base64.b64decode(stored)
        found.append(RecordedEntry(revision=int(revision), entry=Entry.FromString(payload), stored=payload))
    return found


def differences(was: Any, now: Any, where: str = "") -> list[str]:
    """Where what was shown is shown in another way."""
    if isinstance(was, dict) and isinstance(now, dict):
        return [what for key, value in was.items() for what in differences(value, now.get(key), f"{where}.{key}")]
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        pairs = enumerate(zip(was, now, strict=True))
        return [what for place, (one, other) in pairs for what in differences(one, other, f"{where}[{place}]")]
    return [] if was == now else [f"{where}: {was!r} is {now!r} now"]


def test_there_are_histories() -> None:
    assert len(HISTORIES) >= 3


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_fault_76_a_history_of_an_earlier_release_says_what_it_said(path: Path) -> None:
    entries = entries_of(path)
    found = past.fold_all(entries)
    views = [MessageToDict(view) for view in past.views_of_agents(found)]
    was = json.loads(path.with_suffix(".views.json").read_text())
    assert differences(was, {"run": MessageToDict(past.view_of_run(found)), "agents": views}) == []
    assert check_history(entries).entries == len(entries)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_state_in_the_middle_and_what_follows_lead_to_the_same(path: Path) -> None:
    """So a checkpoint may be taken after any entry."""
    entries = entries_of(path)
    whole = past.fold_all(entries)
    for middle in range(0, len(entries), 5):
        found = past.fold_all(entries[:middle])
        for recorded in entries[middle:]:
            found = past.fold(found, recorded)
        assert found == whole


def test_another_way_to_show_it_is_found() -> None:
    assert differences({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}], "d": 3}) == []
    assert differences({"a": [{"b": 1}]}, {"a": [{"b": 2}]}) == [".a[0].b: 1 is 2 now"]
    assert differences({"a": 1}, {}) == [".a: 1 is None now"]
    assert differences({"a": [1]}, {"a": []}) == [".a: [1] is [] now"]
