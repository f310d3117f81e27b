"""The process that starts commands. For each it forks a supervisor, which alone knows all that the command has started.

    executor --socket--> launcher --fork--> supervisor --fork, confine, exec--> command and its descendants

The executor never forks: it has threads, and a fork costs it 20 ms more than this. A request is one byte with three
descriptors: where the output goes, where the specification comes from (one line of JSON; its end, at any time, means
stop), and where the report goes (JSON). The executor's death is such an end, so commands never outlive it. Run as
`python -I -S launcher.py` with the socket as stdin; only the standard library is used.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from crewlog.tools import confine, processes
from crewlog.tools.confine import Spec

_FIRST_LOOK_SECONDS = 0.05
_LOOK_SECONDS = 0.1
_LOOK_OFTEN_SECONDS = 0.02
_NICE_MIN = -20


def serve(requests: socket.socket) -> None:
    """Until the executor closes its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        byte, descriptors, _, _ = socket.recv_fds(requests, 1, 3)
        if not byte:
            return
        if os.fork() == 0:
            requests.close()
            _supervise(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _supervise(output: int, control: int, report: int) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for descriptor in (output, control, report):
        os.set_inheritable(descriptor, False)
    processes.adopt_orphans()
    spec = _received(control)
    if spec is None:
        os._exit(0)
    scratch = tempfile.mkdtemp(prefix="crewlog-", dir=spec["scratch"])
    answer = _Supervisor(spec, output, control, scratch).run()
    os.close(output)
    with suppress(BrokenPipeError):
        os.write(report, json.dumps(answer).encode("ascii"))
    os.close(report)
    confine.remove(scratch)


def _received(control: int) -> Spec | None:
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(control, 65536)
        if not piece:
            return None
        line += piece
    spec: Spec = json.loads(line)
    return spec


class _Supervisor:
    """Watches one command: its time, its memory, the number of its processes; and ends all of it with its first one."""

    def __init__(self, spec: Spec, output: int, control: int, scratch: str) -> None:
        self._spec = spec
        self._limits = spec["limits"]
        self._output = output
        self._control = control
        self._scratch = scratch
        self._ending = "exited"
        self._exit_code: int | None = None
        self._kill_at = float("inf")
        self._wrapped = False
        self._exact: processes.SharedOut | None = None
        self._niceness = os.getpriority(os.PRIO_PROCESS, 0)

    def run(self) -> dict[str, Any]:
        started = time.monotonic()
        processes.run_at(_NICE_MIN)  # whoever watches must not wait behind what is watched
        told, tell = os.pipe()
        wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker)
        signal.signal(signal.SIGCHLD, _wake)
        self._child = self._start(tell)
        os.close(tell)
        facts = _facts_from(told)
        self._wrapped = facts.get("wrapped", False)
        if "error" not in facts:
            self._watch(started, wake)
        processes.kill_descendants(self._child)
        processes.run_at(self._niceness)
        return {"ending": self._ending, "exit_code": self._exit_code, "seconds": time.monotonic() - started, **facts}

    def _start(self, tell: int) -> int:
        child = os.fork()
        if child == 0:
            signal.set_wakeup_fd(-1)
            try:
                _become(self._spec, self._output, self._niceness, self._scratch, tell)
            except OSError as error:
                os.write(tell, json.dumps(confine.message_of(error)).encode() + b"\n")
            os._exit(127)
        return child

    def _watch(self, started: float, wake: int) -> None:
        deadline = started + self._limits["seconds"]
        look_at = started + _FIRST_LOOK_SECONDS
        listening = [wake, self._control]
        while not self._is_over():
            now = time.monotonic()
            if now >= self._kill_at:
                processes.kill_descendants(self._child)
                self._kill_at = float("inf")
            if now >= deadline:
                deadline = float("inf")
                self._stop("timed_out", now)
            if now >= look_at:
                look_at = now + self._look()
            self._listen(listening, min(look_at, deadline, self._kill_at) - now)

    def _listen(self, listening: list[int], seconds: float) -> None:
        ready, _, _ = select.select(listening, [], [], max(0.0, seconds))
        for descriptor in ready:
            if descriptor == self._control and not os.read(self._control, 1):
                listening.remove(self._control)
                self._stop("stopped", time.monotonic())
            elif descriptor != self._control:
                os.read(descriptor, 4096)

    def _is_over(self) -> bool:
        for pid, status in processes.reaped():
            if pid == self._child:
                self._exit_code = _exit_code(status)
        return self._exit_code is not None

    def _look(self) -> float:
        """Returns after how many seconds to look again: sooner when it is near a limit."""
        used = processes.usage()
        if used.threads > self._limits["processes"]:
            self._kill("too_many_processes")
        elif used.memory_bytes > self._limits["memory_bytes"] and self._is_too_much(used.pids):
            self._kill("out_of_memory")
        near = 4 * used.memory_bytes > self._limits["memory_bytes"] or 4 * used.threads > self._limits["processes"]
        return _LOOK_OFTEN_SECONDS if near else _LOOK_SECONDS

    def _is_too_much(self, pids: list[int]) -> bool:
        """Also counted exactly. While that takes long, their number is looked at in between."""
        if self._exact is None:
            self._exact = processes.SharedOut(pids)
        memory = self._exact.within(_LOOK_OFTEN_SECONDS)
        if memory is None:
            return False
        self._exact = None
        return memory > self._limits["memory_bytes"]

    def _stop(self, ending: str, now: float) -> None:
        """With grace: it may tidy up, and is killed if it does not end."""
        self._ending = ending
        self._kill_at = now + self._limits["grace_seconds"]
        processes.terminate_descendants(self._child if self._wrapped else None)

    def _kill(self, ending: str) -> None:
        self._ending = ending
        processes.kill_descendants(self._child)


def _wake(_number: int, _frame: object) -> None:
    """A handler has to exist for the wake-up descriptor to be written."""


def _facts_from(told: int) -> dict[str, Any]:
    """What the child says before the exec closes its end."""
    said = b""
    while piece := os.read(told, 4096):
        said += piece
    os.close(told)
    facts: dict[str, Any] = {}
    for line in said.splitlines():
        facts.update(json.loads(line))
    return facts


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _become(spec: Spec, output: int, niceness: int, scratch: str, tell: int) -> NoReturn:
    confine.own_session(output, niceness)
    confine.limit(spec["limits"])
    if spec["level"] == "bubblewrap":
        _become_bubblewrap(spec, tell)
    os.chdir(spec["root"])
    if spec["level"] == "landlock":
        _become_landlocked(spec, scratch, tell)
    processes.die_with_parent()
    confine.execute(spec["argv"], confine.temporary(spec, scratch))


def _become_bubblewrap(spec: Spec, tell: int) -> NoReturn:
    _tell(tell, wrapped=True)
    descriptors = {f"{{fd:{name}}}": str(number) for name, number in confine.files_of(spec).items()}
    confine.execute([descriptors.get(word, word) for word in spec["argv"]], spec["environment"])


def _become_landlocked(spec: Spec, scratch: str, tell: int) -> NoReturn:
    namespaced = spec["namespaces"]
    if namespaced:
        confine.enter_namespaces(network=spec["network"])
    _tell(tell, wrapped=namespaced)
    processes.die_with_parent()
    paths = [scratch]
    if namespaced:
        _become_first_process()
        confine.mount_own(spec)
        paths = ["/tmp", "/dev/shm"]
        os.chdir(spec["root"])
    environment = confine.temporary(spec, paths[0])
    confine.restrict(spec, paths, namespaced=namespaced)
    confine.execute(spec["argv"], environment)


def _become_first_process() -> None:
    """Goes on as the second process of a new space of processes, whose end is the end of all in it.

    The one before and the first one wait. The first one has to be ours: signals without a handler do not reach it.
    """
    for _ in range(2):
        child = os.fork()
        if child != 0:
            _wait_for(child)
        processes.die_with_parent()


def _wait_for(child: int) -> NoReturn:
    os.closerange(1, 256)
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(_exit_code(status))


def _tell(tell: int, **facts: bool) -> None:
    os.write(tell, json.dumps(facts).encode() + b"\n")


if __name__ == "__main__":
    listening = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    serve(listening)
