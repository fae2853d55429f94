"""Notices changes in the folders that policy comes from."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from math import inf
from pathlib import Path

import structlog
from watchfiles import awatch

_log = structlog.get_logger(__name__)

QUIET_MS = 5
"""A save is taken up once nothing else has changed for so long: an editor writes several files."""
LONGEST_WAIT_MS = 200
_LOOK_MS = 2000
UNTOLD_SECONDS = 15.0
"""After which the folders are looked at although no change was told of."""
AGAIN_SECONDS = 60.0
"""After which watching is tried anew where it had failed."""

_Identity = tuple[int, int] | None


async def changes(folders: Callable[[], Iterable[Path]]) -> AsyncGenerator[bool]:
    """Yield True when something may have changed, and once soon after watching has begun; False
    now and then when nothing was told of.

    On a busy machine watching loses a change once in a long while, as one that comes between the
    reading of those before it and their clearing; a policy that was mended must not wait for the
    next one.

    A folder may be missing, appear, or be replaced by another of its name, as a checkout or a
    mounted volume is; the system only tells of changes inside the folder that it was shown.
    Where it cannot tell of any, such as for too few watches, every file is looked at again and
    again, which needs none, until watching works.
    """
    polling = told = False
    looked = time.monotonic()
    while True:
        until = time.monotonic() + AGAIN_SECONDS if polling else inf
        seen = _identities(folders())
        watching = awatch(
            *(folder for folder, identity in seen.items() if identity is not None),
            watch_filter=None,
            debounce=LONGEST_WAIT_MS,
            step=QUIET_MS,
            rust_timeout=_LOOK_MS,
            yield_on_timeout=True,
            force_polling=polling,
            ignore_permission_denied=True,
        )
        try:
            async with aclosing(watching):
                first = True
                async for changed in watching:
                    replaced = _identities(folders()) != seen
                    if told and not polling:
                        _log.info("policy folders are watched again")
                        told = False
                    news = bool(changed) or first or replaced
                    if news or time.monotonic() - looked >= UNTOLD_SECONDS:
                        looked = time.monotonic()
                        yield news
                    first = False
                    if replaced or time.monotonic() >= until:
                        break
            polling = polling and time.monotonic() < until
        except* (OSError, RuntimeError) as errors:  # its task's come in a group
            if not told:
                _log.warning("policy folders are polled", why=str(errors.exceptions[0]))
            polling = told = True
            await asyncio.sleep(_LOOK_MS / 1000)


def _identities(folders: Iterable[Path]) -> dict[Path, _Identity]:
    return {folder: _identity(folder) for folder in folders}


def _identity(folder: Path) -> _Identity:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino
