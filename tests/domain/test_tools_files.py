"""read, write and edit: what they answer, and that a change is whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from crewlog.tools.registry import ToolAnswer, ToolContext, run_tool


async def call(root: Path, tool: str, /, **given: object) -> ToolAnswer:
    return await run_tool(tool, json.dumps(given).encode(), ToolContext(root=root))


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_read_numbers_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ttwo\r\nthree")
    assert await call(tmp_path, "read", path="a.txt") == ToolAnswer("     1\tone\n     2\t\ttwo\n     3\tthree")


async def test_read_takes_an_absolute_path_inside(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    assert (await call(tmp_path, "read", path=str(tmp_path / "a.txt"))).text == "     1\tone"


async def test_read_pages(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"line {number}\n" for number in range(1, 11)))
    answer = await call(tmp_path, "read", path="a.txt", offset=3, limit=2)
    assert answer.text == "     3\tline 3\n     4\tline 4\n(6 more lines: read on with offset 5)"
    last = await call(tmp_path, "read", path="a.txt", offset=10)
    assert last.text == "    10\tline 10"


async def test_pages_join_to_the_whole_file(tmp_path: Path) -> None:
    lines = [f"{number} {'x' * 70}" for number in range(1, 3001)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    seen: list[str] = []
    while len(seen) < len(lines):
        answer = await call(tmp_path, "read", path="a.txt", offset=len(seen) + 1)
        assert len(answer.text) < 41_000
        seen += [line.split("\t")[1] for line in answer.text.splitlines() if "\t" in line]
    assert seen == lines


@pytest.mark.parametrize(
    ("content", "given", "says"),
    [
        (b"", {}, "(f is empty)"),
        (b"one\n", {"offset": 2}, "f has only 1 lines; offset 2 is behind its end"),
        (b"a\0b", {}, "f is a binary file of 3 bytes"),
        (b"caf\xe9\n", {}, "caf\ufffd"),
        (b"x" * 100_000 + b"\nnext", {}, "x (line cut)\n     2\tnext"),
        (b"\x1b[31mred\x1b[0m\n", {}, r"\x1b[31mred\x1b[0m"),
    ],
)
async def test_read_says_what_is_special(tmp_path: Path, content: bytes, given: dict[str, int], says: str) -> None:
    (tmp_path / "f").write_bytes(content)
    assert says in (await call(tmp_path, "read", path="f", **given)).text


async def test_read_refuses_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert "is a directory" in (await call(tmp_path, "read", path="d")).text
    assert "is a directory" in (await call(tmp_path, "read", path=".")).text
    assert "not a regular file" in (await call(tmp_path, "read", path="pipe")).text
    missing = await call(tmp_path, "read", path="no/such")
    assert (missing.reason, missing.text) == ("failed", "no/such: no such file or directory")
    assert (await call(tmp_path, "read", path="d/none")).text == "d/none: no such file or directory"


async def test_read_refuses_a_file_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(65 * 1024 * 1024)
    assert "too many to read: use grep" in (await call(tmp_path, "read", path="large")).text


async def test_write_makes_directories_and_says_what_it_did(tmp_path: Path) -> None:
    assert (await call(tmp_path, "write", path="a/b/c.txt", content="é\n")).text == "made a/b/c.txt: 3 bytes"
    assert (await call(tmp_path, "write", path="a/b/c.txt", content="")).text == "replaced a/b/c.txt: 0 bytes"
    assert (tmp_path / "a/b/c.txt").read_bytes() == b""


async def test_write_keeps_the_mode_and_leaves_nothing_behind(tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text("old")
    script.chmod(0o750)
    await call(tmp_path, "write", path="run.sh", content="new")
    assert (script.read_text(), script.stat().st_mode & 0o7777) == ("new", 0o750)
    await call(tmp_path, "edit", path="run.sh", old_text="new", new_text="newer")
    assert script.stat().st_mode & 0o7777 == 0o750
    assert names_in(tmp_path) == ["run.sh"]


async def test_write_does_not_write_through_a_hard_link(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.write_text("theirs")
    os.link(outside, root / "inside")
    await call(root, "write", path="inside", content="ours")
    assert (outside.read_text(), (root / "inside").read_text()) == ("theirs", "ours")


async def test_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    assert "d is a directory" in (await call(tmp_path, "write", path="d", content="x")).text
    (tmp_path / "f").write_text("old")
    assert (await call(tmp_path, "write", path="f/g", content="x")).reason == "failed"
    too_large = await call(tmp_path, "write", path="f", content="x" * (4 * 1024 * 1024 + 1))
    assert (too_large.reason, (tmp_path / "f").read_text()) == ("denied", "old")
    assert (await call(tmp_path, "write", path="x" * 300, content="x")).text.endswith("file name too long")
    assert names_in(tmp_path) == ["d", "f"]


async def test_edit_replaces_the_only_occurrence(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    return 1\n")
    answer = await call(tmp_path, "edit", path="a.py", old_text="return 1", new_text="return 2")
    assert answer == ToolAnswer("changed a.py: 1 replacement")
    assert (tmp_path / "a.py").read_text() == "def f():\n    return 2\n"


async def test_edit_wants_to_know_which(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\ny = 2\nx = 1\n")
    answer = await call(tmp_path, "edit", path="a.py", old_text="x = 1", new_text="x = 3")
    assert answer.reason == "failed"
    assert "2 times in a.py (lines 1, 3): give more of the text around it, or set replace_all" in answer.text
    assert (await call(tmp_path, "edit", path="a.py", old_text="x = 1", new_text="z", replace_all=True)).text.endswith(
        "2 replacements"
    )
    assert (tmp_path / "a.py").read_text() == "z\ny = 2\nz\n"


@pytest.mark.parametrize(
    ("old_text", "says"),
    [
        ("def f():\n  return 1", "Only white space differs here:\n     1\tdef f():\n     2\t    return 1"),
        ("    retrun 1", "The most similar lines are:\n     2\t    return 1"),
        ("something else entirely", "No line of the file is similar: read it again."),
        ("\n\n\n\n\n", "No line of the file is similar"),
    ],
)
async def test_edit_quotes_near_misses(tmp_path: Path, old_text: str, says: str) -> None:
    (tmp_path / "a.py").write_text("def f():\n    return 1\n")
    answer = await call(tmp_path, "edit", path="a.py", old_text=old_text, new_text="x")
    assert answer.reason == "failed"
    assert answer.text.startswith("old_text is not in a.py. ")
    assert says in answer.text


async def test_edit_keeps_the_line_ends_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "dos.txt").write_bytes(b"one\r\ntwo\r\nthree\r\n")
    await call(tmp_path, "edit", path="dos.txt", old_text="one\ntwo", new_text="1\n2")
    assert (tmp_path / "dos.txt").read_bytes() == b"1\r\n2\r\nthree\r\n"


@pytest.mark.parametrize(
    ("content", "says"), [(b"a\0b", "binary file"), (b"caf\xe9 a", "is not UTF-8 at byte 3"), (b"a", "are the same")]
)
async def test_edit_refuses(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "f").write_bytes(content)
    new_text = "a" if says == "are the same" else "b"
    assert says in (await call(tmp_path, "edit", path="f", old_text="a", new_text=new_text)).text
    assert (tmp_path / "f").read_bytes() == content
