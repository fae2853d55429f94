"""An administrator's consent that the gateway may use a server: asked for, given, renewed, lost.

The browser brings back a `state` that is known by its SHA-256 only and counts once. The tokens
lie encrypted, bound to their server, and are never shown.
"""

import hashlib
import secrets
from base64 import urlsafe_b64encode
from dataclasses import field
from typing import Any
from urllib.parse import urlencode

import orjson
from sqlalchemy import Connection, Row, insert, select, update

from gateway.clock import after, seconds_between
from gateway.frozen import frozen
from gateway.keyring import Keyring, decrypt, encrypt
from gateway.oauth import OAuthClient
from gateway.registry import servers
from gateway.registry.core import Change
from gateway.registry.credentials import unseal
from gateway.registry.faults import Conflict, Forbidden
from gateway.store import tables
from gateway.values import Server

MINUTES = 10
"""For a person to log in and consent."""
_c = tables.consents.c


@frozen
class Granted:
    """What a token endpoint gave (RFC 6749, section 5.1)."""

    access_token: str = field(repr=False)
    seconds: float
    refresh_token: str | None = field(repr=False)
    scope: str | None


@frozen
class Kept:
    """A consent's tokens, as they lie here."""

    access_token: str = field(repr=False)
    seconds: float
    """For how long the access token still holds; not positive once it does not."""
    refresh_token: str | None = field(repr=False)


@frozen
class Claimed:
    """A `state` that came back, spent by coming back."""

    server_id: str
    verifier: str = field(repr=False)


def ask(change: Change, server_id: str, redirect_uri: str) -> tuple[str, Row[Any]]:
    """The URL where a person consents (RFC 6749, section 4.1.1). Raises `Missing`, `Conflict`."""
    row = servers.get(change.connection, change.project_id, server_id)
    oauth = unseal(change.keyring, server_id, row.server_url, row.auth_sealed).oauth
    if oauth is None or oauth.grant != "authorization_code":
        raise Conflict("The server's auth is not oauth_authorization_code; nobody need consent.")
    servers.check_reachable(row.server_url)
    state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
    values = {
        "asked_by": change.by.id,
        "asked_until": after(change.now, MINUTES * 60),
        "state_sha256": _digest(state),
        "verifier_sealed": encrypt(change.keyring.data, verifier.encode(), for_verifier(server_id)),
    }
    if _find(change.connection, server_id) is None:
        values |= {"server_id": server_id, "project_id": change.project_id, "state": "PENDING"}
        change.connection.execute(insert(tables.consents).values(**values))
    else:
        # What was granted before serves until another consent takes its place.
        _update(change, server_id, values)
    change.record("server.consent_asked", server_id, codes={"server": server_id})
    return _authorization_url(oauth, state, verifier, redirect_uri), get(
        change.connection, change.project_id, server_id
    )


def project_of(connection: Connection, state: str) -> str | None:
    """The project in which a `state` is awaited, if it is anywhere."""
    query = select(_c.project_id).where(_c.state_sha256 == _digest(state))
    return connection.execute(query).scalar()


def claim(change: Change, state: str) -> Claimed:
    """Spend a `state`. Raises `Forbidden` for one that is unknown, spent or too old, or whose
    asker may no longer administer the project."""
    row = change.connection.execute(
        select(tables.consents).where(
            _c.state_sha256 == _digest(state), _c.project_id == change.project_id
        )
    ).first()
    if row is None or row.asked_until <= change.now or not _may_ask(change, row.asked_by):
        raise Forbidden("This consent was not asked for here, or too long ago; ask for it again.")
    verifier = decrypt(change.keyring.data, row.verifier_sealed, for_verifier(row.server_id))
    _update(change, row.server_id, {"state_sha256": None, "verifier_sealed": None})
    return Claimed(row.server_id, verifier.decode())


def grant(change: Change, server: Server, granted: Granted) -> None:
    """Keep what a consent brought. It is another credential: the server is approved anew.

    Raises `Conflict` when the server was changed since.
    """
    row = servers.get(change.connection, change.project_id, server.id)
    if row.revision != server.revision:
        raise Conflict("The server was changed meanwhile; ask for consent again.")
    _keep(change, server.id, granted, granted.refresh_token)
    _update(change, server.id, {"state": "GRANTED", "granted_at": change.now})
    withdrawn = servers.reroute(change, row)
    change.record(
        "server.consented",
        server.id,
        codes={"server": server.id, "approvals_withdrawn": withdrawn},
    )


def renew(change: Change, server: Server, granted: Granted) -> None:
    """Keep renewed tokens, unless another consent or credential has taken their place."""
    row = change.connection.execute(_granted(server)).first()
    if row is not None:
        old = _opened(change.keyring, row)["refresh_token"]
        _keep(change, server.id, granted, granted.refresh_token or old)


def lose(change: Change, server: Server) -> None:
    """The authorization server honours the consent no longer: it was withdrawn, or has ended."""
    if change.connection.execute(_granted(server)).first() is not None:
        _update(change, server.id, {"state": "LOST", "tokens_sealed": None, "expires_at": None})
        change.record("server.consent_lost", server.id, codes={"server": server.id})


def kept(connection: Connection, keyring: Keyring, server: Server, now: str) -> Kept | None:
    row = connection.execute(_granted(server)).first()
    if row is None:
        return None
    tokens = _opened(keyring, row)
    seconds = seconds_between(now, row.expires_at)
    return Kept(tokens["access_token"], seconds, tokens["refresh_token"])


def get(connection: Connection, project_id: str, server_id: str) -> Row[Any]:
    """Raises `Missing` for the server, `Conflict` where nobody was asked yet."""
    servers.get(connection, project_id, server_id)
    row = _find(connection, server_id)
    if row is None:
        raise Conflict("No consent was asked for yet.")
    return row


def _find(connection: Connection, server_id: str) -> Row[Any] | None:
    return connection.execute(select(tables.consents).where(_c.server_id == server_id)).first()


def _granted(server: Server) -> Any:
    joined = tables.consents.join(tables.servers, tables.servers.c.id == _c.server_id)
    return (
        select(tables.consents)
        .select_from(joined)
        .where(_c.server_id == server.id, _c.state == "GRANTED")
        .where(tables.servers.c.revision == server.revision)
    )


def _update(change: Change, server_id: str, values: dict[str, Any]) -> None:
    statement = update(tables.consents).where(_c.server_id == server_id).values(**values)
    change.connection.execute(statement)


def _keep(change: Change, server_id: str, granted: Granted, refresh_token: str | None) -> None:
    tokens = {"access_token": granted.access_token, "refresh_token": refresh_token}
    sealed = _seal(change, orjson.dumps(tokens), for_tokens(server_id))
    values = {"tokens_sealed": sealed, "expires_at": after(change.now, granted.seconds)}
    if granted.scope is not None:
        values["scope"] = granted.scope[:2048]
    _update(change, server_id, values)


def _seal(change: Change, secret: bytes, context: bytes) -> bytes:
    return encrypt(change.keyring.data, secret, context)


def _opened(keyring: Keyring, row: Row[Any]) -> dict[str, Any]:
    tokens = orjson.loads(decrypt(keyring.data, row.tokens_sealed, for_tokens(row.server_id)))
    assert isinstance(tokens, dict)
    return tokens


def _may_ask(change: Change, asker: str) -> bool:
    """Whether the key, or the person, that asked administers the project still."""
    k, u = tables.keys.c, tables.users.c
    keys = select(k.id).where(
        k.id == asker,
        k.state == "ACTIVE",
        k.role == "admin",
        k.expires_at.is_(None) | (k.expires_at > change.now),
    )
    people = select(u.id).where(u.id == asker, u.role == "admin")
    return change.connection.execute(keys.union_all(people)).first() is not None


def _authorization_url(oauth: OAuthClient, state: str, verifier: str, redirect_uri: str) -> str:
    challenge = urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code",
        "client_id": oauth.client_id,
        "redirect_uri": redirect_uri,
        "state": state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    if oauth.scope:
        query["scope"] = oauth.scope
    if oauth.resource:
        query["resource"] = oauth.resource
    joint = "&" if "?" in oauth.authorization_url else "?"
    return f"{oauth.authorization_url}{joint}{urlencode(query)}"


def _digest(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()


def for_verifier(server_id: str) -> bytes:
    return f"{server_id}/consent/verifier".encode()


def for_tokens(server_id: str) -> bytes:
    return f"{server_id}/consent/tokens".encode()
