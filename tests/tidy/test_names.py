"""A file is found by what it does: no dumping grounds, and one import root without a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path, PurePath

Clean = Callable[[Iterable[str]], None]
DUMPING_GROUNDS = {"util", "utils", "common", "helper", "helpers", "misc", "shared", "lib"}
NAMESPACE_ROOTS = ("libs/crewlog/__init__.py", "services/crewlog/__init__.py")
SERVICES = ("gateway", "scheduler", "executor", "git")
SAME_HOUSE = ("README.md", "__main__.py", "config.py", "app.py")


def test_no_file_or_folder_is_a_dumping_ground(clean: Clean, files: list[str]) -> None:
    parts = {path: {part.split(".")[0].lower() for part in PurePath(path).parts} for path in files}
    clean([path for path, names in parts.items() if names & DUMPING_GROUNDS])


def test_the_import_root_is_a_namespace(clean: Clean, files: list[str]) -> None:
    clean([path for path in files if path in NAMESPACE_ROOTS])


def test_every_service_is_the_same_house(clean: Clean, root: Path) -> None:
    wanted = [f"services/crewlog/{service}/{name}" for service in SERVICES for name in SAME_HOUSE]
    clean([path for path in wanted if not (root / path).is_file()])
