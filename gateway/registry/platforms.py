"""An extension as calls need it: what a platform's key may do, and for whom it may speak."""

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any, Literal

from gateway.frozen import frozen
from gateway.keyring import Keyring, decrypt
from gateway.values import AgentId, KeyId, ServerId


@frozen
class Entra:
    """The one application of one Entra ID tenant whose tokens are believed."""

    tenant_id: str
    audience: str
    app_id: str
    issuers: tuple[str, ...]
    jwks_url: str


@frozen
class Extension:
    id: KeyId
    name: str
    type: str
    scopes: frozenset[str]
    server_id: ServerId
    agents: frozenset[AgentId]
    """Its list; agents created under it come on top."""
    named: Mapping[str, AgentId]
    """Agents created under it, by the platform's own id."""
    on_failure: Literal["block", "by_risk"]
    events_per_minute: int
    require_signature: bool
    keep_chat_history: bool
    entra: Entra | None
    signing_secret: bytes = field(repr=False)


def sealing_context(extension_id: str) -> bytes:
    return f"extension/{extension_id}".encode()


def extension(row: Any, named: Iterable[Any], keyring: Keyring) -> Extension:
    """From its row and its agents' rows."""
    secret = decrypt(keyring.data, row.signing_sealed, sealing_context(row.id))
    return Extension(
        id=KeyId(row.id),
        name=row.name,
        type=row.type,
        scopes=frozenset(row.scopes),
        server_id=ServerId(row.server_id),
        agents=frozenset(map(AgentId, row.agents)),
        named={one.external_id: AgentId(one.agent_id) for one in named},
        on_failure=row.on_failure,
        events_per_minute=row.events_per_minute,
        require_signature=row.require_signature,
        keep_chat_history=row.keep_chat_history,
        entra=None if row.entra is None else _entra(row.entra),
        signing_secret=secret,
    )


def _entra(stored: Mapping[str, Any]) -> Entra:
    return Entra(**{**stored, "issuers": tuple(stored["issuers"])})
