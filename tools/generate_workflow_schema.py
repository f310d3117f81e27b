"""Generates the JSON Schema of workflow files from protos/crewlog/v1/workflow_file.proto, with its comments.

    python tools/generate_workflow_schema.py            writes the schema
    python tools/generate_workflow_schema.py --check    fails when the committed one is stale

It stands twice: in schemas/ for editors, and with the code, for `crewlog workflow schema`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc_tools  # type: ignore[import-untyped]
from crewlog.crews.compiling import KINDS
from crewlog.crews.plain import words_of
from crewlog.v1.workflow_file_pb2 import DESCRIPTOR, Form, WorkflowFile, form, required, short_for
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = "crewlog/v1/workflow_file.proto"
OUT = (ROOT / "schemas/workflow.schema.json", ROOT / "libs/crewlog/crews/workflow.schema.json")
DRAFT = "http://json-schema.org/draft-07/schema#"

_FORMS: dict[int, dict[str, Any]] = {
    Form.FORM_DURATION: {
        "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[0-9]{1,10} ?[smhd]?$"}]
    },
    Form.FORM_JSON: {"type": "object"},
    Form.FORM_USD: {"type": "number", "exclusiveMinimum": 0},
}
_TYPES: dict[int, dict[str, Any]] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_INT32: {"type": "integer"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "minimum": 0},
    FieldDescriptor.TYPE_UINT64: {"type": "integer", "minimum": 0},
}


def generate() -> str:
    """The schema, as the file holds it."""
    comments = _comments()
    messages = [message for message in DESCRIPTOR.message_types_by_name.values() if message.name != "RoleFile"]
    definitions = {message.name: _object(message, comments) for message in messages}
    definitions["NodeFile"]["anyOf"] = [{"required": [kind]} for kind in (*KINDS, "join")]
    whole = {"$schema": DRAFT, "title": "A workflow of Crewlog", **definitions.pop(WorkflowFile.DESCRIPTOR.name)}
    return json.dumps({**whole, "definitions": definitions}, indent=2, ensure_ascii=False) + "\n"


def _object(message: Any, comments: dict[str, str]) -> dict[str, Any]:
    needed = [field.name for field in message.fields if field.GetOptions().Extensions[required]]
    return {
        **_described(comments.get(message.name, "")),
        "type": "object",
        "properties": {
            field.name: {**_described(comments.get(f"{message.name}.{field.name}", "")), **_value(field)}
            for field in message.fields
        },
        **({"required": needed} if needed else {}),
        "additionalProperties": False,
    }


def _value(field: Any) -> dict[str, Any]:
    one = _one(field)
    return {"type": "array", "items": one} if field.is_repeated else one


def _one(field: Any) -> dict[str, Any]:
    if field.message_type is not None:
        whole = {"$ref": f"#/definitions/{field.message_type.name}"}
        short = field.message_type.GetOptions().Extensions[short_for]
        return {"anyOf": [_value(field.message_type.fields_by_name[short]), whole]} if short else {"allOf": [whole]}
    if field.enum_type is not None:
        return {"enum": list(words_of(field.enum_type))}
    return _FORMS.get(field.GetOptions().Extensions[form]) or _TYPES[field.type]


def _described(comment: str) -> dict[str, str]:
    return {"description": comment} if comment else {}


def _comments() -> dict[str, str]:
    """By message, and by message and field."""
    (file,) = (each for each in _descriptors().file if each.name == PROTO)
    found: dict[str, str] = {}
    for location in file.source_code_info.location:
        text = " ".join(location.leading_comments.split())
        match list(location.path):
            case [4, message] if text:
                found[file.message_type[message].name] = text
            case [4, message, 2, field] if text:
                owner = file.message_type[message]
                found[f"{owner.name}.{owner.field[field].name}"] = text
    return found


def _descriptors() -> FileDescriptorSet:
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "set"
        includes = (f"-I{ROOT / 'protos'}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}")
        if protoc.main(["protoc", *includes, "--include_source_info", f"--descriptor_set_out={out}", PROTO]):
            raise SystemExit("protoc refused the protos: see above")
        return FileDescriptorSet.FromString(out.read_bytes())


def stale(wanted: str) -> list[str]:
    """The files that say something else."""
    found = [path for path in OUT if not path.is_file() or path.read_text(encoding="utf-8") != wanted]
    return [str(path.relative_to(ROOT)) for path in found]


def main() -> int:
    wanted = generate()
    if "--check" in sys.argv:
        for name in stale(wanted):
            print(f"stale: {name} (run `python tools/generate_workflow_schema.py`)")
        return bool(stale(wanted))
    for path in OUT:
        path.parent.mkdir(exist_ok=True)
        path.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
