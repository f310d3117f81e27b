"""Nothing outside of the root of a workspace is read or changed, whatever the path and whoever moves things about."""

from __future__ import annotations

import asyncio
import ctypes
import json
import sys
import threading
from pathlib import Path

import pytest
from crewlog.tools.registry import ToolAnswer, ToolContext, run_tool
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SECRET = "the secret of somebody else"


async def call(root: Path, tool: str, /, **given: object) -> ToolAnswer:
    return await run_tool(tool, json.dumps(given).encode(), ToolContext(root=root))


def exchange(one: Path, other: Path) -> None:
    at_fdcwd, rename_exchange = -100, 2
    ctypes.CDLL(None).renameat2(at_fdcwd, bytes(one), at_fdcwd, bytes(other), rename_exchange)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def state_of(directory: Path) -> dict[str, tuple[int, bytes]]:
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file() and not path.is_symlink()]
    return {str(path): (path.stat().st_mode, path.read_bytes()) for path in paths}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "secret").write_text(SECRET)
    return outside


@pytest.fixture
def root(tmp_path: Path, outside: Path) -> Path:
    root = tmp_path / "root"
    (root / "src").mkdir(parents=True)
    (root / ".git" / "hooks").mkdir(parents=True)
    (root / ".git" / "config").write_text("[core]\n")
    (root / "src" / "a.py").write_text("print(1)\n")
    (root / "inside").symlink_to("src")
    (root / "absolute_inside").symlink_to(root / "src" / "a.py")
    (root / "up").symlink_to("..")
    (root / "out").symlink_to(outside)
    (root / "out_file").symlink_to(outside / "secret")
    (root / "dangling").symlink_to(outside / "new")
    (root / "src" / "sneaky").symlink_to("../../outside/secret")
    (root / "around").symlink_to("src/../../root/src/a.py")
    (root / "loop").symlink_to("loop")
    (root / "git").symlink_to(".git")
    return root


@pytest.mark.parametrize(
    "path",
    [
        "../outside/secret",
        "src/../../outside/secret",
        "/etc/passwd",
        "//etc/passwd",
        "out/secret",
        "out_file",
        "up/outside/secret",
        "src/sneaky",
        "inside/sneaky",
        "around",
        "loop",
        "dangling",
        "a\0b",
        "a\nb",
        "\x7f",
        "x/" * 3000,
        "..",
    ],
)
async def test_paths_that_lead_out_are_denied(root: Path, outside: Path, path: str) -> None:
    before = state_of(root.parent)
    for answer in [
        await call(root, "read", path=path),
        await call(root, "write", path=path, content="x"),
        await call(root, "edit", path=path, old_text="secret", new_text="x"),
        await call(root, "grep", pattern="secret", path=path),
    ]:
        assert (answer.is_error, answer.reason) == (True, "denied")
        assert SECRET not in answer.text
    assert state_of(root.parent) == before


async def test_a_root_beside_one_of_the_same_beginning(root: Path) -> None:
    (root.parent / "root-two").mkdir()
    (root.parent / "root-two" / "f").write_text("x")
    assert (await call(root, "read", path=f"{root}-two/f")).reason == "denied"


@pytest.mark.parametrize("path", ["inside/a.py", "absolute_inside", "src//./a.py"])
async def test_links_that_stay_inside_are_followed(root: Path, path: str) -> None:
    assert (await call(root, "read", path=path)).text == "     1\tprint(1)"
    assert "changed src/a.py" in (await call(root, "edit", path=path, old_text="1", new_text="2")).text
    assert (root / "absolute_inside").is_symlink()


@pytest.mark.parametrize(
    "path",
    [
        ".git",
        ".git/config",
        ".git/hooks/pre-commit",
        ".GIT/config",
        ".git./config",
        ".git /config",
        "git~1/config",
        "git/config",
        "git/hooks/post-checkout",
        "src/.git",
        ".g\u200cit/config",
        "sub/.git/config",
    ],
)
async def test_the_files_of_git_are_not_writable(root: Path, path: str) -> None:
    before = state_of(root)
    assert (await call(root, "write", path=path, content="[core]\nfsmonitor = touch /tmp/x\n")).reason == "denied"
    assert (await call(root, "edit", path=path, old_text="core", new_text="x")).reason == "denied"
    assert state_of(root) == before


@pytest.mark.parametrize("path", [".gitignore", ".github/workflows/ci.yml", ".gitattributes", "git"])
async def test_other_names_that_begin_like_git_are(tmp_path: Path, path: str) -> None:
    assert not (await call(tmp_path, "write", path=path, content="x")).is_error


PARTS = [
    "src",
    "a.py",
    "inside",
    "out",
    "up",
    "..",
    ".",
    "",
    ".git",
    "git",
    "out_file",
    "dangling",
    "new",
    "outside",
    "loop",
]
ODD = st.text(st.characters(codec="utf-8"), max_size=4)
PATHS = st.lists(st.sampled_from(PARTS) | ODD, min_size=1, max_size=6).map("/".join)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=PATHS, absolute=st.sampled_from(["", "/", "ROOT/"]), tool=st.sampled_from(["write", "edit", "read"]))
async def test_no_path_changes_or_shows_anything_outside(
    root: Path, outside: Path, path: str, absolute: str, tool: str
) -> None:
    before = state_of(outside), state_of(root / ".git"), names_in(root.parent)
    full = absolute.replace("ROOT", str(root)) + path
    more: dict[str, dict[str, object]] = {
        "write": {"content": "x"},
        "edit": {"old_text": "e", "new_text": "x", "replace_all": True},
        "read": {},
    }
    answer = await call(root, tool, path=full, **more[tool])
    assert SECRET not in answer.text
    assert (state_of(outside), state_of(root / ".git"), names_in(root.parent)) == before


@pytest.mark.skipif(sys.platform != "linux", reason="two names can be exchanged on Linux only")
async def test_a_directory_that_turns_into_a_link_while_tools_run(root: Path, outside: Path) -> None:
    """The race that a check of the path before the use of the path loses."""
    (root / "flip").mkdir()
    (root / "flip" / "secret").write_text("mine")
    (root / "evil").symlink_to(outside)
    before = state_of(outside)
    over = threading.Event()

    def flip() -> None:
        while not over.is_set():
            exchange(root / "flip", root / "evil")

    racer = threading.Thread(target=flip)
    racer.start()
    try:
        calls = [call(root, "write", path=f"flip/{number}", content="x") for number in range(150)]
        calls += [call(root, "read", path="flip/secret") for _ in range(150)]
        answers = await asyncio.gather(*calls)
    finally:
        over.set()
        racer.join()
    assert any(not answer.is_error for answer in answers)
    assert any(answer.is_error for answer in answers), "the race was never met"
    assert all(SECRET not in answer.text for answer in answers)
    assert state_of(outside) == before
