"""What a demonstration remembers between two starts: its keys, in ``demo.json``, mode 600."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gateway.frozen import frozen

FILE = "demo.json"


class StateUnreadable(Exception):
    """``demo.json`` is not what was written; the message says what to do."""


@frozen
class State:
    """Empty strings and 0 stand for what is not made yet."""

    admin_key: str = ""
    project_key: str = ""
    approver_key: str = ""
    auditor_key: str = ""
    admin_password: str = ""
    approver_password: str = ""
    server_id: str = ""
    crm_port: int = 0
    """The sample server's, kept so that its registration stays valid."""


def read(data_dir: Path) -> State:
    """The state of the last start, an empty one at the first. Raises `StateUnreadable`."""
    path = data_dir / FILE
    try:
        return State(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, TypeError) as error:
        raise StateUnreadable(
            f"cannot read {path} ({error}); remove the folder {data_dir} to start afresh"
        ) from None


def changed(data_dir: Path, state: State, **fields: Any) -> State:
    """Write the state with these fields changed, and return it.

    Written aside and renamed: a crash leaves the old file or the new one. A key is written as
    soon as it exists, because it is shown only once.
    """
    new = replace(state, **fields)
    aside = data_dir / f"{FILE}.new"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump(asdict(new), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(data_dir / FILE)
    return new
