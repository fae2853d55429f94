"""Response policies, asked of a real OPA: withheld, blackened, labelled; closed when in doubt."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import orjson
import pytest

from gateway.flows import Ended
from gateway.mcp.screening import About, Notes, ScreenedEvents, Screening
from gateway.policy.bundles import Bundle, build_bundle, keep, last_good
from gateway.policy.check import check
from gateway.policy.engine import EngineAnswer
from gateway.policy.sources import the_sources
from gateway.values import Enforcement
from tests.builders import a_caller, a_project, a_tool
from tests.policy.world import KEY, World, running, the_opa

pytestmark = pytest.mark.anyio

NOW = "2026-01-31T12:00:00.000000Z"
POLICIES = {
    "all/cards": """# METADATA
# title: Card numbers
# schemas:
#   - input: schema.response.input
package policies.response.all.cards

import rego.v2

# METADATA
# title: Findings
findings contains {
	"policy_id": "cards",
	"reason": "card numbers stay where they are",
	"obligations": [{"type": "redact", "patterns": [`\\b(?:\\d[ -]?){13,16}\\b`]}],
}
""",
    "tool/query_records/salaries": """# METADATA
# title: Salaries
# schemas:
#   - input: schema.response.input
package policies.response.tool.query_records.salaries

import rego.v2

# METADATA
# title: Findings
findings contains {
	"policy_id": "salaries",
	"reason": "salaries are nobody's business",
	"obligations": [
		{"type": "redact", "pointers": ["/structuredContent/rows/*/salary"]},
		{"type": "label", "label": "hr"},
	],
} if {
	input.kind == "result"
	input.body.structuredContent.rows
}

findings contains {
	"policy_id": "top_secret",
	"reason": "it says so itself",
	"obligations": [{"type": "block"}],
} if {
	contains(json.marshal(input.body), "TOP SECRET")
}
""",
}
SCHEMA = {
    "type": "object",
    "properties": {
        "rows": {
            "type": "array",
            "items": {"type": "object", "properties": {"salary": {"type": "number"}}},
        }
    },
}
ABOUT = About(a_caller(), "query_records", a_tool(output_schema=SCHEMA), "tools/call")
UNKNOWN = About(a_caller())


def a_folder() -> Path:
    folder = Path(mkdtemp())
    for name, text in POLICIES.items():
        path = folder / "response" / f"{name}.rego"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@cache
def a_bundle() -> Bundle:
    return build_bundle(the_sources([a_folder()]), opa=the_opa(), key=KEY)


@asynccontextmanager
async def screening(tmp_path: Path) -> AsyncIterator[tuple[Screening, World]]:
    async with running(tmp_path, a_bundle()) as world:
        yield Screening(world.engine, lambda: world.bundles.features.responses, lambda: NOW), world


def a_message(body: Any, part: str = "result", **more: Any) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": 1, part: body} | more)


def said(text: str) -> bytes:
    return a_message({"content": [{"type": "text", "text": text}]})


def test_a_bundle_says_whose_responses_are_inspected_also_after_a_restart(tmp_path: Path) -> None:
    routes = frozenset({("all", ""), ("tool", "query_records")})
    assert a_bundle().features.responses == routes
    keep(a_bundle(), tmp_path)
    again = last_good(tmp_path)
    assert again is not None
    assert again.features.responses == routes
    assert build_bundle(the_sources(), opa=the_opa(), key=KEY).features.responses == frozenset()


def test_response_policies_pass_the_check_and_flaws_in_them_do_not() -> None:
    folder = a_folder()
    assert [flaw for flaw in check([folder], the_opa()) if flaw.level == "error"] == []
    broken = folder / "response" / "all" / "cards.rego"
    text = broken.read_text().replace('"obligations"', '"obligation"')
    broken.write_text(text.replace("all.cards", "all.deep.cards"))
    rules = {flaw.rule for flaw in check([folder], the_opa())}
    assert {"finding-no-obligations", "never-asked"} <= rules


async def test_answers_are_withheld_blackened_and_labelled(tmp_path: Path) -> None:
    async with screening(tmp_path) as (it, _):
        plain = said("nothing to see")
        assert (await it.screen(plain, ABOUT)).message == plain

        card = await it.screen(said("card 4111 1111 1111 1111, thanks"), ABOUT)
        assert (card.redacted, card.policy_ids) == (True, ("cards",))
        (shown,) = orjson.loads(card.message)["result"]["content"]
        assert shown["text"] == "card [redacted], thanks"

        rows = {"rows": [{"name": "Ada", "salary": 91500.5}, {"name": "Bob"}]}
        text = orjson.dumps(rows).decode()
        paid = await it.screen(
            a_message({"content": [{"type": "text", "text": text}], "structuredContent": rows}),
            ABOUT,
        )
        left = orjson.loads(paid.message)["result"]
        assert left["structuredContent"]["rows"] == [{"name": "Ada", "salary": 0}, {"name": "Bob"}]
        assert b"91500" not in paid.message
        assert paid.labels == ("hr",)

        for message in (
            said("TOP SECRET"),
            a_message({"code": -1, "message": "no", "data": "TOP SECRET"}, "error"),
        ):
            blocked = await it.screen(message, ABOUT)
            assert (blocked.reason, blocked.message) == ("answer_withheld", b"")
            assert "top_secret" in blocked.policy_ids

        # Whose call it answers is not known, so the policies of all tools see it.
        assert (await it.screen(said("TOP SECRET"), UNKNOWN)).reason == "answer_withheld"
        other = replace(ABOUT, tool_name="other", tool=None)
        assert (await it.screen(said("TOP SECRET"), other)).reason == ""


async def test_a_card_number_that_is_a_number_or_a_name_does_not_pass(tmp_path: Path) -> None:
    async with screening(tmp_path) as (it, _):
        other = replace(ABOUT, tool_name="other", tool=a_tool())
        number = a_message({"structuredContent": {"card": 4111111111111111}})
        assert b"4111" not in (await it.screen(number, other)).message
        name = a_message({"structuredContent": {"4111111111111111": True}})
        assert (await it.screen(name, other)).reason == "answer_withheld"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"<html>", "answer_unreadable"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"a":1,"a":2}}', "answer_unreadable"),
        (b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}', "answer_unreadable"),
        (b'{"jsonrpc":"2.0","id":1,"result":{},"method":"x"}', "answer_unreadable"),
        (b'{"jsonrpc":"2.0","id":1,"result":{},"extra":"TOP SECRET"}', "answer_unreadable"),
        (b'[{"jsonrpc":"2.0","id":1,"result":{}}]', "answer_unreadable"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"n":1e400}}', "answer_unreadable"),
        (said("\\" * 200_000), "answer_too_large"),
    ],
)
async def test_what_cannot_be_read_or_asked_about_does_not_pass(
    message: bytes, reason: str
) -> None:
    class Never:
        async def ask(self, *_: object, **__: object) -> EngineAnswer:
            raise AssertionError

    it = Screening(Never(), lambda: frozenset({("all", "")}), lambda: NOW)  # type: ignore[arg-type]
    assert (await it.screen(message, ABOUT)).reason == reason


@pytest.mark.parametrize(
    "answer",
    [None, {}, {"block": "no"}, {"block": False, "pointers": 1}],
)
async def test_half_an_answer_of_opas_is_none(answer: Any) -> None:
    class Half:
        async def ask(self, *_: object, **__: object) -> EngineAnswer:
            return EngineAnswer(answer, "sha256:0")

    it = Screening(Half(), lambda: frozenset({("all", "")}), lambda: NOW)  # type: ignore[arg-type]
    assert (await it.screen(said("x"), ABOUT)).reason == "answer_unreadable"


async def test_without_opa_nothing_passes(tmp_path: Path) -> None:
    async with screening(tmp_path) as (it, world):
        await world.opa.stop()
        assert (await it.screen(said("x"), ABOUT)).reason == "answer_unreadable"


async def test_monitoring_labels_and_withholds_nothing(tmp_path: Path) -> None:
    async with screening(tmp_path) as (it, _):
        project = a_project(enforcement=Enforcement.MONITOR)
        about = replace(ABOUT, caller=a_caller(project=project))
        secret = said("TOP SECRET 4111 1111 1111 1111")
        screened = await it.screen(secret, about)
        assert (screened.message, screened.reason) == (secret, "")
        assert screened.would_withhold
        assert screened.policy_ids == ("cards", "top_secret")


@pytest.mark.parametrize(
    ("routes", "about", "covered"),
    [
        ((), ABOUT, False),
        ((("all", ""),), UNKNOWN, True),
        ((("tool", "query_records"),), ABOUT, True),
        ((("tool", "other"),), ABOUT, False),
        ((("tool", "other"),), UNKNOWN, True),
        ((("project", "acme"),), ABOUT, True),
        ((("server", "crm"),), ABOUT, True),
        ((("agent", "clerk"),), ABOUT, True),
        ((("agent", "clerk"),), About(a_caller(agent=None), "t"), False),
        ((("server", "erp"), ("project", "other")), ABOUT, False),
    ],
)
def test_only_those_are_asked_about_whom_a_policy_sees(
    routes: Sequence[tuple[str, str]], about: About, covered: bool
) -> None:
    it = Screening(None, lambda: frozenset(routes), lambda: NOW)  # type: ignore[arg-type]
    assert it.covers(about) is covered


class Events:
    """A stream of given events."""

    def __init__(self, *events: bytes, ended: Ended = "complete", words: bytes = b"") -> None:
        self._left = list(events)
        self._words = words
        self._how = ended
        self.response = self.data = b""
        self.ended: Ended = ""

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> bytes:
        if self._left:
            data = self._left.pop(0)
            self.data = b"" if data.startswith(b":") else data
            return data if data.startswith(b":") else b"id: 7\n: hid\ndata: " + data + b"\n\n"
        if not self.ended:
            self.ended = self._how
            if self._words:
                return self._words
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.ended = self.ended or "closed"


async def test_every_message_of_a_stream_is_asked_about(tmp_path: Path) -> None:
    def notice(text: str) -> bytes:
        params = {"level": "info", "data": text}
        return orjson.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": params})

    async with screening(tmp_path) as (it, _):
        notes = Notes()
        events = Events(
            b": TOP SECRET\n\n",
            notice("at work"),
            notice("TOP SECRET"),
            notice("4111 1111 1111 1111"),
            said("TOP SECRET"),
        )
        stream = ScreenedEvents(events, it, UNKNOWN, None, notes, "trc_1")
        passed = [event async for event in stream]
        assert b"SECRET" not in b"".join(passed)
        assert b"hid" not in b"".join(passed)
        assert passed[0] == b":\n\n"
        assert all(event.startswith(b"id: 7\n") for event in passed[1:])
        assert b"at work" in passed[1]
        assert b"[redacted]" in passed[2]
        error = orjson.loads(passed[3].partition(b"data: ")[2])
        assert (error["id"], error["error"]["code"]) == (1, -31009)
        assert error["error"]["data"]["trace_id"] == "trc_1"
        assert len(passed) == 4
        assert (notes.reason, notes.redacted) == ("answer_withheld", True)


async def test_a_request_that_is_withheld_ends_the_stream_with_an_error(tmp_path: Path) -> None:
    asked = orjson.dumps(
        {"jsonrpc": "2.0", "id": 9, "method": "elicitation/create", "params": "TOP SECRET"}
    )
    async with screening(tmp_path) as (it, _):
        events = Events(asked, said("fine"))
        stream = ScreenedEvents(events, it, ABOUT, 1, Notes())
        (only,) = [event async for event in stream]
        assert b'"id":1' in only
        assert b'"code":-31009' in only
        assert events.ended == "closed"


async def test_the_gateways_own_last_words_pass(tmp_path: Path) -> None:
    async with screening(tmp_path) as (it, _):
        events = Events(ended="cut", words=b"data: stopped\n\n")
        stream = ScreenedEvents(events, it, ABOUT, 1, Notes())
        assert [event async for event in stream] == [b"data: stopped\n\n"]
