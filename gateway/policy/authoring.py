"""Begins a policy: the Rego, its test, and a sample call that it decides."""

import re
from pathlib import Path
from typing import Any

import orjson

from gateway.frozen import frozen
from gateway.policy.inputs import a_call

KINDS = ("project", "server", "agent", "tool")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class AuthoringFault(Exception):
    """The policy cannot be begun; the message says what to write instead."""


@frozen
class Route:
    """Which calls a policy sees: ``all``, or the kind and the name of what it is for."""

    kind: str
    name: str | None = None

    @classmethod
    def read(cls, text: str) -> "Route":
        """``all``, ``project/<slug>``, ``server/<slug>``, ``agent/<name>`` or ``tool/<name>``.

        Raises `AuthoringFault`.
        """
        kind, slash, name = text.partition("/")
        if text == "all":
            return cls("all")
        if kind not in KINDS or not slash or not name:
            raise AuthoringFault(
                f"{text} is no route; write all, or one of {', '.join(f'{k}/NAME' for k in KINDS)}"
            )
        if not re.fullmatch(r'[^"\\\x00-\x1f]+', name):
            raise AuthoringFault(f"{name} holds a quote, a backslash or a control character")
        return cls(kind, name)

    @property
    def folder(self) -> Path:
        """Where its policies lie; folders are for people, Rego goes by the package's name."""
        return Path(self.kind) if self.name is None else Path(self.kind, _as_file(self.name))

    def package(self, policy: str) -> str:
        if self.name is None:
            return f"policies.{self.kind}.{policy}"
        plain = _PLAIN.fullmatch(self.name)
        middle = f".{self.name}" if plain else f'["{self.name}"]'
        return f"policies.{self.kind}{middle}.{policy}"


def begin(name: str, route: Route, folder: Path) -> list[Path]:
    """Write the policy's three files and return them. Raises `AuthoringFault`; overwrites nothing.

    As it stands the policy asks for approval of calls with the argument ``dry_run: false``, and
    refuses those that say neither yes nor no.
    """
    if not _NAME.fullmatch(name):
        raise AuthoringFault(f"{name} is no name; write small letters, digits and _")
    place = folder / route.folder / name
    texts = {
        f"{name}.rego": _POLICY.format(name=name, package=route.package(name)),
        f"{name}_test.rego": _TEST.format(name=name, package=route.package(name)),
        "sample.json": orjson.dumps(_sample(name, route), option=orjson.OPT_INDENT_2).decode()
        + "\n",
    }
    if there := [file for file in texts if (place / file).exists()]:
        raise AuthoringFault(f"{place / there[0]} is there already; choose another name")
    place.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        (place / file).write_text(text)
    return [place / file for file in texts]


def _as_file(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".") or "_"


def _sample(policy: str, route: Route) -> dict[str, Any]:
    """A call with every field of ``rego/schemas/input.json``, and what is expected of it."""
    names = {
        "project": "default",
        "server": "crm",
        "agent": "clerk",
        "tool": "update_record",
    }
    if route.name is not None:
        names[route.kind] = route.name
    call = a_call(**names)
    call["project"] |= {"id": "prj_1", "default_action": "ALLOW"}
    call["agent"]["id"] = "agt_1"
    call["server"] |= {"id": "srv_1", "origin": "https://crm.example.com"}
    call["tool"] |= {"risk": "MEDIUM", "risk_computed": "MEDIUM", "definition_sha256": "0" * 64}
    call["arguments"] = {"dry_run": False}
    call["context"] = {"time": "2026-01-05T10:00:00.000000Z", "client_ip": "192.0.2.1"}
    expected = {"action": "REQUIRE_APPROVAL", "policy_ids": [policy]}
    return {"input": call, "expect": expected}


_POLICY = """\
# METADATA
# title: {name}
# description: Asks a person before a call that is no dry run. Write here what your policy is for.
# schemas:
#   - input: schema.input
package {package}

import rego.v2

# METADATA
# title: No dry run
# description: The call says that it is no dry run, so a person looks at it first.
# labels:
#   policy: {name}
findings contains {{
	"action": "REQUIRE_APPROVAL",
	"policy_id": "{name}",
	"reason": "calls that are no dry run need approval",
}} if {{
	input.arguments.dry_run == false
}}

# METADATA
# title: Neither yes nor no
# description: What is missing or no boolean is not taken for a dry run.
# labels:
#   policy: {name}
findings contains {{
	"action": "DENY",
	"policy_id": "{name}",
	"reason": "dry_run must be true or false",
}} if {{
	not is_boolean(input.arguments.dry_run)
}}
"""

_TEST = """\
package policies_test.{name}

import rego.v2

import data.{package} as policy

# The actions that the policy asks for when it sees these arguments.
actions(arguments) := {{finding.action | some finding in found}} if {{
	found := policy.findings with input.arguments as arguments
}}

test_a_dry_run_passes if {{
	actions({{"dry_run": true}}) == set()
}}

test_what_is_no_dry_run_asks if {{
	actions({{"dry_run": false}}) == {{"REQUIRE_APPROVAL"}}
}}

test_what_says_neither_is_denied if {{
	actions({{}}) == {{"DENY"}}
	actions({{"dry_run": null}}) == {{"DENY"}}
	actions({{"dry_run": "false"}}) == {{"DENY"}}
}}
"""
