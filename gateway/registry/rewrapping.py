"""Everything that is sealed with the data key, sealed anew with the key that follows it.

What is here is small: keys of months, credentials, calls that wait, answers kept for an hour or a
day. Payloads themselves are sealed with their month's key and stay as they are.
"""

from collections.abc import Callable
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, Row, select, update
from sqlalchemy.schema import Column, Table

from gateway.frozen import frozen
from gateway.keyring import Keyring, decrypt, encrypt
from gateway.registry.consents import for_tokens, for_verifier
from gateway.registry.platforms import sealing_context
from gateway.store import tables
from gateway.trace.payloads import wrapping_context

_PAGE = 500


@frozen
class Sealed:
    """One column, and what its values are bound to."""

    table: Table
    column: Column[Any]
    context: Callable[[Row[Any]], bytes]


def _own_id(row: Row[Any]) -> bytes:
    return str(row.id).encode()


SEALED: Final = (
    Sealed(
        tables.payload_keys,
        tables.payload_keys.c.wrapped,
        lambda row: wrapping_context(row.id),
    ),
    Sealed(tables.servers, tables.servers.c.auth_sealed, _own_id),
    Sealed(tables.approvals, tables.approvals.c.call_sealed, _own_id),
    Sealed(tables.tasks, tables.tasks.c.request_sealed, _own_id),
    Sealed(tables.tasks, tables.tasks.c.result_sealed, lambda row: f"{row.id}/result".encode()),
    Sealed(tables.notifications, tables.notifications.c.target_sealed, _own_id),
    Sealed(
        tables.extensions, tables.extensions.c.signing_sealed, lambda row: sealing_context(row.id)
    ),
    Sealed(
        tables.consents, tables.consents.c.verifier_sealed, lambda row: for_verifier(row.server_id)
    ),
    Sealed(tables.consents, tables.consents.c.tokens_sealed, lambda row: for_tokens(row.server_id)),
    Sealed(
        tables.idempotency,
        tables.idempotency.c.response_sealed,
        lambda row: f"idempotency/{row.key_id}/{row.idempotency_key}".encode(),
    ),
)


def rewrap(connection: Connection, keyring: Keyring, following: AESGCM) -> int:
    """Seal every value with the key that follows; return how many there were.

    What that key has sealed already is sealed once more, so a rotation that was cut short is
    simply made again. All of it is one transaction.
    """
    return sum(_column(connection, keyring, following, one) for one in SEALED)


def _column(connection: Connection, keyring: Keyring, following: AESGCM, one: Sealed) -> int:
    primary = list(one.table.primary_key.columns)
    query = select(one.table).where(one.column.is_not(None)).order_by(*primary)
    done = 0
    # The rows do not move: no update touches what they are ordered by.
    while page := connection.execute(query.limit(_PAGE).offset(done)).all():
        for row in page:
            value = getattr(row, one.column.name)
            if value:  # what was erased stays empty
                context = one.context(row)
                sealed = encrypt(following, decrypt(keyring.data, value, context), context)
                place = [column == getattr(row, column.name) for column in primary]
                changed = update(one.table).where(*place).values({one.column.name: sealed})
                connection.execute(changed)
        done += len(page)
    return done
