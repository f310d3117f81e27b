"""The pieces of `crewlog up` over real processes, files and locks."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crewlog.cli import config
from crewlog.cli.config import ModelAccess
from crewlog.cli.launcher import child, environment, logfiles, orphans, ports
from crewlog.cli.launcher.child import Child, Program
from crewlog.cli.launcher.credentials import new_credentials
from crewlog.cli.launcher.directory import DataDirectory, Endpoints
from crewlog.cli.launcher.environment import SERVICES, Fleet, Plan
from crewlog.cli.launcher.supervisor import Supervisor
from crewlog.domain.errors import InvalidCommand, Unavailable, WrongState

SECONDS_MAX = 10.0
SLEEPER = "import time; time.sleep(600)"
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""
DIES_ON_SIGN = """
import os, time
print("up", flush=True)
while not os.path.exists("sign"):
    time.sleep(0.01)
raise SystemExit(3)
"""
LEAVES_ITS_LOCK = """
import os, subprocess, sys, time
if not os.path.exists("holder"):
    holder = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
    open("holder", "w").write(str(holder.pid))
print("up", flush=True)
time.sleep(600)
"""
OPEN_FILES = """
import json, os
fds = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
print(json.dumps({fd: os.readlink(f"/proc/self/fd/{fd}") for fd in fds}))
"""


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.01)


def _python(code: str, name: str = "worker") -> Program:
    return Program(name, (sys.executable, "-c", code), {"PATH": os.environ["PATH"]})


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def directory(tmp_path: Path) -> DataDirectory:
    made = DataDirectory(tmp_path / "data")
    made.lock().release()
    return made


@pytest.fixture
def parent_fd() -> Iterator[int]:
    reading, writing = os.pipe()
    yield reading
    os.close(reading)
    os.close(writing)


class TestDirectory:
    def test_a_second_holder_is_refused_and_learns_who_holds_it(self, tmp_path: Path) -> None:
        directory = DataDirectory(tmp_path / "data")
        lock = directory.lock()
        assert directory.holder() == os.getpid()
        with pytest.raises(WrongState, match=rf"already running on .*data \(process {os.getpid()}\)"):
            DataDirectory(tmp_path / "data").lock()
        lock.release()
        assert directory.holder() == 0
        directory.lock().release()

    def test_everything_is_for_its_owner_alone(self, directory: DataDirectory) -> None:
        directory.path.chmod(0o755)
        directory.lock().release()
        token = directory.token()
        assert len(token) > 30
        assert _mode(directory.path) == _mode(directory.path / "logs") == 0o700
        directory.token_path.chmod(0o644)
        assert directory.token() == token
        assert _mode(directory.token_path) == 0o600

    def test_a_directory_of_somebody_else_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("...")
        with pytest.raises(InvalidCommand, match="not empty"):
            DataDirectory(tmp_path).lock()
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_endpoints_come_back_as_they_were_written(self, directory: DataDirectory) -> None:
        endpoints = Endpoints("127.0.0.1:1", 7, {"git": 8})
        directory.write_endpoints(endpoints)
        assert directory.read_endpoints() == endpoints
        assert _mode(directory.endpoints_path) == 0o600
        assert json.loads(directory.endpoints_path.read_text())["gateway"] == "127.0.0.1:1"
        directory.remove_endpoints()
        assert directory.read_endpoints() is None

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"gateway": 1, "surprise": 2}'])
    def test_damaged_endpoints_are_none(self, directory: DataDirectory, content: str) -> None:
        directory.endpoints_path.write_text(content)
        assert directory.read_endpoints() is None


class TestChild:
    async def test_it_has_nothing_of_the_launcher_open(self, directory: DataDirectory, parent_fd: int) -> None:
        with socket.socket() as secret, directory.endpoints_path.open("w"):
            secret.set_inheritable(True)
            process = await child.start(_python(OPEN_FILES), directory, parent_fd)
            assert await process.wait() == 0
        opened = json.loads(directory.log_path("worker").read_text())
        beyond_standard = {fd: path for fd, path in opened.items() if int(fd) > 2 and "/proc/" not in path}
        assert len(beyond_standard) == 2
        assert str(parent_fd) in beyond_standard
        assert any(path.endswith("run/worker.lock") for path in beyond_standard.values())

    async def test_it_has_the_given_environment_and_no_other(self, directory: DataDirectory, parent_fd: int) -> None:
        code = "import os, json; print(json.dumps(dict(os.environ)))"
        process = await child.start(_python(code), directory, parent_fd)
        assert await process.wait() == 0
        seen = json.loads(directory.log_path("worker").read_text())
        assert {"PATH", "CREWLOG_PARENT_FD"} <= seen.keys() <= {"PATH", "CREWLOG_PARENT_FD", "LC_CTYPE"}

    async def test_it_leads_a_session_of_its_own(self, directory: DataDirectory, parent_fd: int) -> None:
        process = await child.start(_python(SLEEPER), directory, parent_fd)
        assert os.getsid(process.pid) == process.pid
        process.kill()
        assert await process.wait() == -9


class TestOrphans:
    async def test_what_is_left_of_an_earlier_start_is_ended(self, directory: DataDirectory, parent_fd: int) -> None:
        process = await child.start(_python(STUBBORN), directory, parent_fd)
        assert await orphans.end_orphans(directory.path / "run") == {"worker": process.pid}
        assert await process.wait() == -9
        assert await orphans.end_orphans(directory.path / "run") == {}

    async def test_a_process_that_only_has_the_number_lives_on(self, directory: DataDirectory, parent_fd: int) -> None:
        other = await asyncio.create_subprocess_exec(sys.executable, "-c", SLEEPER, start_new_session=True)
        (directory.path / "run" / "worker.lock").write_text(f"{other.pid}\n")
        assert await orphans.end_orphans(directory.path / "run") == {}
        assert other.returncode is None
        other.kill()
        await other.wait()

    async def test_a_second_child_of_the_same_name_does_not_start(
        self, directory: DataDirectory, parent_fd: int
    ) -> None:
        process = await child.start(_python(SLEEPER), directory, parent_fd)
        with pytest.raises(WrongState, match=str(process.pid)):
            await child.start(_python(SLEEPER), directory, parent_fd)
        process.kill()
        await process.wait()


class TestSupervisor:
    @pytest.fixture
    def said(self) -> list[str]:
        return []

    @pytest.fixture
    def supervise(self, directory: DataDirectory, parent_fd: int, said: list[str]) -> Callable[[str], Supervisor]:
        def make(code: str) -> Supervisor:
            async def start() -> Child:
                return await child.start(_python(code), directory, parent_fd)

            async def ready() -> None:
                await _until(lambda: "up" in directory.log_path("worker").read_text())

            def words() -> str:
                return logfiles.last_words(directory.log_path("worker"))

            return Supervisor("worker", start, ready, said.append, words)

        return make

    async def test_a_child_that_dies_is_started_again_and_it_is_said(
        self, supervise: Callable[[str], Supervisor], said: list[str]
    ) -> None:
        worker = supervise("print('up', flush=True); " + SLEEPER)
        await worker.begin()
        await worker.until_ready()
        first = worker.pid
        os.kill(first, 9)
        await _until(lambda: len(said) == 2)
        assert said[0] == f"worker (process {first}) was ended by SIGKILL; starting it again in 0.1 s"
        assert said[1].startswith("worker is back after")
        assert worker.pid not in (0, first)
        assert worker.restarts == 1
        assert await worker.stop(SECONDS_MAX)
        assert worker.pid == 0

    async def test_a_lock_that_outlives_its_child_is_waited_for(
        self, supervise: Callable[[str], Supervisor], said: list[str], directory: DataDirectory
    ) -> None:
        worker = supervise(LEAVES_ITS_LOCK)
        await worker.begin()
        await worker.until_ready()
        os.kill(worker.pid, 9)
        await _until(lambda: len(said) == 3)
        assert all("cannot be started" in line and "still holds" in line for line in said[1:])
        os.kill(int((directory.path / "holder").read_text()), 9)
        await _until(lambda: worker.restarts == 1 and worker.pid != 0)
        assert await worker.stop(SECONDS_MAX)

    async def test_the_pause_grows_with_every_early_death(
        self, supervise: Callable[[str], Supervisor], said: list[str], directory: DataDirectory
    ) -> None:
        worker = supervise(DIES_ON_SIGN)
        await worker.begin()
        await worker.until_ready()
        (directory.path / "sign").touch()
        await _until(lambda: sum("again" in line for line in said) == 3)
        assert [line.rpartition(" in ")[2] for line in said if "again" in line] == ["0.1 s", "0.2 s", "0.4 s"]
        assert all("ended with status 3" in line for line in said if "again" in line)
        assert await worker.stop(SECONDS_MAX)

    async def test_a_first_start_that_fails_says_why(self, supervise: Callable[[str], Supervisor]) -> None:
        worker = supervise("import sys; print('no such luck'); sys.exit(1)")
        await worker.begin()
        with pytest.raises(Unavailable, match="worker did not start: ended with status 1") as caught:
            await worker.until_ready()
        assert caught.value.what_to_do == "no such luck"

    async def test_what_does_not_stop_can_be_killed(self, supervise: Callable[[str], Supervisor]) -> None:
        worker = supervise(STUBBORN)
        await worker.begin()
        await worker.until_ready()
        assert not await worker.stop(0.1)
        assert worker.pid
        await worker.kill()
        assert worker.pid == 0


ONE_OF_EACH = Fleet()


def _plan(tmp_path: Path, script: Path | None = None, fleet: Fleet = ONE_OF_EACH) -> Plan:
    names = [*fleet.processes, "model", "nats-server"]
    return Plan(
        data_dir=tmp_path,
        ports={name: 20_000 + number for number, name in enumerate(names)},
        log_url="nats://127.0.0.1:1",
        credentials=new_credentials("client-secret", SERVICES, SERVICES),
        model=ModelAccess(api_key="sk-secret", model="m-1"),
        script=script,
        fleet=fleet,
        prices=tmp_path / "prices.toml",
        inherited={"PATH": "/bin"},
        inherited_for_outgoing_calls={"HTTPS_PROXY": "http://user:password@proxy"},
    )


class TestEnvironment:
    @pytest.mark.parametrize(
        ("name", "holders"),
        [
            ("ANTHROPIC_API_KEY", {"gateway"}),
            ("CREWLOG_CLIENT_TOKEN", {"gateway"}),
            ("CREWLOG_CLAIM_SIGNING_KEY", {"scheduler"}),
            ("CREWLOG_CLAIM_VERIFY_KEY", {"gateway", "git"}),
            ("HTTPS_PROXY", {"executor"}),
            ("CREWLOG_SANDBOX", {"executor"}),
            ("CREWLOG_PRICES", {"gateway", "executor"}),
            ("CREWLOG_SERVICE_TOKEN", set(SERVICES)),
            ("PATH", set(SERVICES)),
        ],
    )
    def test_who_learns_what(self, tmp_path: Path, name: str, holders: set[str]) -> None:
        plan = _plan(tmp_path)
        assert {s for s in SERVICES if name in environment.service(plan, s).environment} == holders

    def test_no_two_services_share_a_token_or_a_password(self, tmp_path: Path) -> None:
        plan = _plan(tmp_path)
        for name in ("CREWLOG_SERVICE_TOKEN", "CREWLOG_NATS_PASSWORD"):
            assert len({environment.service(plan, s).environment[name] for s in SERVICES}) == len(SERVICES)

    def test_with_a_script_no_key_goes_anywhere(self, tmp_path: Path) -> None:
        plan = _plan(tmp_path, script=tmp_path / "script.yaml")
        gateway = environment.service(plan, "gateway").environment
        assert "ANTHROPIC_API_KEY" not in gateway
        assert gateway["CREWLOG_MODEL_SCRIPTED"] == "1"
        assert gateway["CREWLOG_MODEL_BASE_URL"] == f"http://127.0.0.1:{plan.ports['model']}"
        programs = [environment.scripted_model(plan), *(environment.service(plan, s) for s in SERVICES)]
        assert not any("sk-secret" in value for p in programs for value in p.environment.values())

    def test_several_processes_have_names_addresses_and_labels_of_their_own(self, tmp_path: Path) -> None:
        plan = _plan(tmp_path, fleet=Fleet(2, 2, ("gpu,big",), "process"))
        names = ("git", "scheduler", "scheduler-2", "executor", "executor-2", "gateway")
        assert plan.fleet.processes == names
        found = {name: environment.service(plan, name).environment for name in names}
        schedulers = f"{plan.address('scheduler')},{plan.address('scheduler-2')}"
        assert {name: each["CREWLOG_SCHEDULER_ADDRESS"] for name, each in found.items()} == {
            **dict.fromkeys(("git", "executor", "executor-2", "gateway"), schedulers),
            "scheduler": plan.address("scheduler"),
            "scheduler-2": plan.address("scheduler-2"),
        }
        assert [found[name]["CREWLOG_SCHEDULER_ID"] for name in names[1:3]] == ["scheduler-1", "scheduler-2"]
        first, second = found["executor"], found["executor-2"]
        assert (first["CREWLOG_EXECUTOR_ID"], second["CREWLOG_EXECUTOR_ID"]) == ("executor-1", "executor-2")
        assert first["CREWLOG_EXECUTOR_LABELS"] == "gpu,big"
        assert "CREWLOG_EXECUTOR_LABELS" not in second
        assert second["CREWLOG_EXECUTOR_ISOLATION"] == "process"
        assert second["CREWLOG_EXECUTOR_ADDRESS"] == plan.address("executor-2")
        assert second["CREWLOG_NATS_USER"] == "executor"

    def test_services_do_not_import_from_where_they_are_started(self, tmp_path: Path) -> None:
        assert "-P" in environment.service(_plan(tmp_path), "git").arguments

    def test_secrets_of_the_shell_are_not_inherited(self) -> None:
        shell = {"PATH": "/bin", "LC_ALL": "C", "OTEL_X": "1", "AWS_SECRET_ACCESS_KEY": "x", "ANTHROPIC_API_KEY": "x"}
        assert config.inherited(shell) == {"PATH": "/bin", "LC_ALL": "C", "OTEL_X": "1"}


class TestPorts:
    def test_the_wanted_port_is_kept_while_it_is_free(self) -> None:
        first = ports.choose(["a", "b"], {})
        assert ports.choose(["a", "b"], first) == first
        with socket.socket() as taken:
            taken.bind((ports.LOOPBACK, first["a"]))
            taken.listen()
            again = ports.choose(["a", "b"], first)
        assert again["a"] != first["a"]
        assert again["b"] == first["b"]

    def test_two_names_never_get_one_port(self) -> None:
        chosen = ports.choose(["a", "b"], {"a": 20_001, "b": 20_001})
        assert chosen["a"] != chosen["b"]


class TestLogs:
    def test_the_last_words_are_the_message_of_the_last_line(self, tmp_path: Path) -> None:
        path = tmp_path / "git.log"
        assert logfiles.last_words(path) == ""
        path.write_text('{"message": "first"}\n{"message": "the process ends: no git"}\n\n')
        assert logfiles.last_words(path) == "the process ends: no git"
        path.write_text("Traceback\nModuleNotFoundError: no module\n")
        assert logfiles.last_words(path) == "ModuleNotFoundError: no module"

    def test_a_long_log_is_cut_and_its_writer_goes_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logfiles, "LOG_BYTES_MAX", 10)
        path = tmp_path / "git.log"
        with path.open("a") as writer:
            writer.write("x" * 11)
            writer.flush()
            logfiles.cut(tmp_path)
            writer.write("more")
        assert path.read_text() == "more"
        assert (tmp_path / "git.log.1").read_text() == "x" * 11
