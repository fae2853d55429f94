"""The contract's artifact, as it was compiled; `contract/compile.cjs` makes it again."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from gateway.frozen import frozen

FOLDER = Path(__file__).parent.parent / "trace" / "contract"


@frozen
class Artifact:
    abi: list[dict[str, Any]]
    bytecode: bytes
    """What a deployment sends."""
    deployed: bytes
    """What then lies at the address, byte for byte: the contract has no immutable."""


@cache
def artifact() -> Artifact:
    raw = json.loads((FOLDER / "AuditAnchor.json").read_text())
    return Artifact(
        raw["abi"],
        bytes.fromhex(raw["bytecode"].removeprefix("0x")),
        bytes.fromhex(raw["deployed"].removeprefix("0x")),
    )
