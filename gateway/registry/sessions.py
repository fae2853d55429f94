"""Sessions of people who signed in: a random token in a cookie, kept as its SHA-256 only.

A session ends when it was not used for a while, after a day's work however much it was used, at
sign-out, and with any change of its person's role or password.
"""

import base64
import hashlib
import hmac
import secrets
from dataclasses import field

from sqlalchemy import Connection, delete, insert, select, update

from gateway.clock import after
from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.registry import users
from gateway.registry.core import Change
from gateway.registry.faults import Forbidden
from gateway.registry.people import User
from gateway.store import tables

IDLE_SECONDS = 30 * 60
LIFE_SECONDS = 12 * 3600
SEEN_SECONDS = 60
"""How stale `seen_at` may grow before it is written again: not every page is worth a write."""

_s = tables.user_sessions.c


@frozen
class Session:
    """An open session. `csrf` stands in each form of its pages and comes back with it."""

    id: str
    user: User
    csrf: str = field(repr=False)
    expires_at: str
    stale: bool
    """`seen` should be called, so that the session does not idle away under use."""


def open(change: Change, user: User) -> str:
    """Open a session and return its token, which is shown here and nowhere again."""
    _sweep(change)
    token = secrets.token_urlsafe(32)
    session_id = new_id("ses")
    change.connection.execute(
        insert(tables.user_sessions).values(
            id=session_id,
            token_sha256=_digest(token),
            user_id=user.id,
            opened_at=change.now,
            seen_at=change.now,
            expires_at=after(change.now, LIFE_SECONDS),
        )
    )
    change.record("session.opened", session_id, codes={"user": user.id, "role": user.role})
    return token


def of(connection: Connection, token: str, now: str) -> Session | None:
    """The living session of a token, with its person as they are now."""
    row = connection.execute(
        select(_s.id.label("session_id"), _s.seen_at, _s.expires_at, *tables.users.c)
        .join(tables.users, tables.users.c.id == _s.user_id)
        .where(_s.token_sha256 == _digest(token))
        .where(_s.expires_at > now, _s.seen_at > after(now, -IDLE_SECONDS))
    ).first()
    if row is None:
        return None
    return Session(
        id=row.session_id,
        user=users.of(row),
        csrf=_csrf(token),
        expires_at=row.expires_at,
        stale=row.seen_at <= after(now, -SEEN_SECONDS),
    )


def must_live(change: Change, session: Session) -> None:
    """First in each change that a session makes: it may have ended since. Raises `Forbidden`."""
    row = change.connection.execute(
        select(tables.users.c.role)
        .join(tables.user_sessions, _s.user_id == tables.users.c.id)
        .where(_s.id == session.id, _s.expires_at > change.now)
    ).first()
    if row is None or row.role != session.user.role:
        raise Forbidden("The session has ended; sign in again.")


def seen(change: Change, session: Session) -> None:
    change.connection.execute(
        update(tables.user_sessions).where(_s.id == session.id).values(seen_at=change.now)
    )


def close(change: Change, session: Session) -> None:
    """Sign out: the token is worth nothing from the commit on."""
    change.connection.execute(delete(tables.user_sessions).where(_s.id == session.id))
    change.record("session.closed", session.id, codes={"user": session.user.id})


def is_csrf(session: Session, given: str) -> bool:
    """Whether a form came from this session's own page."""
    return hmac.compare_digest(session.csrf.encode(), given.encode())


def _csrf(token: str) -> str:
    # Derived, so nothing more is stored; and the token cannot be told from it.
    mac = hmac.digest(token.encode(), b"csrf", "sha256")
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _sweep(change: Change) -> None:
    idle = after(change.now, -IDLE_SECONDS)
    ended = (_s.expires_at <= change.now) | (_s.seen_at <= idle)
    change.connection.execute(delete(tables.user_sessions).where(ended))
