"""Roles and workflows, in files that people read, copy and change. The built-in ones stand beside this file.

A name is looked up in the given directories first, each with `roles/NAME.md` and `workflows/NAME.yaml` in it.
"""

from __future__ import annotations

from crewlog.crews.loader import available_workflows, load_role, load_workflow

__all__ = ["available_workflows", "load_role", "load_workflow"]
