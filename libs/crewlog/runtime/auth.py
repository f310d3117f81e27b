"""Who is calling: the local client by one secret token, services and claims by signed ones.

A signed token is a JWT with an Ed25519 signature. A service token names a service; a claim token names one task of one
run and the generation of its claim, and expires. Keys are 32 bytes in URL-safe base64, so that they fit a variable.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum

import jwt
from crewlog.domain.errors import NotAuthenticated, NotPermitted
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

AUTHORIZATION = "authorization"
CLAIM = "crewlog-claim"
CLIENT_PRINCIPAL = "local"
TOKEN_CHARACTERS_MAX = 4096
CACHED_TOKENS_MAX = 4096

_ALGORITHM = "EdDSA"
_SERVICE_AUDIENCE = "crewlog-services"
_CLAIM_AUDIENCE = "crewlog-claims"
_SECONDS_OF_5138 = 10**11


class Access(Enum):
    """Who may call a service."""

    OPEN = "nobody has to say who they are"
    CLIENT = "the client token, or a service token"
    SERVICE = "a service token; a claim token beside it is verified"
    CLAIM = "a service token and a claim token"


@dataclass(frozen=True, slots=True)
class Claim:
    run_id: str
    task_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Keypair:
    """Only the signing key is a secret."""

    signing_key: str
    verify_key: str


@dataclass(frozen=True, slots=True)
class Caller:
    principal: str
    claim: Claim | None = None


_caller: ContextVar[Caller] = ContextVar("caller")


def current_principal() -> str:
    """Who makes the call that is being served: `local`, or `service:<name>`."""
    return _caller.get().principal


def current_claim() -> Claim:
    """The claim under which the call is made; raises NotPermitted when it came without one."""
    claim = _caller.get().claim
    if claim is None:
        raise NotPermitted("this call needs a claim token", what_to_do=f"send the token of the grant as `{CLAIM}`")
    return claim


def enter(caller: Caller) -> None:
    """Makes this the caller for the rest of the task."""
    _caller.set(caller)


def new_keypair() -> Keypair:
    private = Ed25519PrivateKey.generate()
    secret = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return Keypair(_to_text(secret), _to_text(public))


def mint_service_token(signing_key: str, service: str) -> str:
    """Valid as long as the key that signed it: the launcher makes a new key at every start."""
    return _mint(signing_key, {"sub": f"service:{service}", "aud": _SERVICE_AUDIENCE})


def mint_claim_token(signing_key: str, run_id: str, task_id: str, generation: int, expires_at: int) -> str:
    """`expires_at` is in seconds since 1970, as in every JWT."""
    if expires_at > _SECONDS_OF_5138:
        raise ValueError(f"expires_at has to be in seconds, not {expires_at}")
    claims = {"run": run_id, "task": task_id, "gen": generation, "aud": _CLAIM_AUDIENCE, "exp": expires_at}
    return _mint(signing_key, claims)


def claim_metadata(token: str) -> tuple[tuple[str, str], ...]:
    """What a call under a claim sends."""
    return ((CLAIM, token),)


class Verifier:
    """Says who a call comes from. An empty token or key means that nobody can call in that way."""

    def __init__(self, client_token: str = "", service_verify_key: str = "", claim_verify_key: str = "") -> None:
        self._client_digest = _digest(client_token) if client_token else b""
        self._service_key = _verify_key(service_verify_key)
        self._claim_key = _verify_key(claim_verify_key)
        self._seen: OrderedDict[tuple[str, str], tuple[Mapping[str, object], float]] = OrderedDict()

    def identify(self, access: Access, metadata: Mapping[str, str | bytes]) -> Caller:
        """Raises NotAuthenticated for a missing or bad token, NotPermitted for a good one that may not do this."""
        if access is Access.OPEN:
            return Caller("")
        token = _bearer(metadata)
        if self._is_client(token):
            if access is not Access.CLIENT:
                raise NotPermitted("only services may call this", what_to_do="call the gateway's public services")
            return Caller(CLIENT_PRINCIPAL)
        principal = str(self._verified(token, self._service_key, _SERVICE_AUDIENCE, ("sub",))["sub"])
        return Caller(principal, self._claim(access, metadata))

    def _is_client(self, token: str) -> bool:
        return bool(self._client_digest) and hmac.compare_digest(_digest(token), self._client_digest)

    def _claim(self, access: Access, metadata: Mapping[str, str | bytes]) -> Claim | None:
        token = metadata.get(CLAIM)
        if token is None and access is not Access.CLAIM:
            return None
        claims = self._verified(str(token or ""), self._claim_key, _CLAIM_AUDIENCE, ("run", "task", "gen", "exp"))
        generation = claims["gen"]
        assert isinstance(generation, int)
        return Claim(str(claims["run"]), str(claims["task"]), generation)

    def _verified(
        self, token: str, key: Ed25519PublicKey | None, audience: str, required: tuple[str, ...]
    ) -> Mapping[str, object]:
        known = self._seen.get((audience, token))
        if known is not None and time.time() < known[1]:
            return known[0]
        claims = _decode(token, key, audience, required)
        expires_at = claims.get("exp", float("inf"))
        assert isinstance(expires_at, int | float)
        self._seen[audience, token] = (claims, expires_at)
        if len(self._seen) > CACHED_TOKENS_MAX:
            self._seen.popitem(last=False)
        return claims


def _decode(token: str, key: Ed25519PublicKey | None, audience: str, required: tuple[str, ...]) -> dict[str, object]:
    if key is None or not token or len(token) > TOKEN_CHARACTERS_MAX:
        raise _refusal(audience, "it is missing or cannot be verified here")
    try:
        claims: dict[str, object] = jwt.decode(
            token, key, algorithms=[_ALGORITHM], audience=audience, options={"require": ["aud", *required]}
        )
    except jwt.InvalidTokenError as error:
        raise _refusal(audience, type(error).__name__) from error
    return claims


def _refusal(audience: str, why: str) -> NotAuthenticated:
    if audience == _CLAIM_AUDIENCE:
        return NotAuthenticated(f"the claim token is not valid: {why}", what_to_do="use the token of the latest grant")
    return NotAuthenticated(
        f"the token is not valid: {why}",
        what_to_do="send `authorization: Bearer <token>`; `crewlog up` writes the token into its data directory",
    )


def _bearer(metadata: Mapping[str, str | bytes]) -> str:
    scheme, _, token = str(metadata.get(AUTHORIZATION, "")).partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _mint(signing_key: str, claims: dict[str, object]) -> str:
    key = Ed25519PrivateKey.from_private_bytes(base64.urlsafe_b64decode(signing_key))
    return jwt.encode({**claims, "iat": int(time.time())}, key, algorithm=_ALGORITHM)


def _verify_key(text: str) -> Ed25519PublicKey | None:
    return Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(text)) if text else None


def _to_text(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
