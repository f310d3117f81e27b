"""What the standard library cannot ask of Linux: namespaces, mounts, Landlock, a filter of system calls.

Only the standard library is used, and nothing here decides what a command may do: `confine` does. Every function raises
OSError when the kernel says no.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable
from pathlib import Path

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x20000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
CLONE_NEWCGROUP, CLONE_NEWUTS = 0x2000000, 0x4000000
_MS_REMOUNT, _MS_NOATIME, _MS_NODIRATIME, _MS_RELATIME, _ST_RELATIME = 32, 1024, 2048, 1 << 21, 4096
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 22, 24, 36, 38
_SECCOMP_MODE_FILTER = 2
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_RULE_PATH_BENEATH = 1
_FS_RIGHTS_OF_ABI = (0, 1 << 13, 1 << 14, 1 << 15, 1 << 15, 1 << 16)
_READ_RIGHTS = 1 << 0 | 1 << 2 | 1 << 3
_FILE_RIGHTS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
_NET_RIGHTS = 1 << 0 | 1 << 1
_SCOPES = 1 << 0 | 1 << 1

AF_UNIX, AF_VSOCK = 1, 40
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# The numbers of x86_64 and of aarch64.
_CLONE, _CLONE3, _SOCKET = (56, 220), (435, 435), (41, 198)
_DENIED = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    arguments = source.encode(), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags), options.encode()
    _check(_libc.mount(*arguments), f"mount {target}")


def mount_read_only(path: str) -> None:
    """What is mounted at `path`; the restrictions that it has already may not be taken away."""
    has = os.statvfs(path).f_flag
    kept = has & (MS_NOSUID | MS_NODEV | MS_NOEXEC | _MS_NOATIME | _MS_NODIRATIME)
    relative = _MS_RELATIME if has & _ST_RELATIME else 0
    mount("none", path, flags=_MS_REMOUNT | MS_BIND | MS_RDONLY | kept | relative)


def adopt_orphans() -> None:
    """From now on the descendants whose parent has died become children of this process."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "PR_SET_CHILD_SUBREAPER")


def die_with_parent() -> None:
    _check(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "PR_SET_PDEATHSIG")


def never_gain_privileges() -> None:
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")


def drop_capabilities_at_exec() -> None:
    """Needs privilege; without it there is nothing to drop."""
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            return


def landlock_abi() -> int:
    """0 where the kernel has no Landlock, or has it switched off."""
    abi: int = _libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    return max(0, abi)


def restrict_paths(read_only: Iterable[str], writable: Iterable[str], *, network: bool) -> None:
    """Landlock: from now on this process reads and writes below these paths only. Paths that do not exist are skipped.

    According to what the kernel knows, TCP and signals and abstract sockets of others are closed too.
    """
    abi = landlock_abi()
    rights = _FS_RIGHTS_OF_ABI[min(abi, len(_FS_RIGHTS_OF_ABI) - 1)] - 1
    net = _NET_RIGHTS if abi >= 4 and not network else 0
    scopes = _SCOPES if abi >= 6 else 0
    attributes = struct.pack("QQQ", rights, net, scopes)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    size = ctypes.c_size_t(len(attributes))
    ruleset = _check(_libc.syscall(_LANDLOCK_CREATE, attributes, size, ctypes.c_uint32(0)), "landlock_create_ruleset")
    for path in read_only:
        _allow(ruleset, path, _READ_RIGHTS & rights)
    for path in writable:
        _allow(ruleset, path, rights)
    _check(_libc.syscall(_LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0)), "landlock_restrict_self")
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        rights = rights if Path(path).is_dir() else rights & _FILE_RIGHTS
        rule = struct.pack("=Qi", rights, descriptor)
        arguments = ctypes.c_int(ruleset), ctypes.c_uint32(_RULE_PATH_BENEATH), rule, ctypes.c_uint32(0)
        _check(_libc.syscall(_LANDLOCK_ADD, *arguments), f"landlock_add_rule {path}")
    finally:
        os.close(descriptor)


def has_call_filter() -> bool:
    return platform.machine() in _ARCHITECTURES


def call_filter(denied_families: Iterable[int] | None) -> bytes:
    """A BPF program: no mounts, namespaces, modules, keys, io_uring; no sockets of these families, or (None) of any.

    io_uring would go past the filter; the clone of a namespace goes past `unshare`.
    """
    audit, column = _ARCHITECTURES[platform.machine()]
    code = _load(4) + _unless_equal(audit, errno.ENOSYS) + _load(0)
    if column == 0:
        code += _jump(0x35, 0x40000000, 0, 1) + _refuse(errno.ENOSYS)
    for numbers in _DENIED.values():
        code += _if_equal(numbers[column], _refuse(errno.EPERM))
    code += _if_equal(_CLONE3[column], _refuse(errno.ENOSYS))
    code += _if_equal(_CLONE[column], _load(16) + _jump(0x45, CLONE_NEWUSER, 0, 1) + _refuse(errno.EPERM) + _load(0))
    code += _if_equal(_SOCKET[column], _sockets(denied_families) + _load(0))
    return code + _return(0x7FFF0000)


def install_call_filter(code: bytes) -> None:
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    _check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0), "PR_SET_SECCOMP")


def _sockets(denied_families: Iterable[int] | None) -> bytes:
    if denied_families is None:
        return _refuse(errno.EACCES)
    return _load(16) + b"".join(_if_equal(family, _refuse(errno.EACCES)) for family in denied_families)


def _load(offset: int) -> bytes:
    return struct.pack("=HBBI", 0x20, 0, 0, offset)


def _jump(operation: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("=HBBI", operation, if_true, if_false, value)


def _if_equal(value: int, then: bytes) -> bytes:
    return _jump(0x15, value, 0, len(then) // 8) + then


def _unless_equal(value: int, number: int) -> bytes:
    return _jump(0x15, value, 1, 0) + _refuse(number)


def _refuse(number: int) -> bytes:
    return _return(0x00050000 | number)


def _return(value: int) -> bytes:
    return struct.pack("=HBBI", 0x06, 0, 0, value)
