"""What is exported is, read back, what was there; nothing in it is a secret."""

import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings

from gateway.configuration.document import read
from gateway.configuration.export import export
from gateway.configuration.items import Item, Scalar, item
from gateway.configuration.live import Live
from gateway.configuration.plan import plan
from tests.configuration.items import NEXT_YEAR, NOW, PAST, as_live, projects


@settings(max_examples=40)
@given(projects())
def test_an_export_is_what_is_there(project: tuple[Item, ...]) -> None:
    live = as_live(project)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_text(export(Live(tuple(live)), NOW))
        document = read([path])
    assert plan(document, live, NOW, prune=True).steps == ()
    assert [one.key for one in document.items] == [
        one.key for noun in _ORDER for one in live if one.noun == noun
    ]


_ORDER = ("agent", "server", "rule", "override", "budget")


def test_credentials_are_placeholders_of_the_server() -> None:
    values = {"slug": "crm_2", "name": "C", "server_url": "https://a.example/", "status": "ACTIVE"}
    text = "".join(
        export(Live((item("server", {**values, "auth_type": kind}, id="srv_1"),)), NOW)
        for kind in ("bearer", "header", "basic", "oauth_authorization_code")
    )
    secrets = ("TOKEN", "NAME", "VALUE", "USERNAME", "PASSWORD")
    for name in (*secrets, "TOKEN_URL", "CLIENT_ID", "CLIENT_SECRET", "AUTHORIZATION_URL"):
        assert f"${{env:CRM_2_{name}}}" in text


def test_what_has_no_effect_is_left_out() -> None:
    names = ("agent", "server", "tool", "tool_pattern", "min_risk")
    scope: dict[str, Scalar] = dict.fromkeys(names)
    rest: dict[str, Scalar] = {"action": "DENY", "reason": "", "enabled": True}
    expired = item("rule", {**scope, **rest, "expires_at": PAST})
    of_revoked = item("rule", {**scope, **rest, "agent": "bot", "expires_at": NEXT_YEAR})
    agent = item("agent", {"name": "bot", "owner": "ada", "description": ""})
    live = Live((replace(agent, revoked=True), expired, of_revoked))
    text = export(live, NOW)
    assert "rules: []" in text
    assert "agents: []" in text
