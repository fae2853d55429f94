"""Makes a recorded decision again, and tells which rules made it."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from gateway import assets
from gateway.frozen import frozen
from gateway.policy.opa_command import run_opa
from gateway.policy.sources import BundleFault

_FINDS = "findings"
_OWN = ("/gateway/", "/lib/")


@dataclass(frozen=True, slots=True, order=True)
class Fired:
    """A rule that held for the input."""

    file: str
    """In the bundle, where each source has a folder of its own."""
    line: int
    title: str
    """Of its METADATA, else the rule's name."""
    description: str = ""


@frozen
class Explanation:
    decision: Mapping[str, Any]
    """What ``data.gateway.decision`` answers now."""
    fired: tuple[Fired, ...]
    """Rules of policies; what database rules and the project's default found is in the ids."""


def explain(archive: bytes, question: bytes, opa: Path) -> Explanation:
    """Ask an archived bundle a recorded question, ``{"input": …}``, again.

    Raises `BundleFault` when there is no answer: the bundle does not load, or the policy ends in
    an error, which refused the call then too.
    """
    with tempfile.TemporaryDirectory(prefix="gateway-explain-") as aside:
        Path(aside, "bundle.tar.gz").write_bytes(archive)
        Path(aside, "input.json").write_bytes(orjson.dumps(orjson.loads(question)["input"]))
        answer = _evaluate(Path(aside), opa)
    try:
        decision = answer["result"][0]["expressions"][0]["value"]
    except (KeyError, IndexError):
        raise BundleFault("the decision is undefined") from None
    return Explanation(decision, _fired(answer.get("explanation", ())))


def _evaluate(folder: Path, opa: Path) -> Any:
    capabilities = str(assets.asset("rego") / "capabilities.json")
    words = ["eval", "--bundle", "bundle.tar.gz", "--input", "input.json", "--format", "json"]
    words += ["--capabilities", capabilities, "--strict-builtin-errors", "--explain", "full"]
    done = run_opa(opa, *words, "data.gateway.decision", folder=folder)
    if done.returncode != 0:
        raise BundleFault(_complaint(done.stdout, done.stderr))
    return orjson.loads(done.stdout)


def _complaint(output: bytes, errors: bytes) -> str:
    """Why OPA has no answer, without the trace of how it came to have none."""
    try:
        told = orjson.loads(output)["errors"]
        return "; ".join(str(error["message"]) for error in told)
    except (ValueError, KeyError, TypeError):
        return (errors or output).decode(errors="replace").strip()[:2000]


def _fired(events: Sequence[Mapping[str, Any]]) -> tuple[Fired, ...]:
    """Rules are left (``Exit``) only when their body held."""
    found = set()
    for event in events:
        node, where = event.get("Node"), event.get("Location")
        if event.get("Op") != "Exit" or not (isinstance(node, dict) and isinstance(where, dict)):
            continue
        file = str(where["file"])
        if "head" not in node or file.startswith(_OWN):
            continue
        if node["head"]["ref"][0]["value"] == _FINDS:
            notes = (node.get("annotations") or [{}])[0]
            title, described = notes.get("title", _FINDS), notes.get("description", "")
            found.add(Fired(file.lstrip("/"), where["row"], title, described))
    return tuple(sorted(found))
