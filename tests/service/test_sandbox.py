"""Every level of the sandbox, for real: what a hostile or careless command can reach, and whom it can hurt."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from pathlib import Path

import pytest
from crewlog.domain.errors import InvalidCommand, Unavailable
from crewlog.tools import bubblewrap, kernel
from crewlog.tools.command import CommandLimits, CommandResult, Ending
from crewlog.tools.registry import ToolAnswer, ToolContext, run_tool
from crewlog.tools.sandbox import Level, Sandbox, choose, detect

from tests.service.sandboxes import (
    CANARY,
    LEVELS,
    MIB,
    PYTHON,
    confined,
    every_level,
    names_in,
    own_processes,
    running,
    skip_where_the_host_refuses,
    until,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is only the level `none`")


async def bash(sandbox: Sandbox, root: Path, command: str, **limits: float) -> CommandResult:
    return await sandbox.run(["bash", "-c", command], root=root, limits=CommandLimits(**limits))  # type: ignore[arg-type]


async def python(sandbox: Sandbox, root: Path, program: str, **limits: float) -> CommandResult:
    argv = [PYTHON, "-I", "-S", "-c", program]
    return await sandbox.run(argv, root=root, limits=CommandLimits(**limits))  # type: ignore[arg-type]


@every_level
async def test_output_and_exit_code_are_the_answer(sandbox: Sandbox, root: Path) -> None:
    result = await bash(sandbox, root, "echo out; echo err >&2; pwd; exit 7")
    assert (result.exit_code, result.ending) == (7, Ending.EXITED)
    assert result.output == f"out\nerr\n{root}\n"
    assert (await bash(sandbox, root, "kill -SEGV $$")).exit_code == 139


@every_level
async def test_the_workspace_is_writable_and_stdin_is_empty(sandbox: Sandbox, root: Path) -> None:
    command = "mkdir -p a/b && echo hi > a/b/f && mv a/b/f g && ln -s g l && cat; cat l; read x || echo no input"
    assert (await bash(sandbox, root, command)).output == "hi\nno input\n"
    assert (root / "g").read_text() == "hi\n"


@every_level
async def test_temporary_files_and_home_are_private_and_gone_afterwards(sandbox: Sandbox, root: Path) -> None:
    result = await bash(sandbox, root, 'echo 1 > "$TMPDIR/f" && echo 2 > "$HOME/f" && cat "$TMPDIR/f" "$HOME/f"')
    assert result.output == "1\n2\n"
    assert (await bash(sandbox, root, 'cat "$TMPDIR/f" "$HOME/f"')).exit_code == 1
    assert await until(lambda: not any((root.parent / "scratch").iterdir()))
    assert names_in(root) == []


@own_processes
async def test_slash_tmp_can_be_used_and_is_private(sandbox: Sandbox, root: Path) -> None:
    mark = Path("/tmp") / f"crewlog-test-{os.getpid()}"
    assert (await bash(sandbox, root, f"echo x > {mark} && cat {mark}")).output == "x\n"
    assert not mark.exists()


@every_level
async def test_the_tools_of_the_host_work(sandbox: Sandbox, root: Path) -> None:
    result = await bash(sandbox, root, "git init -q . && git commit -q --allow-empty -m x && git log --format=%an")
    assert (result.output, result.exit_code) == ("Crewlog\n", 0)
    assert (await bash(sandbox, root, "python3 -c 'print(6 * 7)'")).output == "42\n"
    assert (await bash(sandbox, root, "cat <(echo substituted) && echo x > /dev/null")).output == "substituted\n"


@every_level
async def test_the_environment_holds_nothing_of_ours(
    sandbox: Sandbox, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    fresh = Sandbox(sandbox.level, namespaces=sandbox._namespaces)
    try:
        result = await fresh.run(["env"], root=root, environment={"MORE": "1"})
    finally:
        await fresh.close()
    names = {line.split("=")[0] for line in result.output.splitlines()}
    assert CANARY not in result.output
    ours = {"PATH", "HOME", "TMPDIR", "LANG", "TERM", "PYTHONDONTWRITEBYTECODE", "GIT_CONFIG_NOSYSTEM", "MORE"}
    git = {f"GIT_{who}_{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    assert names - {"PWD"} == ours | git


@confined
async def test_the_environment_of_the_executor_cannot_be_read(sandbox: Sandbox, root: Path) -> None:
    """Also by a process of the same user: its keys are in the memory and in the environment of the executor."""
    holder = await asyncio.create_subprocess_exec("sleep", "60", env={"KEY": CANARY, "PATH": os.defpath})
    try:
        program = f"""
import glob, os
for path in glob.glob('/proc/[0-9]*/environ') + ['/proc/{holder.pid}/environ', '/proc/{os.getpid()}/environ']:
    try:
        print(open(path, 'rb').read())
    except OSError as error:
        print(path, error.errno)
for pid in ({holder.pid}, {os.getpid()}, os.getppid()):
    try:
        open(f'/proc/{{pid}}/mem', 'rb').read(1)
    except OSError as error:
        print(error.errno)
"""
        result = await python(sandbox, root, program)
        assert result.exit_code == 0, result.output
        assert CANARY not in result.output
    finally:
        holder.kill()
        await holder.wait()


@confined
async def test_what_is_outside_cannot_be_read_or_written(sandbox: Sandbox, root: Path, outside: Path) -> None:
    command = f"""
cat {outside}/secret; ls {outside}; cat /root/.bashrc ~root/.profile; cat /etc/shadow; ls /home /var/lib
echo x > {outside}/new; echo x > {root}/../new; echo x >> {outside}/secret
ln {outside}/secret hard; ln -s {outside}/secret soft; cat soft; rm -rf {outside}; chmod 777 {outside}
"""
    result = await bash(sandbox, root, command)
    assert CANARY not in result.output
    assert "root:" not in result.output
    assert (outside / "secret").read_text() == CANARY
    assert names_in(outside) == ["secret"]
    assert names_in(root.parent) == ["outside", "scratch", "workspace"]


@confined
async def test_the_system_cannot_be_changed(sandbox: Sandbox, root: Path) -> None:
    """The attempts change nothing even where they succeed: they open without writing, and remove what they make."""
    command = f"""
for file in /usr/bin/env /etc/hosts {PYTHON}; do (: >> $file) && echo opened $file; done
for place in / /usr /usr/bin /etc /root /var/tmp /dev; do
    made=$(mktemp -d $place/crewlog.XXXXXX) && echo made $made && rmdir $made
done
"""
    output = (await bash(sandbox, root, command)).output
    assert "opened " not in output
    assert "made /" not in output


@confined
async def test_paths_that_git_needs_are_readable_only(sandbox: Sandbox, root: Path, outside: Path) -> None:
    argv = ["bash", "-c", f"cat {outside}/secret; echo x > {outside}/new || echo refused"]
    result = await sandbox.run(argv, root=root, read_only_paths=[outside])
    assert result.output.startswith(CANARY)
    assert result.output.endswith("refused\n")
    assert not (outside / "new").exists()


@confined
async def test_there_is_no_network(sandbox: Sandbox, root: Path) -> None:
    """Against listeners that are really there: TCP, UDP, an abstract socket and one in the file system."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        port = tcp.getsockname()[1]
        tcp.settimeout(0.1)
        name = f"\0crewlog-{os.getpid()}"
        abstract.bind(name)
        abstract.listen()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", 0))
            udp.setblocking(False)
            program = f"""
import socket
def reach(family, kind, address):
    try:
        with socket.socket(family, kind) as s:
            s.settimeout(1); s.connect(address); s.send(b'x'); print('reached', address)
    except OSError as error:
        print(error)
reach(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', {port}))
reach(socket.AF_INET, socket.SOCK_DGRAM, ('127.0.0.1', {udp.getsockname()[1]}))
reach(socket.AF_UNIX, socket.SOCK_STREAM, {name!r})
reach(socket.AF_VSOCK, socket.SOCK_STREAM, (2, 1))
a, b = socket.socketpair(); a.send(b'pairs work'); print(b.recv(99))
"""
            result = await python(sandbox, root, program)
            assert result.exit_code == 0, result.output
            assert f"reached ('127.0.0.1', {port})" not in result.output
            assert "crewlog-" not in result.output
            assert "pairs work" in result.output
            with pytest.raises(BlockingIOError):
                udp.recv(1)
        with pytest.raises(TimeoutError):
            tcp.accept()


@confined
async def test_sockets_in_the_file_system_are_out_of_reach(sandbox: Sandbox, root: Path, outside: Path) -> None:
    """Such as the one of a container engine, which would be the way to everything."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(outside / "s"))
        listening.listen()
        program = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(outside / 's')!r})"
        assert (await python(sandbox, root, program)).exit_code == 1


@confined
async def test_network_can_be_allowed(sandbox: Sandbox, root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2).send(b'x')"
        result = await sandbox.run([PYTHON, "-I", "-S", "-c", program], root=root, network=True)
        assert result.exit_code == 0, result.output


@own_processes
async def test_servers_on_the_own_loopback_work(sandbox: Sandbox, root: Path) -> None:
    program = """
import socket
server = socket.create_server(('127.0.0.1', 0))
socket.create_connection(server.getsockname(), 2)
print('connected')
"""
    assert (await python(sandbox, root, program)).output == "connected\n"


@confined
async def test_privileges_are_gone(sandbox: Sandbox, root: Path) -> None:
    status = (await bash(sandbox, root, "cat /proc/self/status")).output
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert fields["CapEff"].strip("0") == fields["CapPrm"].strip("0") == ""
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    for command in (
        "unshare -Ur true",
        "unshare -m true",
        "mount -t tmpfs x . && umount .",
        "chroot . true",
        "mknod d b 1 1 && rm d",
    ):
        assert (await bash(sandbox, root, command)).exit_code != 0, command


@confined
async def test_calls_that_lead_around_are_refused(sandbox: Sandbox, root: Path) -> None:
    program = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for number in (425, 321 if __import__('platform').machine() == 'x86_64' else 280):
    print(libc.syscall(number, 1, 0), ctypes.get_errno())
"""
    assert (await python(sandbox, root, program)).output == "-1 1\n-1 1\n"


@confined
async def test_other_processes_cannot_be_signalled(sandbox: Sandbox, root: Path) -> None:
    victim = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        result = await bash(sandbox, root, f"kill -9 {victim.pid}")
        assert result.exit_code == 1, "the kernel's Landlock is older than ABI 6"
        assert str(victim.pid) in running("sleep\0" + "60")
    finally:
        victim.kill()
        await victim.wait()


async def cut_off(sandbox: Sandbox, root: Path, command: str, **limits: float) -> CommandResult:
    """After the shortest of several times in which the command can say something: it runs from before its start."""
    for seconds in (0.2, 2.0, 20.0):
        result = await bash(sandbox, root, command, seconds=seconds, **limits)
        if result.output:
            break
    return result


@every_level
async def test_time_is_limited(sandbox: Sandbox, root: Path) -> None:
    result = await cut_off(sandbox, root, "echo begun; sleep 60")
    assert (result.ending, result.output) == (Ending.TIMED_OUT, "begun\n")
    assert result.seconds < 50


@every_level
async def test_it_may_tidy_up_after_the_term_signal(sandbox: Sandbox, root: Path) -> None:
    result = await cut_off(sandbox, root, "trap 'echo tidy; exit 3' TERM; sleep 60 & wait", grace_seconds=50)
    assert (result.ending, result.output, result.exit_code) == (Ending.TIMED_OUT, "tidy\n", 3)
    assert result.seconds < 50


@every_level
async def test_ignoring_the_term_signal_does_not_help(sandbox: Sandbox, root: Path) -> None:
    mark = f"{os.getpid()}.71"
    command = f"trap '' TERM; while true; do sleep {mark}; done"
    result = await bash(sandbox, root, command, seconds=0.2, grace_seconds=0.2)
    assert result.ending is Ending.TIMED_OUT
    assert result.seconds < 20
    assert not running(mark)


@every_level
async def test_nothing_outlives_the_command(sandbox: Sandbox, root: Path) -> None:
    """Neither in the background, nor in a session of its own, nor as an orphan."""
    mark = f"{os.getpid()}.72"
    command = (
        f"sleep {mark} & setsid sleep {mark} & (setsid nohup sleep {mark} > /dev/null 2>&1 < /dev/null &); sleep 0.1"
    )
    result = await bash(sandbox, root, command)
    assert (result.ending, result.exit_code) == (Ending.EXITED, 0)
    assert result.seconds < 20
    assert await until(lambda: not running(mark))


@every_level
async def test_cancelling_ends_everything(sandbox: Sandbox, root: Path) -> None:
    mark = f"{os.getpid()}.73"
    command = f"trap '' TERM; touch started; setsid sleep {mark} & sleep {mark}"
    task = asyncio.create_task(bash(sandbox, root, command, grace_seconds=0.1))
    assert await until(lambda: (root / "started").exists() and bool(running(f"sleep\0{mark}")))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not running(f"sleep\0{mark}")


@every_level
async def test_nothing_outlives_the_executor(level: tuple[Level, bool], root: Path) -> None:
    """Killed with kill -9, it can tidy up nothing itself."""
    mark = f"{os.getpid()}.74"
    program = f"""
import asyncio
from pathlib import Path
from crewlog.tools.sandbox import Level, Sandbox
scratch = Path({str(root.parent)!r})
sandbox = Sandbox(Level({level[0].value!r}), namespaces={level[1]}, scratch=scratch)
asyncio.run(sandbox.run(["bash", "-c", "setsid sleep {mark} & sleep {mark}"], root=Path({str(root)!r})))
"""
    executor = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    if not await until(lambda: len(running(f"sleep\0{mark}")) >= 2):
        executor.kill()
        await executor.wait()
        pytest.skip("this level does not work here")
    executor.kill()
    await executor.wait()
    assert await until(lambda: not running(f"sleep\0{mark}"))
    assert await until(lambda: names_in(root.parent) == ["workspace"])


@every_level
async def test_fault_16_a_memory_bomb_hurts_only_itself(sandbox: Sandbox, root: Path) -> None:
    program = "b = []\nwhile True: b.append(bytearray(8 << 20))"
    result = await python(sandbox, root, program, memory_bytes=200 * MIB, seconds=20)
    assert result.ending is Ending.OUT_OF_MEMORY
    assert result.seconds < 20


@every_level
async def test_memory_of_many_processes_counts_together(sandbox: Sandbox, root: Path) -> None:
    program = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        kept = bytearray(b'x') * (60 << 20)
        time.sleep(60)
time.sleep(60)
"""
    result = await python(sandbox, root, program, memory_bytes=300 * MIB, seconds=20)
    assert result.ending is Ending.OUT_OF_MEMORY


@every_level
async def test_memory_that_a_fork_shares_counts_once(sandbox: Sandbox, root: Path) -> None:
    program = """
import os, time
kept = bytearray(b'x') * (100 << 20)
for _ in range(6):
    if os.fork() == 0:
        time.sleep(0.6)
        os._exit(0)
for _ in range(6):
    os.wait()
print('done')
"""
    result = await python(sandbox, root, program, memory_bytes=300 * MIB, seconds=20)
    assert (result.ending, result.output) == (Ending.EXITED, "done\n")


@every_level
async def test_a_fork_bomb_is_bounded(sandbox: Sandbox, root: Path) -> None:
    result = await bash(sandbox, root, "for i in $(seq 400); do sleep 20 & done; wait", processes=60, seconds=30)
    assert result.ending is Ending.TOO_MANY_PROCESSES
    assert result.seconds < 20
    assert (await bash(sandbox, root, "echo well")).output == "well\n"


@every_level
async def test_a_flood_of_output_is_cut_and_then_ended(sandbox: Sandbox, root: Path) -> None:
    heard: list[str] = []
    limits = CommandLimits(seconds=20, output_bytes=16 * MIB, grace_seconds=0.1)
    argv = ["bash", "-c", "echo head; head -c 1G /dev/zero | tr '\\0' x"]
    result = await sandbox.run(argv, root=root, limits=limits, on_output=heard.append)
    assert result.ending is Ending.TOO_MUCH_OUTPUT
    assert result.output.startswith("head\nxxx")
    assert len(result.output) < 31_000
    assert result.cut_bytes > 15 * MIB
    assert sum(map(len, heard)) > 15 * MIB


@every_level
async def test_long_output_keeps_head_and_tail(sandbox: Sandbox, root: Path) -> None:
    result = await bash(sandbox, root, "echo first; seq 100000; echo last; exit 3")
    assert (result.exit_code, result.ending) == (3, Ending.EXITED)
    assert result.output.startswith("first\n1\n2\n")
    assert result.output.endswith("100000\nlast\n")
    assert f"[... {result.cut_bytes} bytes are left out here ...]" in result.output


@every_level
async def test_output_that_is_no_text_is_decoded_piece_by_piece(sandbox: Sandbox, root: Path) -> None:
    heard: list[str] = []
    command = r"printf '\xc3'; sleep 0.05; printf '\xa9 \xff\xfe\n'; printf '\xe2\x82'"
    result = await sandbox.run(["bash", "-c", command], root=root, on_output=heard.append)
    assert result.output == "é \ufffd\ufffd\n\ufffd"
    assert "".join(heard).startswith("é \ufffd\ufffd\n")


@every_level
async def test_output_comes_while_the_command_runs(sandbox: Sandbox, root: Path) -> None:
    heard: list[str] = []
    argv = ["bash", "-c", "echo ready; until [ -e go ]; do sleep 0.02; done"]
    task = asyncio.create_task(sandbox.run(argv, root=root, on_output=heard.append))
    assert await until(lambda: "".join(heard) == "ready\n")
    (root / "go").touch()
    assert (await task).exit_code == 0


@every_level
async def test_files_are_limited_in_size(sandbox: Sandbox, root: Path) -> None:
    result = await bash(sandbox, root, "head -c 10M /dev/zero > big; echo $?", file_bytes=MIB)
    assert "153" in result.output
    assert (root / "big").stat().st_size == MIB


@own_processes
async def test_temporary_files_are_limited(sandbox: Sandbox, root: Path) -> None:
    result = await bash(
        sandbox, root, "head -c 40M /dev/zero > /tmp/f || head -c 40M /dev/zero > /dev/shm/f", temporary_bytes=16 * MIB
    )
    assert result.output.count("No space left on device") == 2


@every_level
async def test_commands_run_side_by_side(sandbox: Sandbox, root: Path) -> None:
    commands = [bash(sandbox, root, f"echo {number}; exit {number}") for number in range(12)]
    results = await asyncio.gather(*commands)
    assert [(result.output, result.exit_code) for result in results] == [(f"{n}\n", n) for n in range(12)]


@every_level
async def test_no_descriptor_leaks_into_a_command_or_stays_with_us(sandbox: Sandbox, root: Path) -> None:
    with (root.parent / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        before = len(names_in(Path("/proc/self/fd")))
        listing = (await bash(sandbox, root, "for fd in /proc/$$/fd/*; do readlink $fd; done")).output.splitlines()
        for _ in range(5):
            await bash(sandbox, root, "true")
        assert await until(lambda: len(names_in(Path("/proc/self/fd"))) <= before)
    assert all(target == "/dev/null" or target.startswith("pipe:") for target in listing), listing


@every_level
async def test_the_launcher_has_no_environment(sandbox: Sandbox, root: Path) -> None:
    process = sandbox._launcher._process
    assert process is not None
    assert Path(f"/proc/{process.pid}/environ").read_bytes() == b""


@every_level
async def test_a_launcher_that_was_killed_is_replaced(sandbox: Sandbox, root: Path) -> None:
    process = sandbox._launcher._process
    assert process is not None
    process.kill()
    process.wait()
    assert (await bash(sandbox, root, "echo again")).output == "again\n"


@every_level
async def test_a_tree_of_temporary_files_that_is_too_deep_is_removed(sandbox: Sandbox, root: Path) -> None:
    program = "import os\nos.chdir(os.environ['TMPDIR'])\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')"
    assert (await python(sandbox, root, program)).exit_code == 0
    assert await until(lambda: not any((root.parent / "scratch").iterdir()))


@every_level
async def test_a_command_that_does_not_exist(sandbox: Sandbox, root: Path) -> None:
    assert (await bash(sandbox, root, "no-such-command")).exit_code == 127


@pytest.mark.skipif(bubblewrap.find() is None, reason="bubblewrap is not installed here")
async def test_the_git_file_of_a_worktree_cannot_be_bent(root: Path) -> None:
    (root / ".git").write_text("gitdir: /elsewhere\n")
    sandbox = Sandbox(Level.BUBBLEWRAP)
    try:
        await skip_where_the_host_refuses(sandbox, root)
        await bash(sandbox, root, "echo 'gitdir: /tmp/evil' > .git; rm -f .git; mv .git x")
    finally:
        await sandbox.close()
    assert (root / ".git").read_text() == "gitdir: /elsewhere\n"


async def call(sandbox: Sandbox, root: Path, **given: object) -> ToolAnswer:
    context = ToolContext(root=root, sandbox=sandbox, limits=CommandLimits(memory_bytes=200 * MIB, grace_seconds=0.1))
    return await run_tool("bash", json.dumps(given).encode(), context)


@every_level
async def test_the_tool_tells_the_model_what_happened(sandbox: Sandbox, root: Path) -> None:
    assert await call(sandbox, root, command="echo hi") == ToolAnswer("hi\n[exit code 0]")
    assert await call(sandbox, root, command="exit 2") == ToolAnswer("[exit code 2]")
    assert (await call(sandbox, root, command="kill -SEGV $$")).text == "[exit code 139 (segmentation fault)]"
    assert (await call(sandbox, root, command=r"printf '\033[31mred\000\n'")).text == "\\x1b[31mred\\x00\n[exit code 0]"
    assert await call(sandbox, root, command="sleep 60", timeout_seconds=1) == ToolAnswer(
        "[timed out after 1 s]", is_error=True, reason="timed_out"
    )
    bomb = f"{PYTHON} -ISc 'b = []\nwhile True: b.append(bytearray(8 << 20))'"
    killed = await call(sandbox, root, command=bomb)
    assert (killed.is_error, killed.reason) == (True, "killed")
    assert "[killed: memory; all processes together may use 200 MiB]" in killed.text


async def test_detect_tries_every_level_and_says_why() -> None:
    capabilities = await detect()
    assert [capability.level for capability in capabilities] == list(Level)
    assert all(capability.why for capability in capabilities)
    assert capabilities[-1].is_available
    assert capabilities[0].is_available or bubblewrap.find() is None or "bwrap" in capabilities[0].why


async def test_none_has_to_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "find", lambda: None)
    monkeypatch.setattr(kernel, "landlock_abi", lambda: 0)
    with pytest.raises(Unavailable, match=r"bubblewrap: .*not installed; landlock: .*no Landlock") as refused:
        await choose("auto")
    assert "install bubblewrap" in refused.value.what_to_do
    assert "--sandbox none" in refused.value.what_to_do
    with pytest.raises(Unavailable):
        await choose("bubblewrap")
    assert (await choose("none")).level is Level.NONE


async def test_a_level_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidCommand) as refused:
        await choose("docker")
    assert refused.value.what_to_do == "choose one of: auto, bubblewrap, landlock, none"


async def test_auto_takes_the_best() -> None:
    available = [capability.level for capability in await detect() if capability.is_available]
    if available == [Level.NONE]:
        pytest.skip("this host can confine nothing")
    assert (await choose("auto")).level is available[0]


@pytest.mark.parametrize("level", LEVELS[3:])
async def test_without_confinement_the_same_attempts_succeed(sandbox: Sandbox, root: Path, outside: Path) -> None:
    """The negative control: it is the sandbox that the tests above measure."""
    holder = await asyncio.create_subprocess_exec("sleep", "60", env={"KEY": CANARY, "PATH": os.defpath})
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        reach = f": > /dev/tcp/127.0.0.1/{port} && echo reached"
        command = f"cat {outside}/secret; tr '\\0' ' ' < /proc/{holder.pid}/environ; {reach}"
        output = (await bash(sandbox, root, f"{command}; kill {holder.pid}")).output
    assert await holder.wait() != 0
    assert output.count(CANARY) == 2
    assert "reached" in output
