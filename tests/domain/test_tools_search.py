"""glob and grep: what they find, what they leave out, and that no pattern holds anybody up."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from crewlog.tools import search
from crewlog.tools.patterns import name_pattern
from crewlog.tools.registry import ToolAnswer, ToolContext, run_tool

SAYS_WHEN_IT_FORKS = """
import asyncio, json, os, sys
from pathlib import Path
import uvloop
from crewlog.tools.registry import ToolContext, run_tool
os.register_at_fork(before=lambda: print("forks", flush=True))
asked = json.dumps({"pattern": "first", "path": "README.md"}).encode()
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    print(runner.run(run_tool("grep", asked, ToolContext(root=Path(sys.argv[1])))).text)
"""


async def call(root: Path, tool: str, /, **given: object) -> ToolAnswer:
    return await run_tool(tool, json.dumps(given).encode(), ToolContext(root=root))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ["README.md", "src/a.py", "src/deep/b.py", "src/deep/c.ts", "node_modules/x.py", ".git/y.py", ".env"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"first\nname = {name}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.py", ["src/a.py", "src/deep/b.py"]),
        ("src/*.py", ["src/a.py"]),
        ("src/**/*.py", ["src/a.py", "src/deep/b.py"]),
        ("**", [".env", "README.md", "src/a.py", "src/deep/b.py", "src/deep/c.ts"]),
        ("**/*.{py,ts}", ["src/a.py", "src/deep/b.py", "src/deep/c.ts"]),
        ("src/deep/", ["src/deep/b.py", "src/deep/c.ts"]),
        ("[Rs]*", ["README.md"]),
        ("./README.md", ["README.md"]),
        ("node_modules/*", ["node_modules/x.py"]),
        (".git/*", ["no file matches .git/*"]),
    ],
)
async def test_glob(root: Path, pattern: str, found: list[str]) -> None:
    assert (await call(root, "glob", pattern=pattern)).text.splitlines() == found


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", "a/../../b"])
async def test_glob_refuses_patterns_that_lead_out(root: Path, pattern: str) -> None:
    assert (await call(root, "glob", pattern=pattern)).reason == "denied"


async def test_glob_says_what_it_left_out(tmp_path: Path) -> None:
    for number in range(1010):
        (tmp_path / f"{number:04}").touch()
    lines = (await call(tmp_path, "glob", pattern="*")).text.splitlines()
    assert (len(lines), lines[999], lines[1000]) == (1001, "0999", "(10 more files: make the pattern narrower)")


async def test_names_that_are_no_text_are_shown_escaped(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9\n")).write_text("needle\n")
    assert (await call(tmp_path, "glob", pattern="*")).text == r"caf\xe9\n"
    assert (await call(tmp_path, "grep", pattern="needle")).text == r"caf\xe9\n:1:needle"


async def test_a_tree_deeper_than_the_limit_is_cut(tmp_path: Path) -> None:
    (tmp_path / "/".join(["d"] * 200)).mkdir(parents=True)
    (tmp_path / "f").touch()
    lines = (await call(tmp_path, "glob", pattern="*")).text.splitlines()
    assert lines == ["f", "(directories more than 64 deep are left out)"]


@pytest.mark.parametrize("pattern", ["**/" * 60 + "x", "*a" * 40 + "b", "{a,b}{c,d}{e,f}/**/**/*"])
def test_patterns_take_linear_time(pattern: str) -> None:
    started = time.process_time()
    name_pattern(pattern).matches(("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",) * 60)
    assert time.process_time() - started < 1


async def test_braces_do_not_explode(tmp_path: Path) -> None:
    assert "mean more than 64 patterns" in (await call(tmp_path, "glob", pattern="{a,b}" * 30)).text


async def test_grep(root: Path) -> None:
    assert (await call(root, "grep", pattern=r"^name = src/\w+")).text.splitlines() == [
        "src/a.py:2:name = src/a.py",
        "src/deep/b.py:2:name = src/deep/b.py",
        "src/deep/c.ts:2:name = src/deep/c.ts",
    ]
    assert (await call(root, "grep", pattern="name", path="src/deep", glob="*.ts")).text.startswith("src/deep/c.ts:2:")
    assert (await call(root, "grep", pattern="first", path="README.md")).text == "README.md:1:first"
    assert (await call(root, "grep", pattern="nothing")).text == "no line matches nothing"
    assert (await call(root, "grep", pattern="x", path="missing")).text == "missing: no such file or directory"


async def test_grep_refuses(root: Path) -> None:
    broken = await call(root, "grep", pattern="(")
    assert (broken.reason, "is not a regular expression" in broken.text) == ("failed", True)
    assert (await call(root, "grep", pattern="x", path="../..")).reason == "denied"
    assert (await call(root, "grep", pattern="x", path="/etc")).reason == "denied"


def test_grep_never_forks_the_process_of_the_executor(root: Path) -> None:
    """As the executor runs: on uvloop, whose subprocesses are forks. A fork of a process with the threads of gRPC may
    crash."""
    run = (sys.executable, "-c", SAYS_WHEN_IT_FORKS, str(root))
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["README.md:1:first"]


async def test_grep_passes_over_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"needle\0")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "secret").mkdir(mode=0o000)
    (tmp_path / "latin").write_bytes(b"needle \xe9\n")
    assert (await call(tmp_path, "grep", pattern="needle|root")).text == "latin:1:needle \ufffd"


async def test_grep_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "many").write_text("needle\n" * 300)
    (tmp_path / "long").write_text("needle" + "x" * 10_000)
    lines = (await call(tmp_path, "grep", pattern="needle")).text.splitlines()
    assert lines[0].endswith("x (line cut)")
    assert len(lines[0]) < 600
    assert lines[-1] == "(there are more matches: make the pattern, path or glob narrower)"
    assert len(lines) == 201


async def test_a_pattern_that_takes_for_ever_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "GREP_SECONDS_MAX", 0.5)
    (tmp_path / "f").write_text("a" * 64 + "!")
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    heart = asyncio.create_task(beat())
    answer = await call(tmp_path, "grep", pattern="(a+)+$")
    heart.cancel()
    assert (answer.is_error, answer.reason) == (True, "timed_out")
    assert beats > 2, "the executor stood still meanwhile"
