"""Forms from JSON Schema, and back."""

from typing import Any

import orjson

from gateway.dashboard.forms import draw, other_faults, read
from gateway.registry.budgets import NewBudget
from gateway.registry.rules import RulePatch
from gateway.registry.servers import NewServer

SERVER: dict[str, Any] = NewServer.model_json_schema()


def test_a_form_of_a_model_says_what_the_model_takes() -> None:
    fields = {field.name: field for field in draw(SERVER)}
    assert fields["name"].required
    assert fields["connector_type"].kind == "choice"
    assert fields["is_proxied"].value == "on"
    assert fields["auth.token"].kind == "secret"
    assert fields["auth.token"].shown_when == "auth.type=bearer"


def test_no_field_is_drawn_twice() -> None:
    names = [field.name for field in draw(SERVER)]
    assert len(names) == len(set(names))


def test_what_is_typed_becomes_the_body() -> None:
    typed = {"name": "crm", "server_url": "https://a.example", "auth.type": "bearer"}
    typed |= {"auth.token": "s", "auth.username": "not meant", "is_proxied": "on"}
    body = read(SERVER, typed)
    assert body["auth"] == {"type": "bearer", "token": "s"}
    assert body["is_proxied"] is True
    assert body["allow_private_network"] is False
    assert "description" not in body
    NewServer.model_validate_json(orjson.dumps(body))


def test_a_value_of_the_wrong_type_is_passed_on_as_it_was_typed() -> None:
    body = read(NewBudget.model_json_schema(), {"limit": "many", "window": "day"})
    assert body["limit"] == "many"


def test_a_change_holds_only_what_differs_and_can_clear_a_value() -> None:
    schema = RulePatch.model_json_schema()
    before = {"action": "DENY", "agent_id": "agt_1", "reason": "x", "enabled": True}
    typed = {"action": "DENY", "agent_id": "", "reason": "y", "enabled": "on"}
    assert read(schema, typed, before=before) == {"agent_id": None, "reason": "y"}


def test_a_form_that_comes_back_keeps_what_was_typed_and_shows_every_fault() -> None:
    typed = {"name": "crm", "server_url": "nonsense", "auth.type": "bearer"}
    errors = {"server_url": "no URL", "auth.bearer.token": "is needed", "elsewhere": "odd"}
    fields = draw(SERVER, typed=typed, errors=errors)
    shown = {field.name: field for field in fields}
    assert (shown["server_url"].value, shown["server_url"].error) == ("nonsense", "no URL")
    assert shown["auth.token"].error == "is needed"
    assert "elsewhere: odd" in other_faults(errors, fields)


def test_numbers_in_json_are_sent_with_the_digits_that_were_typed() -> None:
    schema = {"type": "object", "properties": {"args": {"type": "object"}}}
    body = read(schema, {"args": '{"amount": 1.10}'})
    assert orjson.dumps(body) == b'{"args":{"amount": 1.10}}'


def test_an_amount_is_typed_as_people_write_it() -> None:
    schema = NewBudget.model_json_schema()
    (limit,) = (field for field in draw(schema, values={"limit": "25.50"}) if field.name == "limit")
    assert (limit.kind, limit.value) == ("amount", "25.50")
    for typed, meant in (("40", 40), ("25.50", "25.50"), ('"25.50"', "25.50"), ("many", "many")):
        assert read(schema, {"limit": typed})["limit"] == meant
