"""The stop that works without the API: a file in the data directory that every admission reads.

`gateway stop --all-projects` writes it, removing it lifts the stop. What it says counts for little:
a file that is there and is no JSON stops everything too. Where nobody can tell whether it is there,
out of file descriptors, say, calls are refused as well, and nobody is said to have stopped them.
"""

import errno
import json
from pathlib import Path

from gateway.durable import sync_folder, write_file
from gateway.refusals import Refused
from gateway.values import Stop, StopId

NAME = "emergency-stop.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)
FILE_STOP = StopId("stp_file")
UNREADABLE = StopId("stp_unreadable")
"""No stop, but that it cannot be known whether there is one."""


def stopped(stop_id: str, scope: str) -> Refused:
    """Why a call is refused that this stop covers."""
    if stop_id == UNREADABLE:
        return Refused("stop_unreadable")
    return Refused("emergency_stop", {"stop_id": stop_id, "scope": scope})


class StopFile:
    """`read` asks the disk, as each admission does; `seen` is what the last reading found."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / NAME
        self.seen: Stop | None = None

    @property
    def raised(self) -> bool:
        """Whether somebody's stop was there when it was last read."""
        return self.seen is not None and self.seen.id == FILE_STOP

    @property
    def fault(self) -> str:
        """Why it could not be read the last time; empty when it could."""
        return self.seen.reason if self.seen is not None and not self.raised else ""

    def read(self) -> Stop | None:
        """The stop in force, or None. What cannot be read has the id `UNREADABLE`."""
        self.seen = self._read()
        return self.seen

    def _read(self) -> Stop | None:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = f"{NAME} cannot be read: {error.strerror}"
            return Stop(UNREADABLE, None, "all", None, reason)
        try:
            reason = str(json.loads(raw)["reason"])
        except (ValueError, KeyError, TypeError):
            reason = f"{NAME} is there, and not readable as JSON with a reason"
        return Stop(FILE_STOP, None, "all", None, reason)

    def write(self, reason: str) -> None:
        """Raise the stop: it is in force, and stays so, when this returns. Raises OSError."""
        try:
            write_file(self._path, json.dumps({"reason": reason}).encode())
        except OSError as error:
            if error.errno not in _FULL:
                raise
            # A full disk still takes the name, and an empty file stops everything too.
            write_file(self._path, b"")

    def remove(self) -> bool:
        """Lift it; False when there is none. Raises OSError."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        sync_folder(self._path.parent)
        return True
