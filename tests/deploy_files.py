"""What `deploy/` holds, read."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
GATEWAYS = ("gateway-one", "gateway-two")
"""Of the compose file."""


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def compose() -> dict[str, Any]:
    [document] = documents(DEPLOY / "compose.yaml")
    return document


def services() -> dict[str, Any]:
    made: dict[str, Any] = compose()["services"]
    return made


def manifest(kind: str) -> dict[str, Any]:
    found = [d for f in DEPLOY.glob("kubernetes/*.yaml") for d in documents(f)]
    [one] = [document for document in found if document["kind"] == kind]
    return one


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifest("StatefulSet")["spec"]["template"]["spec"]
    return spec


def sidecar() -> dict[str, Any]:
    [one] = [each for each in pod()["initContainers"] if each.get("restartPolicy") == "Always"]
    found: dict[str, Any] = one
    return found
