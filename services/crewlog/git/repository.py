"""Runs git. Nothing else in this service starts a process.

Every command names its repository, gets its own process group, a time limit and an output limit, and sees none of the
environment and configuration of whoever started the service. Settings stand in one file of ours, because git hands the
path of that file, but no `-c`, to the `git upload-pack` that it starts in the repository it fetches from. In somebody
else's repository the same settings are given as `-c` too, where they win over what its configuration says.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from crewlog.domain.errors import TooLarge, Unavailable, WrongState
from crewlog.runtime import failpoints, requirements

Argument = str | bytes | Path

COMMAND_SECONDS_MAX = 300.0
OUTPUT_BYTES_MAX = 64 * 1024 * 1024
ERROR_BYTES_MAX = 64 * 1024
LOCK_SECONDS_MAX = 2 * COMMAND_SECONDS_MAX

SETTINGS: Mapping[str, str] = {
    "advice.addEmbeddedRepo": "false",
    "commit.gpgSign": "false",
    "core.alternateRefsCommand": "true",
    "core.attributesFile": "/dev/null",
    "core.autocrlf": "false",
    "core.editor": "false",
    "core.excludesFile": "/dev/null",
    "core.fsmonitor": "false",
    "core.fsync": "all,-index",  # an index that was lost is made again from the files
    "core.hooksPath": "/dev/null",
    "core.safecrlf": "false",
    "core.splitIndex": "false",
    "core.sshCommand": "false",
    "core.untrackedCache": "false",
    "credential.helper": "",
    "fetch.fsckObjects": "false",
    "fetch.prune": "false",
    "fetch.pruneTags": "false",
    "fetch.recurseSubmodules": "false",
    "fetch.writeCommitGraph": "false",
    "gc.auto": "0",
    "i18n.commitEncoding": "UTF-8",
    "init.defaultBranch": "main",
    "maintenance.auto": "false",
    "protocol.allow": "never",
    "protocol.ext.allow": "never",
    "protocol.file.allow": "always",
    "protocol.version": "2",
    "safe.directory": "*",
    "submodule.recurse": "false",
}

_IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Crewlog"), ("EMAIL", "crewlog@localhost"))
}
_PASSING = ("No space left on device", "Disk quota exceeded", ".lock': File exists", "Too many open files")
_HELD_LOCK = re.compile(r"Unable to create '(.+\.lock)': File exists")


class GitFailed(WrongState):
    """git ended with a status that its caller did not expect: a damaged repository, something in the way, or a bug."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended. `truncated` says that the output went over its limit, and git was stopped."""

    code: int
    out: bytes
    err: str
    truncated: bool = False

    @property
    def text(self) -> str:
        return self.out.decode(errors="backslashreplace").strip()

    @property
    def fields(self) -> list[bytes]:
        """The output of `-z`, without the empty end."""
        return self.out.split(b"\0")[:-1]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command works: the repository, and the files and the index that it uses instead of the repository's."""

    git_dir: Path | None = None
    work_tree: Path | None = None
    index: Path | None = None
    cwd: Path | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    seconds: float = COMMAND_SECONDS_MAX
    output_bytes: int = OUTPUT_BYTES_MAX
    truncate: bool = False


class Git:
    """The program with our settings. `home` is the directory of the service, where the file of settings is written."""

    def __init__(self, home: Path, search_path: str) -> None:
        executable = shutil.which("git", path=search_path)
        if executable is None:
            raise Unavailable("git is not installed", what_to_do=f"install {requirements.GIT}")
        self._executable = executable
        self._home = home
        self._environment = _environment(home, search_path)
        home.mkdir(parents=True, exist_ok=True)
        write_file(home / "gitconfig", _settings_text().encode())

    def check_version(self) -> None:
        """Raises Unavailable for a git that is too old."""
        answer = self.run(["version"], Place()).text
        if not requirements.is_new_enough(answer):
            raise Unavailable(f"{answer!r} is too old", what_to_do=f"install {requirements.GIT}")

    def run(
        self,
        arguments: Sequence[Argument],
        place: Place,
        *,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
        limits: Limits = Limits(),
    ) -> Finished:
        """Runs to the end, whatever the status. Raises Unavailable and TooLarge over the limits."""
        options: list[Argument] = [f"--git-dir={place.git_dir}"] if place.git_dir else []
        options += [f"--work-tree={place.work_tree}"] if place.work_tree else []
        options += [word for name, value in (settings or {}).items() for word in ("-c", f"{name}={value}")]
        variables = {**self._environment, **(environment or {})}
        if place.index is not None:
            variables["GIT_INDEX_FILE"] = str(place.index)
        with (
            failpoints.around(f"git.{arguments[0]!s}"),
            _input(stdin) as source,
            self._start([*options, *arguments], place, variables, source) as process,
        ):
            try:
                return _collect(process, arguments, limits)
            finally:
                _kill(process)

    def _start(
        self, words: Sequence[Argument], place: Place, variables: Mapping[str, str], source: IO[bytes] | int
    ) -> subprocess.Popen[bytes]:
        directory = place.work_tree or place.cwd or self._home
        try:
            return subprocess.Popen(
                [self._executable, *words],
                cwd=directory,
                env=variables,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise WrongState(f"{directory} is no directory that can be worked in") from error


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository by its git directory. `settings` are given as `-c` too: for a repository that is not ours."""

    git: Git
    git_dir: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        return not self.settings

    def run(
        self,
        *arguments: Argument,
        work_tree: Path | None = None,
        index: Path | None = None,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        accept: Sequence[int] = (0,),
        limits: Limits = Limits(),
    ) -> Finished:
        """Raises GitFailed for a status that is not in `accept`; else as Git.run."""
        place = Place(self.git_dir, work_tree, index)
        for is_last in (False, True):
            finished = self.git.run(
                arguments, place, stdin=stdin, environment=environment, settings=self.settings, limits=limits
            )
            if finished.truncated or finished.code in accept:
                return finished
            if is_last or not self._drop_stale_lock(finished.err):
                break
        raise _failure(arguments, finished)

    def _drop_stale_lock(self, err: str) -> bool:
        """A lock that outlived the longest command was left by a git that was killed. Only ours are ever removed."""
        held = _HELD_LOCK.search(err)
        if held is None or not self.is_ours or not Path(held[1]).is_relative_to(self.git_dir):
            return False
        try:
            if time.time() - Path(held[1]).stat().st_mtime < LOCK_SECONDS_MAX:
                return False
        except FileNotFoundError:
            return True
        Path(held[1]).unlink(missing_ok=True)
        return True


def foreign(git: Git, git_dir: Path) -> Repository:
    """A repository whose configuration must not steer us."""
    return Repository(git, git_dir, SETTINGS)


def write_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replaces a file as a whole: a reader finds the old content or the new; so does a crash, where it is durable."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(content)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    with failpoints.around(f"file.{path.name}"):
        Path(file.name).replace(path)


def _environment(home: Path, search_path: str) -> dict[str, str]:
    return {
        "PATH": search_path,
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "LC_ALL": "C",
        "GIT_ALLOW_PROTOCOL": "file",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_DEFAULT_REF_FORMAT": "files",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        **_IDENTITY,
    }


def _settings_text() -> str:
    lines = []
    for name, value in SETTINGS.items():
        section, _, rest = name.partition(".")
        subsection, _, key = rest.rpartition(".")
        lines.append(f'[{section} "{subsection}"]' if subsection else f"[{section}]")
        lines.append(f'\t{key} = "{value}"')
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def _input(content: bytes) -> Iterator[IO[bytes] | int]:
    """A file instead of a pipe: git may answer before it has read everything."""
    if not content:
        yield subprocess.DEVNULL
        return
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield file


def _collect(process: subprocess.Popen[bytes], arguments: Sequence[Argument], limits: Limits) -> Finished:
    deadline = time.monotonic() + limits.seconds
    assert process.stdout is not None and process.stderr is not None
    out, err = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, out)
        selector.register(process.stderr, selectors.EVENT_READ, err)
        while selector.get_map():
            for key, _ in selector.select(_left(deadline, arguments)):
                part = os.read(key.fd, 1 << 16)
                key.data.extend(part)
                if not part:
                    selector.unregister(key.fileobj)
            del err[:-ERROR_BYTES_MAX]
            if len(out) > limits.output_bytes:
                return _over(bytes(out[: limits.output_bytes]), arguments, limits)
    try:
        code = process.wait(_left(deadline, arguments))
    except subprocess.TimeoutExpired:
        raise _took_too_long(arguments) from None
    return Finished(code, bytes(out), err.decode(errors="backslashreplace"))


def _left(deadline: float, arguments: Sequence[Argument]) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise _took_too_long(arguments)
    return left


def _failure(arguments: Sequence[Argument], finished: Finished) -> GitFailed | Unavailable:
    lines = [line for line in finished.err.splitlines() if line] or [f"exit status {finished.code}"]
    said = next((line for line in lines if line.startswith(("fatal: ", "error: "))), lines[-1])
    message = f"git {arguments[0]!s}: {said[:500]}"
    if any(passing in finished.err for passing in _PASSING):
        return Unavailable(message, what_to_do="make room on the disk, or wait for what is being done there")
    return GitFailed(message, what_to_do="try the same by hand: git says more")


def _took_too_long(arguments: Sequence[Argument]) -> Unavailable:
    return Unavailable(f"git {arguments[0]!s} took too long and was stopped", what_to_do="try again")


def _over(out: bytes, arguments: Sequence[Argument], limits: Limits) -> Finished:
    if limits.truncate:
        return Finished(0, out, "", truncated=True)
    raise TooLarge(f"git {arguments[0]!s} answers more than {limits.output_bytes} bytes")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The whole group: git starts programs of its own."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
