"""Makes the secrets of the platform in containers: one file of variables for each of them, and the client's token.

    python tools/containers/make_secrets.py [DIRECTORY]    default: .crewlog/containers

What is there is kept, so that the containers can be started again. Remove the directory to have new ones.
"""

from __future__ import annotations

import sys
from pathlib import Path

from crewlog.cli.launcher.credentials import Credentials, new_credentials
from crewlog.cli.launcher.environment import SERVICES
from crewlog.eventlog import nats_server
from crewlog.eventlog.permissions import USERS

LOG = "log"
TOKEN = "token"


def make(directory: Path) -> None:
    """Each file is for its owner alone, and holds what its container needs to know and nothing more secret."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    credentials = new_credentials(nats_server.new_passwords()["operator"], SERVICES, USERS)
    for name in SERVICES:
        _write(directory / f"{name}.env", _variables(credentials, name))
    _write(directory / f"{LOG}.env", nats_server.environment(credentials.log_passwords))
    operator = {"CREWLOG_NATS_USER": "operator", "CREWLOG_NATS_PASSWORD": credentials.log_passwords["operator"]}
    _write(directory / "operator.env", operator)
    _write_text(directory / TOKEN, credentials.client_token)


def _variables(credentials: Credentials, name: str) -> dict[str, str]:
    own = {
        "gateway": {
            "CREWLOG_CLIENT_TOKEN": credentials.client_token,
            "CREWLOG_CLAIM_VERIFY_KEY": credentials.claims.verify_key,
        },
        "scheduler": {"CREWLOG_CLAIM_SIGNING_KEY": credentials.claims.signing_key},
        "git": {"CREWLOG_CLAIM_VERIFY_KEY": credentials.claims.verify_key},
    }
    return {
        "CREWLOG_NATS_USER": name,
        "CREWLOG_NATS_PASSWORD": credentials.log_passwords[name],
        "CREWLOG_SERVICE_TOKEN": credentials.service_tokens[name],
        "CREWLOG_SERVICE_VERIFY_KEY": credentials.service_verify_key,
        **own.get(name, {}),
    }


def _write(path: Path, variables: dict[str, str]) -> None:
    # Single quotes keep the double ones that nats-server wants to read.
    _write_text(path, "".join(f"{name}='{value}'\n" for name, value in variables.items()))


def _write_text(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def main() -> int:
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else ".crewlog/containers")
    if not (directory / TOKEN).exists():
        make(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
