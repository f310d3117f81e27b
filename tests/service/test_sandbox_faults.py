"""Commands that do harm hurt only themselves: they end with all that they have started, and the model is told why.

At every level of the sandbox. Whoever runs them stays as small and as quick as before.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from pathlib import Path

import pytest
from crewlog.tools.command import CommandLimits, Ending
from crewlog.tools.registry import ToolAnswer, ToolContext, run_tool
from crewlog.tools.sandbox import Level, Sandbox

from tests.service.sandboxes import MIB, PYTHON, confined, every_level, names_in, running, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is only the level `none`")

CANCEL_STEPS_MAX = 12
GRACE_SECONDS = 0.3


def stubborn(mark: str) -> str:
    """Starts three processes that ignore SIGTERM: a child, one of a session of its own, and an orphan of another one.
    Each says that it lives, again and again."""
    return f"""{PYTHON} -ISc '
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
def live(name):
    while True:
        with open(name, "a") as file: file.write("x")
        time.sleep(0.01)
if os.fork() == 0:
    live("child")
if os.fork() == 0:
    os.setsid()
    live("session")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        live("orphan")
    os._exit(0)
live("parent")
' {mark}"""


NAMES = ["child", "orphan", "parent", "session"]


@every_level
async def test_fault_69_cancelling_ends_what_ignores_signals_and_forks_away(sandbox: Sandbox, root: Path) -> None:
    mark = f"mark-{os.getpid()}-69"
    limits = CommandLimits(grace_seconds=GRACE_SECONDS)
    context = ToolContext(root=root, sandbox=sandbox, limits=limits)
    given = json.dumps({"command": stubborn(mark)}).encode()
    call = asyncio.create_task(run_tool("bash", given, context))
    assert await until(lambda: names_in(root) == NAMES)
    began = time.monotonic()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert time.monotonic() - began < GRACE_SECONDS + 20
    assert not running(mark)


@every_level
async def test_fault_69_cancelling_at_any_moment_leaves_nothing_behind(sandbox: Sandbox, root: Path) -> None:
    """However far the start of the command has come."""
    mark = f"{os.getpid()}.690"
    await sandbox.run(["true"], root=root)
    await asyncio.sleep(0)  # the pipes of the first command are closed in the next turn of the loop
    descriptors = len(names_in(Path("/proc/self/fd")))
    for steps in range(CANCEL_STEPS_MAX):
        call = asyncio.create_task(sandbox.run(["sleep", mark], root=root, limits=CommandLimits(grace_seconds=0.1)))
        for _ in range(steps):
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert await until(lambda: not running(mark)), running(mark)
    assert await until(lambda: not supervisors(sandbox)), supervisors(sandbox)
    assert await until(lambda: len(names_in(Path("/proc/self/fd"))) <= descriptors)


def supervisors(sandbox: Sandbox) -> list[str]:
    """The processes that the launcher has forked."""
    process = sandbox._launcher._process
    assert process is not None
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


# What an executor does with a call. With the answers it tells how much larger it became, and for how long at most it
# did nothing else.
EXECUTOR = """
import asyncio, json, sys, time
from pathlib import Path
from crewlog.tools.command import CommandLimits
from crewlog.tools.registry import ToolContext, run_tool
from crewlog.tools.sandbox import Level, Sandbox

level, namespaces, root, command, seconds = json.loads(sys.argv[1])

def resident_mib(name):
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[name].split()[0]) / 1024

async def beat(pauses):
    last = time.monotonic()
    while True:
        await asyncio.sleep(0.01)
        last, before = time.monotonic(), last
        pauses.append(last - before)

async def main():
    sandbox = Sandbox(Level(level), namespaces=namespaces, scratch=Path(root))
    limits = CommandLimits(memory_bytes=200 << 20, processes=60, output_bytes=16 << 20, grace_seconds=0.1)
    context = ToolContext(root=Path(root), sandbox=sandbox, limits=limits)
    await run_tool("bash", b'{"command": "true"}', context)
    before, pauses = resident_mib("VmRSS"), []
    beating = asyncio.create_task(beat(pauses))
    answer = await run_tool("bash", json.dumps({"command": command, "timeout_seconds": seconds}).encode(), context)
    beating.cancel()
    after = await run_tool("bash", b'{"command": "echo well"}', context)
    await sandbox.close()
    told = {"reason": answer.reason, "text": answer.text[-200:], "after": after.text}
    print(json.dumps({**told, "grown_mib": resident_mib("VmHWM") - before, "pause": max(pauses)}))

asyncio.run(main())
"""
MEMORY = f"{PYTHON} -ISc 'b = []\nwhile True: b.append(bytearray(8 << 20))'"
# As many as show the limit, and no more: a bomb without an end would be everybody's if the limit did not hold.
FORKS = "for i in $(seq 400); do sleep 9 & done; wait"
GROWN_MIB_MAX = 48
PAUSE_SECONDS_MAX = 3.0
KILLED_SECONDS_MAX = 15.0


@every_level
@pytest.mark.parametrize(
    ("command", "reason", "why"),
    [
        pytest.param(MEMORY, "killed", "[killed: memory; all processes together may use 200 MiB]", id="memory"),
        pytest.param(f"{MEMORY} & {MEMORY} & wait", "killed", "[killed: memory;", id="memory of many"),
        pytest.param(FORKS, "killed", "[killed: too many processes; at most 60 are allowed]", id="forks"),
        pytest.param("cat /dev/zero | tr '\\0' x", "killed", "[killed: more than 16 MiB of output;", id="output"),
        pytest.param("trap '' TERM INT HUP; while :; do :; done", "timed_out", "[timed out after 1 s]", id="signals"),
    ],
)
async def test_fault_16_a_hog_hurts_only_itself(
    level: tuple[Level, bool], sandbox: Sandbox, root: Path, command: str, reason: str, why: str
) -> None:
    """The executor lives, has not grown, was never held up, and runs the next command; the model is told why."""
    given = json.dumps([level[0].value, level[1], str(root), command, 1 if reason == "timed_out" else 20])
    executor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", EXECUTOR, given, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await executor.communicate()
    assert executor.returncode == 0
    told = json.loads(printed)
    assert (told["reason"], told["after"]) == (reason, "well\n[exit code 0]")
    assert why in told["text"]
    assert told["grown_mib"] < GROWN_MIB_MAX
    assert told["pause"] < PAUSE_SECONDS_MAX
    assert await until(lambda: not names_in(root))


@every_level
async def test_fault_16_forks_of_a_large_process_are_counted_before_their_memory(sandbox: Sandbox, root: Path) -> None:
    """Measuring the memory of a process waits until it has forked, and among many that want to run that is long."""
    program = "import os, time\nkept = bytearray(b'x') * (30 << 20)\nfor _ in range(9): os.fork()\ntime.sleep(18)"
    limits = CommandLimits(memory_bytes=400 * MIB, processes=100, seconds=20)
    result = await sandbox.run([PYTHON, "-I", "-S", "-c", program], root=root, limits=limits)
    assert result.ending is Ending.TOO_MANY_PROCESSES
    assert result.seconds < KILLED_SECONDS_MAX


@confined
@pytest.mark.parametrize("network", [False, True])
async def test_commands_have_the_network_where_the_role_says_so(sandbox: Sandbox, root: Path, network: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        command = f"exec 3<>/dev/tcp/127.0.0.1/{server.getsockname()[1]} && read -r -u 3 line && echo heard $line"
        context = ToolContext(root=root, sandbox=sandbox, network=network)
        call = asyncio.create_task(run_tool("bash", json.dumps({"command": command}).encode(), context))
        if network:
            accepted, _ = await asyncio.to_thread(server.accept)
            with accepted:
                accepted.send(b"hello\n")
        answer = await call
        assert (answer == ToolAnswer("heard hello\n[exit code 0]")) == network
        if not network:
            server.settimeout(0.1)
            with pytest.raises(TimeoutError):
                server.accept()
