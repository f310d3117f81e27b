"""The secrets of one start: made anew each time, kept in memory, given to each process as far as it needs them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from crewlog.runtime import auth


@dataclass(frozen=True, slots=True)
class Credentials:
    client_token: str
    service_tokens: dict[str, str]
    service_verify_key: str
    claims: auth.Keypair
    log_passwords: dict[str, str]


def new_credentials(client_token: str, services: Iterable[str], log_users: Iterable[str]) -> Credentials:
    """The key that signs service tokens is forgotten at once."""
    keys = auth.new_keypair()
    return Credentials(
        client_token=client_token,
        service_tokens={name: auth.mint_service_token(keys.signing_key, name) for name in services},
        service_verify_key=keys.verify_key,
        claims=auth.new_keypair(),
        log_passwords={user: secrets.token_urlsafe(24) for user in log_users},
    )
