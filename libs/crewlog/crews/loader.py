"""Reads roles and workflows. Whatever is wrong in a file is said with its place, the field and the way out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crewlog.crews import placing
from crewlog.crews.compiling import Compiler, Library
from crewlog.crews.filling import Source, fill
from crewlog.crews.findings import invalid, way_out
from crewlog.crews.strict_yaml import parse, read_text
from crewlog.crews.versions import with_version
from crewlog.domain.errors import InvalidCommand, NotFound
from crewlog.domain.workflow import roles
from crewlog.domain.workflow import validation as rules
from crewlog.v1.run_pb2 import AgentLimits, Role, Workflow
from crewlog.v1.workflow_file_pb2 import RoleFile, WorkflowFile

BUILT_IN = Path(__file__).parent

SUFFIXES = (".yaml", ".yml", ".json")


_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?")
_FRONT_MATTER = re.compile(r"---\n(.*?)\n---\n(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Found:
    """A workflow that there is by its name."""

    name: str
    path: Path
    directory: Path


def load_workflow(name_or_path: str, directories: Sequence[Path] = ()) -> Workflow:
    """A workflow by its name, or from a file when the path of one is given; with its roles in full.

    Raises NotFound that says what there is, or InvalidFile that names the file, the place and the field.
    """
    is_path = name_or_path.endswith(SUFFIXES)
    path = Path(name_or_path).expanduser() if is_path else _find("workflow", name_or_path, directories)
    if not path.is_file():
        raise NotFound(f"there is no workflow file {name_or_path!r}", what_to_do="check the path")
    return _Reading(directories).workflow(path)


def load_role(name: str, directories: Sequence[Path] = ()) -> Role:
    """A role by its name. Raises as `load_workflow` does."""
    return _role(_find("role", name, directories), name)


def available_workflows(directories: Sequence[Path] = ()) -> list[str]:
    """The names that `load_workflow` knows."""
    return _names("workflow", directories)


def found_workflows(directories: Sequence[Path] = ()) -> list[Found]:
    """Those names, and the files that `load_workflow` would read."""
    return [
        Found(path.stem, path, directory)
        for name in available_workflows(directories)
        for path, directory in _candidates("workflow", name, directories)[:1]
    ]


@dataclass
class _Reading:
    """One reading of a workflow with everything that it names; each file is read once."""

    directories: Sequence[Path]
    roles: dict[str, Role] = field(default_factory=dict)
    workflows: dict[Path, Workflow] = field(default_factory=dict)
    within: list[Path] = field(default_factory=list)

    def workflow(self, path: Path) -> Workflow:
        path_itself = path.resolve()
        if path_itself not in self.workflows:
            self.within.append(path_itself)
            self.workflows[path_itself] = self._workflow(path)
            self.within.pop()
        return self.workflows[path_itself]

    def _workflow(self, path: Path) -> Workflow:
        source = Source(str(path))
        file = fill(WorkflowFile, parse(read_text(path), str(path)), source)
        certain = source.settle()
        workflow = Compiler(source, Library(self._role, self._named)).workflow(file, path.stem)
        if len(workflow.nodes) == len(file.nodes):
            source.settle()
            placing.refuse_all(rules.violations_of(workflow, certain=certain), file, source)
        source.check()
        return with_version(workflow)

    def _role(self, name: str) -> Role:
        if name not in self.roles:
            self.roles[name] = load_role(name, self.directories)
        return self.roles[name]

    def _named(self, name: str) -> Workflow:
        path = _find("workflow", name, self.directories)
        if path.resolve() in self.within:
            names = " > ".join(each.stem for each in self.within)
            raise InvalidCommand(f"it contains itself ({names} > {name}); a way back is an edge with `visits_max`")
        if len(self.within) >= rules.DEPTH_MAX:
            raise InvalidCommand(f"it is more than {rules.DEPTH_MAX} workflows deep; put its nodes here instead")
        return self.workflow(path)


def _role(path: Path, name: str) -> Role:
    parts = _FRONT_MATTER.fullmatch(read_text(path))
    if parts is None:
        raise invalid(str(path), None, "file", "has to begin with a block of fields between two lines of '---'")
    source = Source(str(path))
    file = fill(RoleFile, parse(parts[1] or "{}", str(path), line=2), source)
    source.check()
    role = Role(
        name=name,
        prompt=parts[2].strip(),
        model=file.model,
        cheaper_model=file.cheaper_model,
        tools=file.tools,
        limits=_limits(file),
        network=file.network,
        on_unknown=file.on_unknown,
    )
    for field_name, why in roles.violations("", role):
        source.refuse(field_name.replace("limits.", ""), why)
    source.check()
    return with_version(role)


def _limits(file: RoleFile) -> AgentLimits:
    return AgentLimits(**{limit.name: getattr(file, limit.name) for limit in AgentLimits.DESCRIPTOR.fields})


_FOLDERS = {"workflow": ("workflows", ".yaml"), "role": ("roles", ".md")}


def _find(kind: str, name: str, directories: Sequence[Path]) -> Path:
    candidates = _candidates(kind, name, directories)
    if candidates:
        return candidates[0][0]
    raise NotFound(f"there is no {kind} {name[:80]!r}", what_to_do=way_out(name, _names(kind, directories)))


def _candidates(kind: str, name: str, directories: Sequence[Path]) -> list[tuple[Path, Path]]:
    """A name is a name: neither it nor a link leads out of the directories, which may be a repository's."""
    folder, suffix = _FOLDERS[kind]
    places = [(directory / folder / (name + suffix), directory) for directory in (*directories, BUILT_IN)]
    return [
        (path, directory)
        for path, directory in (places if _NAME.fullmatch(name) else ())
        if path.is_file() and path.resolve().is_relative_to(directory.resolve())
    ]


def _names(kind: str, directories: Sequence[Path]) -> list[str]:
    folder, suffix = _FOLDERS[kind]
    paths = (path for directory in (*directories, BUILT_IN) for path in (directory / folder).glob(f"*{suffix}"))
    return sorted({path.stem for path in paths if _NAME.fullmatch(path.stem)})
