"""What a process does to itself, after the fork and before the exec, so that the command can do no harm.

Runs in a small process of its own (see `launcher`), never in the executor: that one has threads, and keys in memory.
Only the standard library is used.
"""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import socket
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypedDict

if sys.platform == "linux":
    from crewlog.tools import kernel

SYSTEM_PATHS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store")
ETC_PATHS = (
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/fonts",
    "/etc/group",
    "/etc/hosts",
    "/etc/java-17-openjdk",
    "/etc/java-21-openjdk",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/perl",
    "/etc/pki",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl",
    "/etc/timezone",
)
NETWORK_PATHS = ("/etc/resolv.conf", "/run/systemd/resolve")
_DEVICES = tuple(f"/dev/{name}" for name in ["full", "null", "random", "tty", "urandom", "zero"])
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_UID_INSIDE_FOR_ROOT = 1000
_NICER = 5
_NICE_MAX = 19
_MEMORY_MARGIN_BYTES = 1 << 30


class Limits(TypedDict):
    seconds: float
    grace_seconds: float
    memory_bytes: int
    processes: int
    open_files: int
    file_bytes: int
    temporary_bytes: int


class Spec(TypedDict):
    """One command, as the executor sends it. For bubblewrap `argv` is its command line, with `{fd:x}` for `files`."""

    level: str
    argv: list[str]
    environment: dict[str, str]
    root: str
    read_only_paths: list[str]
    network: bool
    namespaces: bool
    limits: Limits
    scratch: str
    files: dict[str, str]


def own_session(output: int, niceness: int) -> None:
    """No terminal, no input, one pipe for all that it prints; the first to die when memory is short, and the last to
    run when there is much to do."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    os.setpriority(os.PRIO_PROCESS, 0, min(niceness + _NICER, _NICE_MAX))


def limit(limits: Limits) -> None:
    """Limits of each process by itself; those of all together are the supervisor's.

    Memory may be more by a margin here, so that the supervisor sees it first and can say why it ended the command.
    """
    cpu = int(limits["seconds"] + limits["grace_seconds"] + 1) * (os.cpu_count() or 1)
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_DATA, limits["memory_bytes"] + _MEMORY_MARGIN_BYTES),
    ):
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def execute(argv: list[str], environment: dict[str, str]) -> NoReturn:
    for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(argv[0], argv, environment)


def temporary(spec: Spec, path: str) -> dict[str, str]:
    """The environment with a home and a place for temporary files below `path`."""
    home = Path(path) / "home"
    home.mkdir(mode=0o700, exist_ok=True)
    return {**spec["environment"], "HOME": str(home), "TMPDIR": path}


def enter_namespaces(*, network: bool) -> None:
    """Own users, processes and mounts, and without network an own, empty one. Raises OSError where that is refused."""
    uid, gid = os.getuid(), os.getgid()
    kinds = kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    kernel.unshare(kinds | (0 if network else kernel.CLONE_NEWNET))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid or _UID_INSIDE_FOR_ROOT} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid or _UID_INSIDE_FOR_ROOT} {gid} 1")
    if not network:
        _raise_loopback()


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        _, flags = struct.unpack("16sH14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def mount_own(spec: Spec) -> None:
    """Own /tmp, /dev/shm and /proc in place of the host's.

    Paths of the command that lie in /tmp stay, an outer one before an inner one; and since all of /tmp is writable by
    the rules of Landlock, those that are not the workspace are mounted read-only.
    """
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kept = sorted(path for path in {spec["root"], *spec["read_only_paths"]} if path.startswith("/tmp/"))
    descriptors = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in kept]
    size = f"size={spec['limits']['temporary_bytes']},mode=1777"
    for path in ("/tmp", "/dev/shm"):
        kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, size)
    for path, descriptor in descriptors:
        _bind_again(path, descriptor, read_only=path != spec["root"])
    with suppress(OSError):
        kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)


def _bind_again(path: str, descriptor: int, *, read_only: bool) -> None:
    if Path(f"/proc/self/fd/{descriptor}").is_dir():
        Path(path).mkdir(parents=True, exist_ok=True)
    else:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    kernel.mount(f"/proc/self/fd/{descriptor}", path, flags=kernel.MS_BIND | kernel.MS_REC)
    if read_only:
        kernel.mount_read_only(path)
    os.close(descriptor)


def restrict(spec: Spec, temporary_paths: Iterable[str], *, namespaced: bool) -> None:
    """Landlock and the filter of system calls: the last step, from which there is no way back."""
    kernel.never_gain_privileges()
    kernel.drop_capabilities_at_exec()
    read_only = [*SYSTEM_PATHS, *ETC_PATHS, "/proc", *spec["read_only_paths"]]
    read_only += NETWORK_PATHS if spec["network"] else ()
    kernel.restrict_paths(read_only, [spec["root"], *temporary_paths, *_DEVICES], network=spec["network"] or namespaced)
    has_network = spec["network"] or namespaced
    kernel.install_call_filter(kernel.call_filter((kernel.AF_UNIX, kernel.AF_VSOCK) if has_network else None))


def files_of(spec: Spec) -> dict[str, int]:
    """Makes the files that a command line names, in memory. They are inherited by the next exec."""
    descriptors: dict[str, int] = {}
    for name, content in spec["files"].items():
        descriptor = os.memfd_create(name, 0)
        os.write(descriptor, content.encode("latin-1"))
        os.lseek(descriptor, 0, os.SEEK_SET)
        descriptors[name] = descriptor
    return descriptors


def remove(path: str) -> NoReturn:
    """Ends this process by removing a directory, however deep its tree has become."""
    tool = shutil.which("rm", path="/bin:/usr/bin") or "/bin/rm"
    os.execv(tool, [tool, "-rf", "--", path])


def message_of(error: OSError) -> dict[str, Any]:
    return {"error": f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"}
