"""Protos are documents: whoever calls a service finds there what the conversation is."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

MESSAGES, SERVICES, METHODS = 4, 6, 2


Clean = Callable[[Iterable[str]], None]


@pytest.fixture(scope="module")
def protos(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[FileDescriptorProto]:
    """All files of the package, with their comments."""
    out = tmp_path_factory.mktemp("protos") / "set.bin"
    names = sorted(path.relative_to(root / "protos") for path in (root / "protos").rglob("*.proto"))
    arguments = [f"-I{root / 'protos'}", "--include_source_info", f"--descriptor_set_out={out}"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments, *map(str, names)], check=True)
    return list(FileDescriptorSet.FromString(out.read_bytes()).file)


def _commented(file: FileDescriptorProto) -> set[tuple[int, ...]]:
    return {tuple(at.path) for at in file.source_code_info.location if at.leading_comments.strip()}


def test_every_file_has_a_head_comment(clean: Clean, root: Path) -> None:
    files = (root / "protos").rglob("*.proto")
    clean([path.name for path in files if not path.read_text().startswith("// ")])


def test_every_service_says_who_serves_it(clean: Clean, protos: list[FileDescriptorProto]) -> None:
    silent = [
        f"{file.name}: {service.name}"
        for file in protos
        for number, service in enumerate(file.service)
        if (SERVICES, number) not in _commented(file)
    ]
    clean(silent)


def test_every_rpc_or_its_request_says_what_it_does(clean: Clean, protos: list[FileDescriptorProto]) -> None:
    explained = {
        f".{file.package}.{message.name}"
        for file in protos
        for number, message in enumerate(file.message_type)
        if (MESSAGES, number) in _commented(file)
    }
    silent = [name for name, request, commented in _rpcs(protos) if not commented and request not in explained]
    clean(silent)


def _rpcs(protos: list[FileDescriptorProto]) -> Iterator[tuple[str, str, bool]]:
    for file in protos:
        for service_number, service in enumerate(file.service):
            for number, method in enumerate(service.method):
                path = (SERVICES, service_number, METHODS, number)
                yield f"{file.name}: {service.name}.{method.name}", method.input_type, path in _commented(file)


def test_every_event_has_a_line_in_the_catalogue(protos: list[FileDescriptorProto], root: Path) -> None:
    described = re.findall(r"^\| `(\w+)` \|", (root / "docs/events.md").read_text(), re.MULTILINE)
    assert described == _facts(protos)


def _facts(protos: list[FileDescriptorProto]) -> list[str]:
    """In the order of the catalogue."""
    messages: Any = {message.name: message for file in protos for message in file.message_type}
    return [field.name for field in messages["Event"].field]


def test_facts_are_named_after_their_messages(clean: Clean, protos: list[FileDescriptorProto]) -> None:
    messages: Any = {message.name: message for file in protos for message in file.message_type}
    named = {field.name: field.type_name.rpartition(".")[2] for field in messages["Event"].field}
    clean([name for name, kind in named.items() if name != re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()])
