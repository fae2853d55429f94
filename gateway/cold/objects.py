"""Where cold storage keeps its objects: a folder here, S3 in `gateway.cold.s3`."""

import os
import tempfile
from pathlib import Path
from typing import Protocol

from gateway.durable import sync_folder

S3 = "s3://"


class ColdFault(Exception):
    """Records in cold storage cannot be read; the message says which, why and what to do."""


class ColdAway(ColdFault):
    """The storage does not answer, or not to us: later, or with other settings, it may."""


class ColdDamaged(ColdFault):
    """An object is missing, or is not what was written. It is to be put back from a copy."""


class Objects(Protocol):
    """Each object has a name with slashes, and is written once. Methods block."""

    @property
    def place(self) -> str:
        """For people."""

    def read(self, name: str) -> bytes:
        """Raises `ColdDamaged` where there is none, and `ColdAway`."""

    def make(self, name: str, content: bytes) -> bool:
        """Write an object unless there is one of this name; False then, whatever it holds.

        Durable on return. Raises `ColdAway`.
        """

    def replace(self, name: str, content: bytes) -> None:
        """As `make`, also where there is one: for the one object that moves on, the checkpoint."""


class Folder:
    """Objects as files: whole under their names, or not there. Raises as `Objects` says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def place(self) -> str:
        return str(self._folder)

    def read(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            raise _missing(self, name) from None
        except OSError as fault:
            raise self._away(name, fault) from None

    def make(self, name: str, content: bytes) -> bool:
        path = self._folder / name
        try:
            aside = self._aside(path, content)
            try:
                os.link(aside, path)
            except FileExistsError:
                return False
            finally:
                aside.unlink()
            sync_folder(path.parent)
        except OSError as fault:
            raise self._away(name, fault) from None
        return True

    def replace(self, name: str, content: bytes) -> None:
        path = self._folder / name
        try:
            self._aside(path, content).rename(path)
            sync_folder(path.parent)
        except OSError as fault:
            raise self._away(name, fault) from None

    def _aside(self, path: Path, content: bytes) -> Path:
        """The content on disk, in the same folder under another name."""
        self._folders(path.parent)
        fd, aside = tempfile.mkstemp(prefix=".", suffix=".new", dir=path.parent)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return Path(aside)

    def _folders(self, path: Path) -> None:
        """Up to the storage itself, which whoever runs it makes: a disk may not be there."""
        if path != self._folder and not path.is_dir():
            self._folders(path.parent)
            path.mkdir(mode=0o700, exist_ok=True)
            sync_folder(path.parent)

    def _away(self, name: str, fault: OSError) -> ColdAway:
        why = f"{self._folder}/{name}: {fault.strerror}"
        return ColdAway(f"cold storage does not work: {why}; see GATEWAY_COLD_STORE")


def _missing(objects: Objects, name: str) -> ColdDamaged:
    return ColdDamaged(f"{objects.place}/{name} is missing; put it back from a copy")
