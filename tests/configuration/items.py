"""Projects as hypothesis draws them, and a gateway that does a plan in memory."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import strategies as st

from gateway.configuration.document import Document
from gateway.configuration.items import NOUNS, Item, Scalar, item
from gateway.configuration.plan import Plan

NOW = "2026-01-01T00:00:00.000000Z"
PAST = "2025-01-01T00:00:00.000000Z"
NEXT_YEAR = "2027-01-01T00:00:00.000000Z"

AGENTS = ("bot", "clerk")
SERVERS = ("crm", "mail")
_times = st.sampled_from([None, NEXT_YEAR])
_actions = st.sampled_from(["ALLOW", "DENY"])
_reasons = st.sampled_from(["", "because", "2026-01-31", "no: #yes", "it's\n two lines "])


def _one_of(*names: str) -> st.SearchStrategy[str | None]:
    return st.sampled_from([None, *names])


@st.composite
def agents(draw: st.DrawFn) -> list[Item]:
    names = draw(st.sets(st.sampled_from(AGENTS)))
    return [
        item(
            "agent",
            {"name": name, "owner": draw(st.sampled_from(["ada", "kim"])), "description": ""},
        )
        for name in sorted(names)
    ]


@st.composite
def servers(draw: st.DrawFn) -> list[Item]:
    found = []
    for slug in sorted(draw(st.sets(st.sampled_from(SERVERS)))):
        auth_type = draw(st.sampled_from(["none", "bearer"]))
        auth = {"type": auth_type}
        if auth_type == "bearer":
            auth["token"] = f"${{env:{slug.upper()}_TOKEN}}"
        values: dict[str, Scalar] = {
            "slug": slug,
            "name": draw(st.sampled_from(["CRM", "Mail"])),
            "server_url": draw(st.sampled_from(["https://a.example/", "https://b.example/", ""])),
            "transport": "streamable_http",
            "connector_type": "salesforce",
            "description": draw(_reasons),
            "is_proxied": draw(st.booleans()),
            "enforcement": draw(_one_of("monitor")),
            "allow_private_network": False,
            "params.rows": draw(st.sampled_from(["1", '["a: b"]'])),
            "auth_type": auth_type,
            "tls_ca": None,
            "status": draw(st.sampled_from(["PENDING_APPROVAL", "ACTIVE"])),
        }
        found.append(item("server", values, auth=auth))
    return found


@st.composite
def projects(draw: st.DrawFn) -> tuple[Item, ...]:
    """A whole that can be applied: what it refers to is in it."""
    made = [*draw(agents()), *draw(servers())]
    agent = _one_of(*(one.name for one in made if one.noun == "agent"))
    known = [one.name for one in made if one.noun == "server"]
    for _ in range(draw(st.integers(0, 4))):
        server = draw(_one_of(*known))
        tool = draw(_one_of("read")) if server else None
        values: dict[str, Scalar] = {
            "agent": draw(agent),
            "server": server,
            "tool": tool,
            "tool_pattern": None if tool else draw(_one_of("del_*")),
            "min_risk": draw(_one_of("HIGH")),
            "action": draw(_actions),
            "expires_at": draw(_times),
            "reason": draw(_reasons),
            "enabled": draw(st.booleans()),
        }
        made.append(item("rule", values))
    for _ in range(draw(st.integers(0, 3)) if known else 0):
        values = {
            "policy": draw(st.sampled_from(["salesforce.a", "salesforce.b"])),
            "server": draw(st.sampled_from(known)),
            "agent": draw(agent),
            "action": draw(_actions),
            "expires_at": NEXT_YEAR,
            "reason": draw(_reasons) or "because",
        }
        made.append(item("override", values))
    for _ in range(draw(st.integers(0, 3))):
        server = draw(_one_of(*known))
        values = {
            "agent": None if server else draw(agent),
            "server": server,
            "tool": draw(_one_of("read")) if server else None,
            "dimension": "requests",
            "window": draw(st.sampled_from(["day", "hour"])),
            "limit": draw(st.integers(0, 3)),
            "on_exceed": "BLOCK",
            "warn_at": 80,
        }
        made.append(item("budget", values))
    return tuple(_without_doubles(made))


def _without_doubles(items: Sequence[Item]) -> list[Item]:
    return list({(one.key, *one.fields.values()): one for one in items}.values())


def as_document(items: Sequence[Item]) -> Document:
    return Document(tuple(replace(one, place="a.yaml:1") for one in items), frozenset(NOUNS))


def as_live(items: Sequence[Item]) -> list[Item]:
    return [replace(one, id=f"id_{n}", auth={}, place="") for n, one in enumerate(items)]


def carried_out(plan: Plan, live: Sequence[Item], steps: int | None = None) -> list[Item]:
    """The live items after the first so many steps, all by default; as the API would do them."""
    found = list(live)
    for number, step in enumerate(plan.steps[:steps]):
        at = next((n for n, one in enumerate(found) if step.id and one.id == step.id), None)
        if at is None:
            at = next((n for n, one in enumerate(found) if one.key == step.item.key), None)
        match step.kind:
            case "create":
                fields = dict(step.item.fields)
                if step.item.noun == "server":
                    fields |= {"status": "PENDING_APPROVAL"}
                made = replace(step.item, id=f"new_{number}", fields=fields, auth={}, place="")
                found.append(made)
            case "delete":
                assert at is not None
                if step.item.noun == "agent":
                    found[at] = replace(found[at], revoked=True)
                else:
                    del found[at]
            case "change":
                assert at is not None
                changes = {name: after for name, (_, after) in step.changes.items()}
                rerouted = step.sends_auth or changes.keys() & {"server_url", "transport"}
                pending = {"status": "PENDING_APPROVAL"} if rerouted else {}
                fields = {**found[at].fields, **pending, **changes}
                found[at] = replace(found[at], fields=fields)
    return found
