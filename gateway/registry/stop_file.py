"""The stop that works without the API: a file in the data directory that every admission reads.

`gateway stop --all-projects` writes it, removing it lifts the stop. A file that is there and
cannot be read stops everything too.
"""

import json
from pathlib import Path

from gateway.durable import sync_folder, write_file
from gateway.values import Stop, StopId

NAME = "emergency-stop.json"
FILE_STOP = StopId("stp_file")


class StopFile:
    """`read` asks the disk, as each admission does; `seen` is what the last reading found."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / NAME
        self.seen: Stop | None = None

    def read(self) -> Stop | None:
        """The stop in force, or None."""
        self.seen = self._read()
        return self.seen

    def _read(self) -> Stop | None:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            return self._stop(f"{NAME} cannot be read: {error.strerror}")
        try:
            reason = str(json.loads(raw)["reason"])
        except (ValueError, KeyError, TypeError):
            reason = f"{NAME} is there, and not readable as JSON with a reason"
        return self._stop(reason)

    def _stop(self, reason: str) -> Stop:
        return Stop(FILE_STOP, None, "all", None, reason)

    def write(self, reason: str) -> None:
        """Raise the stop: it is in force, and stays so, when this returns. Raises OSError."""
        write_file(self._path, json.dumps({"reason": reason}).encode())

    def remove(self) -> bool:
        """Lift it; False when there is none. Raises OSError."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        sync_folder(self._path.parent)
        return True
