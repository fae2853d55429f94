"""Small files that are there whole, also after a power loss, or are not there at all."""

import os
from pathlib import Path


def write_file(path: Path, content: bytes) -> None:
    """Make or replace a file with mode 600. It is on disk when this returns; raises OSError."""
    aside = path.with_suffix(".new")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Have the folder's names on disk: without this a power loss may take back what was done."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
