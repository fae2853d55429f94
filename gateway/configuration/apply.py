"""Does a plan, step by step. Each step is one request, so a repeat finishes what was cut short."""

import os
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

import orjson

from gateway.configuration.api import Api, ApiRefused, ApiWaits
from gateway.configuration.document import ENVIRONMENT, FILE
from gateway.configuration.items import PARAM, Item, Scalar
from gateway.configuration.live import Live
from gateway.configuration.plan import Plan, Step
from gateway.frozen import frozen

_ROOTS = {
    "agent": "/agents",
    "server": "/mcp/servers",
    "rule": "/mcp/policies",
    "budget": "/budgets",
}


_MAY_LOOSEN = ("enforcement", "params")
"""A server's fields whose change may have to wait for a second person."""


class SecretMissing(Exception):
    """References that lead nowhere, one line each."""


class StepFailed(Exception):
    """The API refused a step; the steps before it are done."""


@frozen
class Credentials:
    """The credentials that a plan sends, by server slug, with every reference replaced."""

    _auth: Mapping[str, Mapping[str, str]] = field(repr=False)

    @classmethod
    def of(cls, plan: Plan) -> "Credentials":
        """Looks up what the steps need and nothing else. Raises `SecretMissing`."""
        found: dict[str, dict[str, str]] = {}
        missing: list[str] = []
        for step in plan.steps:
            if step.sends_auth:
                auth = found.setdefault(step.item.name, {})
                for name, text in step.item.auth.items():
                    try:
                        auth[name] = _looked_up(text)
                    except SecretMissing as fault:
                        missing.append(f"{step.item.place}: auth.{name}: {fault}")
        if missing:
            raise SecretMissing("\n".join(missing))
        return cls(found)

    def __getitem__(self, slug: str) -> Mapping[str, str]:
        return self._auth[slug]


def _looked_up(text: str) -> str:
    if variable := ENVIRONMENT.fullmatch(text):
        value = os.environ.get(variable[1], "")
        if not value:
            raise SecretMissing(f"the environment has no {variable[1]}")
        return value
    if not text.startswith(FILE):
        return text
    path = Path(text.removeprefix(FILE))
    try:
        value = path.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SecretMissing(f"cannot read {path}: {error}") from None
    if not value:
        raise SecretMissing(f"{path} is empty")
    return value


class Application:
    """One run over a plan."""

    def __init__(self, api: Api, live: Live, credentials: Credentials) -> None:
        self._api = api
        self._credentials = credentials
        self._ids = {"agent": live.ids("agent"), "server": live.ids("server")}
        self._tools: dict[str, dict[str, str]] = {}
        self._proposals: list[dict[str, Any]] = []

    def run(self, plan: Plan, done: Callable[[Step, ApiWaits | None], None]) -> None:
        """Call `done` after each step. Raises `StepFailed`, `api.ApiUnknown`.

        A step that loosens may have to wait for a second person. The others go on: they need
        nothing of it, for only agents and servers are referred to, and to make one never waits.
        """
        if plan.steps:
            self._proposals = [p for p in self._api.all("/proposals") if p["state"] == "OPEN"]
        for step in plan.steps:
            waits = None
            try:
                self._do(step)
            except ApiRefused as refused:
                raise StepFailed(_told(step, refused)) from None
            except ApiWaits as waiting:
                waits = waiting
            done(step, waits)

    def _do(self, step: Step) -> None:
        match step.kind:
            case "create":
                self._create(step.item, step.sends_auth)
            case "delete" if step.item.noun == "agent":
                self._api.send("POST", f"/agents/{step.id}/revoke")
            case "delete":
                self._remove(step)
            case "change" if step.item.noun == "override":
                # There is no change of an override. While both are there the stricter one counts;
                # whoever dies between the two leaves both, and the next plan removes the old one.
                self._create(step.item, sends_auth=False)
                self._remove(step)
            case "change":
                self._change(step)

    def _create(self, item: Item, sends_auth: bool) -> None:
        if item.noun == "server":
            self._register(item, sends_auth)
            return
        body = {**self._scope(item), **item.fields}
        about = self._server(item) if item.noun == "override" else None
        self._check_unproposed(f"{item.noun}.create", about, body)
        made = self._api.send("POST", self._root(item), body)
        if item.noun == "agent":
            self._ids["agent"][item.name] = made["id"]

    def _register(self, item: Item, sends_auth: bool) -> None:
        """Register a server; what its first request cannot say follows in another one.

        Between the two it waits for approval, and another plan would change what is missing.
        """
        body = {**item.scope, **_body(item.fields)}
        later: dict[str, object] = {"params": body.pop("params")} if "params" in body else {}
        if item.fields["server_url"]:
            auth = {"auth": self._credentials[item.name]} if sends_auth else {}
            sends_auth = False
            made = self._api.send("POST", "/mcp/servers", body | auth)
        else:
            first = {"template": body.pop("connector_type"), "name": body["name"], **item.scope}
            unsaid = {n: body[n] for n in body if n not in ("server_url", *first)}
            later |= {name: value for name, value in unsaid.items() if value is not None}
            made = self._api.send("POST", "/mcp/servers/from-template", first)
        self._ids["server"][item.name] = made["id"]
        if made["connector_type"] != item.fields.get("connector_type", made["connector_type"]):
            raise ApiRefused(
                409,
                f"it was registered as {made['connector_type']}, to which its origin is bound; "
                f"write connector_type: {made['connector_type']}",
            )
        self._patch(item, made["id"], later, sends_auth)

    def _change(self, step: Step) -> None:
        body = _body({name: after for name, (_, after) in step.changes.items()})
        if "status" in step.changes:
            body["status"] = step.changes["status"][1]
        step_id = step.id or self._ids[step.item.noun][step.item.name]
        self._patch(step.item, step_id, body, step.sends_auth)

    def _patch(self, item: Item, item_id: str, body: dict[str, object], sends_auth: bool) -> None:
        path = f"{self._root(item)}/{item_id}"
        if sends_auth:
            # A credential goes in a request that surely does not loosen: it cannot wait.
            first = {name: value for name, value in body.items() if name not in _MAY_LOOSEN}
            self._api.send("PATCH", path, first | {"auth": self._credentials[item.name]})
            body = {name: value for name, value in body.items() if name in _MAY_LOOSEN}
        if body:
            self._check_unproposed(f"{item.noun}.patch", item_id, body)
            self._api.send("PATCH", path, body)

    def _remove(self, step: Step) -> None:
        self._check_unproposed(f"{step.item.noun}.remove", step.id, {})
        self._api.send("DELETE", f"{self._root(step.item)}/{step.id}")

    def _check_unproposed(self, kind: str, subject: str | None, body: dict[str, object]) -> None:
        """Raise `ApiWaits` for what an earlier run proposed: it is not proposed again."""
        for proposal in self._proposals:
            asked = proposal["body"]
            same = all(name in asked and asked[name] == value for name, value in body.items())
            if proposal["kind"] == kind and proposal["subject"] == subject and same:
                raise ApiWaits(proposal["id"])

    def _root(self, item: Item) -> str:
        if item.noun == "override":
            return f"/mcp/servers/{self._server(item)}/overrides"
        return _ROOTS[item.noun]

    def _scope(self, item: Item) -> dict[str, object]:
        scope = item.scope
        if item.noun == "agent":
            return dict(scope)
        agent = None if scope["agent"] is None else self._ids["agent"][str(scope["agent"])]
        server = None if scope["server"] is None else self._server(item)
        if item.noun == "override":
            return {"policy_id": scope["policy"], "agent_id": agent}
        tool = None if scope["tool"] is None else self._tool(str(server), str(scope["tool"]))
        if item.noun == "rule":
            return {
                "agent_id": agent,
                "server_id": server,
                "mcp_tool_id": tool,
                "tool_pattern": scope["tool_pattern"],
                "min_risk": scope["min_risk"],
            }
        named = {"tool": tool, "server": server, "agent": agent, "project": None}
        kind = next((noun for noun, target in named.items() if target is not None), "project")
        target = named[kind]
        plain = {name: scope[name] for name in ("dimension", "window")}
        return {"scope": kind, "target_id": target, **plain}

    def _server(self, item: Item) -> str:
        return self._ids["server"][str(item.scope["server"])]

    def _tool(self, server_id: str, name: str) -> str:
        """The tool's id; a server that was never scanned is scanned for it."""
        if server_id not in self._tools:
            server = self._api.send("GET", f"/mcp/servers/{server_id}")
            if server["scanned_at"] is None:
                self._api.send("POST", f"/mcp/servers/{server_id}/scan")
            found = self._api.all(f"/mcp/servers/{server_id}/tools")
            self._tools[server_id] = {tool["name"]: tool["id"] for tool in found}
        if name not in self._tools[server_id]:
            raise ApiRefused(404, f"the server has no tool {name}; scan it, or use tool_pattern")
        return self._tools[server_id][name]


def _body(fields: Mapping[str, Scalar]) -> dict[str, object]:
    """Fields as a request has them; a status is a request of its own."""
    body: dict[str, object] = {
        name: value
        for name, value in fields.items()
        if name not in ("status", "auth_type") and not name.startswith(PARAM)
    }
    params = {
        name.removeprefix(PARAM): orjson.loads(str(value))
        for name, value in fields.items()
        if name.startswith(PARAM)
    }
    return {**body, "params": params} if params else body


def _told(step: Step, refused: ApiRefused) -> str:
    where = f"{step.item.place}: " if step.item.place else ""
    text = f"{where}{step.item.noun} {step.item.name}: {refused}"
    if refused.status in (404, 409):
        text += "\nIf somebody else changed the project meanwhile, run it again: it plans anew."
    return text
