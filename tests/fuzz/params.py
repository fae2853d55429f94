"""A template's parameters: what passes holds its schema, and takes no stranger for an insider."""

import json
import re
from pathlib import Path

from jsonschema import Draft202012Validator

from gateway.policy.templates import Template, read_template

FOLDER = Path(__file__).parents[2] / "connector_templates"
TEMPLATES: list[Template] = [
    read_template(path.parent) for path in sorted(FOLDER.glob("*/template.yaml"))
]


def one(data: bytes) -> None:
    """The first byte chooses the template, the others are its parameters as JSON."""
    if not data:
        return
    template = TEMPLATES[data[0] % len(TEMPLATES)]
    try:
        params = json.loads(data[1:])
    except (ValueError, RecursionError):
        return
    if not isinstance(params, dict):
        return
    faults = template.faults(params)
    assert all(path.startswith("params") and said for path, said in faults.items())
    if faults:
        return
    assert Draft202012Validator(template.parameters).is_valid(params)
    assert params.keys() <= template.defaults.keys()
    for name, value in params.items():
        for text in value if isinstance(value, list) else [value]:
            assert not isinstance(text, str) or not re.search(r"[\x00-\x1f\x7f]", text)
            if name.endswith("_domains"):
                assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", text)
