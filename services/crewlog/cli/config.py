"""What the command takes from its environment. Nothing else in the command reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_FOR_EVERY_PROCESS = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "GOMEMLIMIT",
    "CREWLOG_FAILPOINTS",
)
_FOR_OUTGOING_CALLS = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True, slots=True)
class ModelAccess:
    """How the gateway gets at a model: a key, or a server that plays a script. Both empty: not at all."""

    api_key: str = ""
    base_url: str = ""
    model: str = ""


def data_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """CREWLOG_DATA_DIR, else `crewlog` below XDG_DATA_HOME or ~/.local/share."""
    named = environment.get("CREWLOG_DATA_DIR", "")
    if named:
        return Path(named).expanduser().absolute()
    share = environment.get("XDG_DATA_HOME", "") or "~/.local/share"
    return Path(share).expanduser().absolute() / "crewlog"


def user_files(environment: Mapping[str, str] = os.environ) -> Path:
    """Workflows and roles of the user: `crewlog` below XDG_CONFIG_HOME or ~/.config."""
    configuration = environment.get("XDG_CONFIG_HOME", "") or "~/.config"
    return Path(configuration).expanduser().absolute() / "crewlog"


def address(environment: Mapping[str, str] = os.environ) -> str:
    return environment.get("CREWLOG_ADDRESS", "")


def token(environment: Mapping[str, str] = os.environ) -> str:
    return environment.get("CREWLOG_TOKEN", "")


def editor(environment: Mapping[str, str] = os.environ) -> str:
    """The command line of the editor that the person likes best."""
    return environment.get("VISUAL", "") or environment.get("EDITOR", "") or "vi"


def may_colour(environment: Mapping[str, str] = os.environ) -> bool:
    return not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def completed_words(environment: Mapping[str, str] = os.environ) -> list[str] | None:
    """The words before the one that a shell completes; None where no shell has asked."""
    if not environment.get("_CREWLOG_COMPLETE", "").startswith("complete_"):
        return None
    number = environment.get("COMP_CWORD", "")
    if number.isdecimal():
        return environment.get("COMP_WORDS", "").split()[: int(number)]
    line = environment.get("_TYPER_COMPLETE_ARGS", "")
    words = line.split()
    return words if line.endswith(" ") else words[:-1]


def model_access(environment: Mapping[str, str] = os.environ) -> ModelAccess:
    """The key and the address as the `anthropic` package names them; CREWLOG_MODEL is the default model."""
    return ModelAccess(
        api_key=environment.get("ANTHROPIC_API_KEY", ""),
        base_url=environment.get("CREWLOG_MODEL_BASE_URL", "") or environment.get("ANTHROPIC_BASE_URL", ""),
        model=environment.get("CREWLOG_MODEL", ""),
    )


def inherited(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What every service inherits: how to find programs, language and collector, and no secret of ours."""
    return {
        name: value
        for name, value in environment.items()
        if name in _FOR_EVERY_PROCESS or name.startswith(("LC_", "OTEL_"))
    }


def inherited_for_outgoing_calls(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a process needs besides to reach the network: proxies and certificates."""
    return {name: value for name, value in environment.items() if name.upper() in _FOR_OUTGOING_CALLS}
