"""The commands against a running platform, as a person or a script types them."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from crewlog.cli.exits import ExitCode
from crewlog.cli.launcher.directory import DataDirectory

SECONDS_MAX = 90.0
SCRIPT = """
name: waits
scripts:
  - system: "Role: engineer"
    steps:
      - say: I wait until somebody lets me go on.
        tools:
          - {{tool: bash, input: {{command: "until [ -e '{released}' ]; do sleep 0.05; done", timeout_seconds: 120}}}}
      - say: Done.
"""
WAITS = b"I wait until"
SHORT = "name: short\nnodes:\n  - id: a\n    noop: {steps: 3}\n  - id: b\n    depends_on: [a]\n    noop: {steps: 1}\n"
LONG = """
name: long
nodes:
  - {id: a, noop: {steps: 100}}
  - {id: b, depends_on: [a], role: engineer}
  - {id: c, depends_on: [b], noop: {steps: 100}}
"""


class Crewlog:
    """Runs the command with the data directory of the platform, beside a repository and two workflow files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.environment = {**os.environ, "CREWLOG_DATA_DIR": str(self.data_dir), "NO_COLOR": "1"}

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, check=False, cwd=self.folder, env=self.environment
        )

    def start(self, *arguments: str, stdin: int | IO[bytes] = subprocess.DEVNULL) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environment,
        )

    def command(self, *arguments: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "crewlog.cli", *arguments)

    def run(self, run_id: str, workflow: str = "short.yaml", *more: str) -> subprocess.CompletedProcess[str]:
        return self("run", "do nothing", "--repo", "repository", "-w", workflow, "--run-id", run_id, *more)

    def run_that_waits(self, run_id: str, workflow: str = "agent") -> tuple[str, ...]:
        """The arguments of a run that waits while nobody has released it."""
        return ("run", "wait", "--repo", "repository", "-w", workflow, "--run-id", run_id)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Runs that wait go on."""
        path = self.folder / "released"
        path.touch()
        yield
        path.unlink()

    def entries(self, run_id: str) -> list[dict[str, object]]:
        lines = self("events", "--run", run_id, "-o", "jsonl").stdout.splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def crewlog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crewlog]:
    command = Crewlog(tmp_path_factory.mktemp("cli"))
    (command.folder / "short.yaml").write_text(SHORT)
    (command.folder / "long.yaml").write_text(LONG)
    (command.folder / "script.yaml").write_text(SCRIPT.format(released=command.folder / "released"))
    repository = command.folder / "repository"
    repository.mkdir()
    (repository / "a.txt").write_text("a")
    identity = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    for arguments in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-qm", "one")):
        subprocess.run(("git", *arguments), cwd=repository, check=True)
    started = command("up", "--detach", "--sandbox", "none", "--scripted-model", "script.yaml")
    assert started.returncode == ExitCode.OK, started.stderr
    yield command
    assert command("down").returncode == ExitCode.OK
    assert DataDirectory(command.data_dir).holder() == 0


@pytest.fixture(scope="module")
def done(crewlog: Crewlog) -> str:
    """A run that has succeeded."""
    assert crewlog.run("done").returncode == ExitCode.OK
    return "done"


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def _read_until(terminal: int, text: bytes) -> bool:
    """False when the other side is closed, or silent for long, before it has said so."""
    shown = b""
    while text not in shown:
        if not select.select([terminal], [], [], SECONDS_MAX)[0]:
            return False
        try:
            shown += os.read(terminal, 65536)
        except OSError:
            return False
    return True


def _read_pipe_until(process: subprocess.Popen[str], text: bytes) -> str:
    """The lines on standard error up to the first one that has the text."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text.decode() in line:
            return "".join(lines)
    raise AssertionError(f"it ended before it said {text!r}: {''.join(lines)}")


def _rest_of(process: subprocess.Popen[str]) -> str:
    """What it still says on standard error, once it has ended and said little on standard output."""
    assert process.stderr is not None
    assert process.stdout is not None
    with process.stdout, process.stderr as stderr:
        return stderr.read()


class TestRun:
    def test_it_is_followed_and_summed_up(self, crewlog: Crewlog) -> None:
        ended = crewlog.run("followed")
        assert ended.returncode == ExitCode.OK
        assert "run followed succeeded" in ended.stdout
        assert "crewlog replay followed" in ended.stdout
        steps = [line for line in ended.stderr.splitlines() if " noop" in line]
        assert len(steps) == 4
        assert "\x1b" not in ended.stdout + ended.stderr

    def test_only_data_is_on_standard_output(self, crewlog: Crewlog) -> None:
        ended = crewlog.run("as-json", "short.yaml", "-o", "json")
        view = json.loads(ended.stdout)
        assert (view["run_id"], view["status"], len(view["tasks"])) == ("as-json", "RUN_STATUS_SUCCEEDED", 2)

    def test_the_same_run_twice_is_one_run_and_other_content_is_refused(self, crewlog: Crewlog, done: str) -> None:
        again = crewlog.run(done)
        assert again.returncode == ExitCode.OK
        other = crewlog.run(done, "long.yaml")
        assert other.returncode == ExitCode.FAILED
        assert other.stderr.splitlines()[-2:] == [
            f"crewlog: run '{done}' exists with other content",
            "  choose another run id",
        ]

    def test_changes_that_the_run_does_not_see_are_named(self, crewlog: Crewlog) -> None:
        new = crewlog.folder / "repository" / "new.txt"
        new.write_text("not committed")
        assert "has changes that are not committed: the run does not see them" in crewlog.run("dirty").stderr
        new.unlink()

    def test_a_run_that_fails_says_why_and_what_to_do(self, crewlog: Crewlog) -> None:
        failed = crewlog("run", "do it", "--repo", "repository", "--budget", "0.000001", "--run-id", "too-cheap")
        assert failed.returncode == ExitCode.RUN_FAILED, failed.stderr
        assert "✗ run too-cheap failed" in failed.stdout
        assert "  to do" in failed.stdout

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (["run", "x", "--repo", "nowhere"], ExitCode.USAGE, "nowhere is not a directory"),
            (["run", "x", "--repo", "repository", "-w", "nothing"], ExitCode.FAILED, "nothing"),
            (["run", "x", "--repo", "repository", "-w", "gone.yaml"], ExitCode.FAILED, "gone.yaml"),
            (["run", "x", "--repo", "repository", "--run-id", "a.b*c"], ExitCode.USAGE, "run_id"),
            (["run", "x", "--repo", "repository", "--model", "gpt-0"], ExitCode.USAGE, "gpt-0"),
            (["show", "nothing"], ExitCode.FAILED, "nothing"),
            (["show", "done", "--token", "wrong"], ExitCode.NOT_AUTHENTICATED, "token"),
            (["replay", "done", "--at", "1"], ExitCode.USAGE, "had not begun"),
            (["events", "--type", "task_exploded"], ExitCode.USAGE, "task_exploded"),
            (["events", "--follow", "--timeout", "0.2"], ExitCode.TIMED_OUT, "not done after 0.2 s"),
        ],
    )
    def test_what_cannot_be_done_is_one_or_two_lines(
        self, crewlog: Crewlog, done: str, arguments: list[str], code: ExitCode, said: str
    ) -> None:
        refused = crewlog(*arguments)
        complaint = [line for line in refused.stderr.splitlines() if line.startswith(("crewlog: ", "  "))]
        assert refused.returncode == code, refused.stderr
        assert said in complaint[0]
        assert "Traceback" not in refused.stderr


class TestInterrupt:
    def test_a_script_that_is_interrupted_leaves_the_run_alone(self, crewlog: Crewlog) -> None:
        following = crewlog.start(*crewlog.run_that_waits("left"))
        _read_pipe_until(following, WAITS)
        following.send_signal(signal.SIGINT)
        said = _rest_of(following)
        assert following.wait(SECONDS_MAX) == ExitCode.INTERRUPTED
        assert "run left goes on without you" in said
        assert "crewlog cancel left" in said
        assert json.loads(crewlog("show", "left", "-o", "json").stdout)["status"] == "RUN_STATUS_RUNNING"
        assert crewlog("cancel", "left").returncode == ExitCode.OK

    def test_a_person_is_asked_and_can_cancel(self, crewlog: Crewlog) -> None:
        master, terminal = pty.openpty()
        with os.fdopen(terminal, "r+b", buffering=0) as tty:
            following = subprocess.Popen(
                crewlog.command(*crewlog.run_that_waits("asked")),
                stdin=tty,
                stdout=subprocess.PIPE,
                stderr=tty,
                cwd=crewlog.folder,
                env={**crewlog.environment, "TERM": "xterm"},
                start_new_session=True,
            )
        assert _read_until(master, WAITS)
        following.send_signal(signal.SIGINT)
        assert _read_until(master, b"[c]ancel")
        os.write(master, b"c\n")
        _read_until(master, b"never said")
        os.close(master)
        assert following.stdout is not None
        with following.stdout as stdout:
            assert "✗ run asked cancelled" in stdout.read().decode()
        assert following.wait(SECONDS_MAX) == ExitCode.RUN_FAILED

    def test_a_watch_outlives_the_gateway(self, crewlog: Crewlog) -> None:
        watching = crewlog.start(*crewlog.run_that_waits("outlived", "long.yaml"))
        said = _read_pipe_until(watching, WAITS)
        endpoints = DataDirectory(crewlog.data_dir).read_endpoints()
        assert endpoints is not None
        os.kill(endpoints.pids["gateway"], signal.SIGKILL)
        said += _read_pipe_until(watching, b"connected again")
        with crewlog.released():
            said += _rest_of(watching)
        assert watching.wait(SECONDS_MAX) == ExitCode.OK
        assert sum(" noop" in line for line in said.splitlines()) == 200
        assert said.count(WAITS.decode()) == 1
        _until(lambda: crewlog("runs").returncode == ExitCode.OK)


class TestReading:
    def test_lists(self, crewlog: Crewlog, done: str) -> None:
        assert done in [view["run_id"] for view in json.loads(crewlog("runs", "-o", "json").stdout)]
        assert len(crewlog("runs", "--limit", "1", "-o", "jsonl").stdout.splitlines()) == 1
        assert str(crewlog.folder / "repository") in crewlog("projects").stdout
        assert f"{done}_a-1" in crewlog("agents", done).stdout
        assert "short" in crewlog("show", done).stdout

    def test_entries_come_in_order_and_whole(self, crewlog: Crewlog, done: str) -> None:
        found = crewlog.entries(done)
        revisions = [int(str(entry["revision"])) for entry in found]
        assert revisions == sorted(set(revisions))
        later = crewlog("events", "--run", done, "--from", str(revisions[2]), "-o", "jsonl").stdout.splitlines()
        assert [json.loads(line) for line in later] == found[3:]
        some = crewlog("events", "--run", done, "--type", "task_succeeded", "-o", "json")
        assert len(json.loads(some.stdout)) == 2

    def test_the_story_begins_and_ends_with_the_run(self, crewlog: Crewlog, done: str) -> None:
        told = crewlog("replay", done).stdout.splitlines()
        assert "started: workflow short (a, b)" in told[0]
        assert "succeeded" in told[-1]
        assert len(crewlog("replay", done, "--details").stdout.splitlines()) > len(told)

    def test_the_state_at_a_revision(self, crewlog: Crewlog, done: str) -> None:
        revision = crewlog.entries(done)[1]["revision"]
        then = json.loads(crewlog("replay", done, "--at", str(revision), "-o", "json").stdout)
        assert then["run"]["status"] == "RUN_STATUS_RUNNING"
        assert [task["status"] for task in then["run"]["tasks"]] == ["TASK_STATUS_CLAIMED", "TASK_STATUS_WAITING"]

    def test_a_history_that_fits_is_verified(self, crewlog: Crewlog, done: str) -> None:
        verified = crewlog("replay", done, "--verify")
        assert verified.returncode == ExitCode.OK
        assert verified.stdout.startswith("verified: ")
        assert json.loads(crewlog("replay", done, "--verify", "-o", "json").stdout)["fits"] is True

    def test_the_trace_is_a_tree(self, crewlog: Crewlog, done: str) -> None:
        lines = crewlog("trace", done).stdout.splitlines()
        assert [line.split("  ")[0] for line in lines if not line.startswith(" ")] == ["invoke_workflow short"]
        assert sum("execute_tool noop" in line for line in lines) == 4

    def test_the_doctor_asks_the_platform(self, crewlog: Crewlog) -> None:
        examined = crewlog("doctor", "-o", "json")
        assert examined.returncode == ExitCode.OK
        found = {each["subject"]: each for each in json.loads(examined.stdout)}
        assert {"git", "nats-server", "sandbox bubblewrap", "data"} <= found.keys()
        assert found["platform"]["state"] == "ok"

    def test_an_address_and_a_token_are_enough(self, crewlog: Crewlog, done: str, tmp_path: Path) -> None:
        directory = DataDirectory(crewlog.data_dir)
        endpoints = directory.read_endpoints()
        assert endpoints is not None
        elsewhere = {"CREWLOG_ADDRESS": endpoints.gateway, "CREWLOG_TOKEN": directory.read_token()}
        shown = subprocess.run(
            crewlog.command("show", done, "-o", "json"),
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **elsewhere, "CREWLOG_DATA_DIR": str(tmp_path)},
        )
        assert json.loads(shown.stdout)["run_id"] == done


def test_cancel_ends_a_run(crewlog: Crewlog) -> None:
    assert crewlog(*crewlog.run_that_waits("stopped"), "--detach").returncode == ExitCode.OK
    assert crewlog("cancel", "stopped", "--reason", "changed my mind").returncode == ExitCode.OK
    assert crewlog("watch", "stopped").returncode == ExitCode.RUN_FAILED
    assert "changed my mind" in crewlog("replay", "stopped").stdout
