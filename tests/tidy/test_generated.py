"""The committed code is what the protos say, and import rules hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_generated_code_is_fresh(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "tools/generate_protos.py", "--check"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_imports_point_one_way(root: Path) -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
