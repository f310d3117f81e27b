"""Generates libs/crewlog/v1 from protos/.

    python tools/generate_protos.py            writes the generated code
    python tools/generate_protos.py --check    fails when the committed code is stale

The directory of a proto is its package and its Python package, so the generated imports need no rewriting.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import grpc_tools  # type: ignore[import-untyped]
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = "crewlog/v1"
OUT = ROOT / "libs" / PACKAGE


def generate(out: Path) -> Path:
    """Writes the package below `out` and returns its directory; exits when protoc refuses."""
    scripts = Path(sys.executable).parent
    arguments = [
        f"-I{PROTOS}",
        f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
        *(f"--plugin=protoc-gen-{name}={scripts / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")),
        *(f"--{name}_out={out}" for name in ("python", "grpc_python")),
        *(f"--{name}_out=quiet:{out}" for name in ("mypy", "mypy_grpc")),
        *(str(path.relative_to(PROTOS)) for path in sorted(PROTOS.rglob("*.proto"))),
    ]
    if protoc.main(["protoc", *arguments]):
        raise SystemExit("protoc refused the protos: see above")
    package = out / PACKAGE
    (package / "__init__.py").write_text('"""Generated from protos/ by tools/generate_protos.py: do not edit."""\n')
    (package / "py.typed").touch()
    _drop_stubs_without_service(package)
    return package


def _drop_stubs_without_service(package: Path) -> None:
    for path in package.glob("*_pb2_grpc.py"):
        if "class " not in path.read_text():
            path.unlink()
            path.with_suffix(".pyi").unlink(missing_ok=True)


def _contents(package: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in package.iterdir() if path.is_file()}


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        fresh = generate(Path(directory))
        if "--check" not in sys.argv:
            shutil.rmtree(OUT, ignore_errors=True)
            shutil.copytree(fresh, OUT)
            return 0
        wanted, found = _contents(fresh), _contents(OUT)
    stale = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    for name in stale:
        print(f"stale: libs/{PACKAGE}/{name} (run `make protos`)")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
