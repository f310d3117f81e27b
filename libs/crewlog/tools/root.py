"""The confined view of a workspace: nothing outside of its root is ever opened, listed or changed.

A path is resolved one component at a time, from one open directory to the next, and no component is followed by the
kernel: a symbolic link is read and its target walked by the same rule. So replacing a directory by a link while a tool
runs changes what is refused, never what is reached. Only the standard library is used: the search worker imports this.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from crewlog.tools.answers import DENIED, FAILED, NotDone, shown
from crewlog.tools.limits import LINKS_MAX, PATH_CHARACTERS_MAX

_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_NOT_A_PLAIN_DIRECTORY = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)


@dataclass(frozen=True, slots=True)
class Place:
    """A resolved path: an open directory, the last name in it (empty for the root), and the way from the root."""

    directory: int
    name: str
    parts: tuple[str, ...]

    @property
    def shown(self) -> str:
        return shown("/".join(self.parts)) or "."


class Root:
    """The files below one directory, which has to exist."""

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))

    @property
    def path(self) -> Path:
        return self._path

    @contextmanager
    def resolve(self, path: str) -> Generator[Place, None, None]:
        """The place that `path` names; its last name need not exist. Raises NotDone for whatever leads out."""
        walk = _Walk(self._path, _parts_of(path, self._path))
        try:
            yield walk.run()
        finally:
            walk.close()

    @contextmanager
    def resolve_for_writing(self, path: str, *, make_directories: bool = False) -> Generator[Place, None, None]:
        """The same for a file that a tool may change: not the root, and nothing of git's own."""
        walk = _Walk(self._path, _parts_of(path, self._path), make_directories=make_directories, for_writing=True)
        try:
            yield walk.run()
        finally:
            walk.close()

    @contextmanager
    def open_file(self, path: str) -> Generator[tuple[int, os.stat_result, Place], None, None]:
        """An open descriptor of a regular file. A pipe, a device or a directory is refused without being touched."""
        with self.resolve(path) as place, open_place(place) as (descriptor, info):
            yield descriptor, info, place


@contextmanager
def open_place(place: Place) -> Generator[tuple[int, os.stat_result], None, None]:
    """Opens the regular file at `place` for reading. Raises NotDone."""
    try:
        descriptor = _opened(place)
    except OSError as error:
        raise NotDone(FAILED, f"{place.shown}: {reason_of(error)}") from error
    try:
        info = os.fstat(descriptor)
        _check_regular(info, place)
        yield descriptor, info
    finally:
        os.close(descriptor)


def _opened(place: Place) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    _check_regular(os.stat(place.name or ".", dir_fd=place.directory, follow_symlinks=False), place)
    return os.open(place.name, flags, dir_fd=place.directory)


def _check_regular(info: os.stat_result, place: Place) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise NotDone(FAILED, f"{place.shown} is a directory: use glob to list it")
    if not stat.S_ISREG(info.st_mode):
        raise NotDone(DENIED, f"{place.shown} is not a regular file (it is a pipe, a socket or a device)")


def _parts_of(path: str, root: Path) -> list[str]:
    _check_text(path)
    if path.startswith("/"):
        path = _below(path, root)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise NotDone(DENIED, f"{shown(path)}: '..' is not allowed; paths are relative to the root of the workspace")
    return parts


def _check_text(path: str) -> None:
    if len(path) > PATH_CHARACTERS_MAX:
        raise NotDone(DENIED, f"the path has {len(path)} characters; at most {PATH_CHARACTERS_MAX} are allowed")
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise NotDone(DENIED, f"{shown(path)}: control characters are not allowed in a path")
    if any(0xD800 <= ord(character) <= 0xDFFF for character in path):
        raise NotDone(DENIED, f"{shown(path)}: the path is not valid Unicode")


def _below(path: str, root: Path) -> str:
    if path == str(root) or path.startswith(f"{root}/"):
        return path[len(str(root)) :]
    raise NotDone(DENIED, f"{shown(path)} is outside of the workspace; paths are relative to its root")


class _Walk:
    """One resolution: a stack of open directories, the first one the root. `..` of a link goes down the stack."""

    def __init__(
        self, root: Path, parts: list[str], *, make_directories: bool = False, for_writing: bool = False
    ) -> None:
        self._root = root
        self._asked = "/".join(parts)
        self._ahead = list(reversed(parts))
        self._names: list[str] = []
        self._open: list[int] = []
        self._links = 0
        self._make_directories = make_directories
        self._for_writing = for_writing

    def run(self) -> Place:
        try:
            return self._run()
        except OSError as error:
            raise NotDone(FAILED, f"{shown(self._asked) or '.'}: {reason_of(error)}") from error

    def _run(self) -> Place:
        self._open.append(os.open(self._root, _DIRECTORY))
        while self._ahead:
            name = self._ahead.pop()
            if name == "..":
                self._up()
            elif self._ahead:
                self._into(name)
            elif not self._follow(name):
                self._check_writable(name)
                return Place(self._open[-1], name, (*self._names, name))
        return self._directory_itself()

    def close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)

    def _directory_itself(self) -> Place:
        if not self._for_writing:
            return Place(self._open[-1], "", tuple(self._names))
        raise NotDone(FAILED, f"{shown(self._asked) or '.'} is a directory; name a file")

    def _into(self, name: str) -> None:
        self._check_writable(name)
        try:
            descriptor = self._open_directory(name)
        except OSError as error:
            if error.errno not in _NOT_A_PLAIN_DIRECTORY or not self._follow(name):
                raise
            return
        self._open.append(descriptor)
        self._names.append(name)

    def _open_directory(self, name: str) -> int:
        if self._make_directories:
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=self._open[-1])
        return os.open(name, _DIRECTORY, dir_fd=self._open[-1])

    def _follow(self, name: str) -> bool:
        """Puts the target of a link ahead; False if `name` is no link."""
        try:
            target = os.readlink(name, dir_fd=self._open[-1])
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return False
            raise
        self._count_link()
        if target.startswith("/"):
            target = self._back_to_root(target)
        self._ahead.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
        return True

    def _count_link(self) -> None:
        self._links += 1
        if self._links > LINKS_MAX:
            raise NotDone(DENIED, f"{shown(self._asked)} goes through more than {LINKS_MAX} symbolic links")

    def _back_to_root(self, target: str) -> str:
        if target != str(self._root) and not target.startswith(f"{self._root}/"):
            raise self._leads_out()
        while len(self._open) > 1:
            self._up()
        return target[len(str(self._root)) :]

    def _up(self) -> None:
        if len(self._open) == 1:
            raise self._leads_out()
        os.close(self._open.pop())
        self._names.pop()

    def _leads_out(self) -> NotDone:
        return NotDone(DENIED, f"{shown(self._asked)} leads out of the workspace through a symbolic link")

    def _check_writable(self, name: str) -> None:
        if self._for_writing and is_gits_own(name):
            raise NotDone(DENIED, f"{shown(self._asked)}: the files of git cannot be changed through this tool")


def reason_of(error: OSError) -> str:
    """What the system says, in words that can be shown."""
    return (error.strerror or str(error)).lower()


def is_gits_own(name: str) -> bool:
    """Whether some file system takes `name` for `.git`: in other case, with trailing dots, or by its short name."""
    plain = "".join(character for character in name if character.isprintable()).casefold().rstrip(". ")
    return plain in (".git", "git~1") or plain.startswith(".git:")
