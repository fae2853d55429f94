"""What is no tool call: passed on as it came, and tool lists compared on their way back.

A definition that is not the accepted one is withheld from the list, and what the list showed is
stored, so that the tool is refused from then on.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import orjson
import structlog

from gateway import answers
from gateway.mcp.conversation import Conversation, exchange_of
from gateway.mcp.digests import definition_digests
from gateway.mcp.envelope import Message, RequestMessage
from gateway.mcp.folding import fold
from gateway.mcp.listing import Definitions, Judge, Judging, Listing, ListingEvents, read_page
from gateway.mcp.lossless import Unreadable
from gateway.mcp.screening import About, Notes, ScreenedEvents, Screening
from gateway.mcp.upstream import Upstreams
from gateway.refusals import Refused
from gateway.registry import pins
from gateway.registry.core import Actor, Registry
from gateway.steps.methods import Exchange
from gateway.steps.visibility import Visibility
from gateway.telemetry.logs import fault_text
from gateway.values import Answer, Call, Caller, Era, Forwarded, Json, Request, Tool

_MOST_NEWS = 200
"""Of one list that are stored, for meanwhile no call is admitted; the next list shows the rest."""

_MOST_FRUITLESS = 1000

_log = structlog.get_logger(__name__)


class Relay:
    def __init__(
        self,
        upstreams: Upstreams,
        registry: Registry,
        visibility: Visibility,
        conversation: Conversation,
        screening: Screening,
    ) -> None:
        self._upstreams = upstreams
        self._visibility = visibility
        self._conversation = conversation
        self._screening = screening
        self._registry = registry
        self._observing: set[asyncio.Task[None]] = set()
        self._fruitless: set[bytes] = set()
        """Of unknown names that the registry did not take, which lists would bring it for ever."""

    async def pass_on(self, caller: Caller, request: Request, message: Message | None) -> Answer:
        """Send on and return the answer; ``message`` is None for GET and DELETE."""
        exchange = exchange_of(caller, request, message)
        rpc_id, era = exchange.rpc_id, exchange.era
        try:
            request = await self._conversation.say(caller, request, message)
        except Refused as refused:
            return answers.refused_message(rpc_id, refused)
        forwarded = await self._upstreams.relay(caller, request, rpc_id=rpc_id, era=era)
        forwarded = await self._conversation.hear(exchange, forwarded)
        if forwarded.reason:
            return answers.failed_message(rpc_id, forwarded.reason)
        judging = partial(self._judging, caller, request, era)
        # A task's result and a resumed stream answer calls that nobody names here.
        about = About(caller, method=getattr(message, "method", None))
        screens = self._screening.covers(about)
        if forwarded.stream is not None:
            # Whichever request opened it: a resumed stream carries the answers of others.
            events = ListingEvents(
                forwarded.stream, rpc_id, judging, lambda listing: self._note(caller, listing)
            )
            # After the pins, which are about what the server said.
            stream = (
                ScreenedEvents(events, self._screening, about, rpc_id, Notes())
                if screens
                else events
            )
            return Answer(forwarded.status, forwarded.headers, stream=stream)
        answer = await self._whole(caller, message, forwarded, judging)
        return await self._screened(answer, about, rpc_id) if screens and answer.body else answer

    async def _screened(self, answer: Answer, about: About, rpc_id: str | int | None) -> Answer:
        screened = await self._screening.screen(answer.body, about)
        if not screened.reason:
            return replace(answer, body=screened.message)
        withheld = answers.failed_message(rpc_id, screened.reason)
        # Clients tell the protocol's era, and the end of a session, by such a status.
        return replace(withheld, status=answer.status) if answer.status >= 400 else withheld

    async def allow(self, caller: Caller, request: Request, message: Message) -> None:
        """Ask about a message that the gateway answers itself. Raises `Refused`."""
        await self._conversation.say(caller, request, message)

    async def hear(self, call: Call, forwarded: Forwarded) -> Forwarded:
        """What may be passed on of the answer to a tool call."""
        exchange = Exchange(
            call.caller, call.request, call.era, "tools/call", call.session, call.rpc_id
        )
        return await self._conversation.hear(exchange, forwarded)

    async def close(self) -> None:
        """Finish storing what lists showed."""
        await asyncio.gather(*self._observing)

    async def _whole(
        self, caller: Caller, message: Message | None, forwarded: Forwarded, judging: Judging
    ) -> Answer:
        body = forwarded.body or b""
        if isinstance(message, RequestMessage) and message.method == "tools/list":
            try:
                body = await self._listed(caller, body, judging)
            except Unreadable as fault:
                _log.warning(
                    "a tool list is withheld", server=caller.server.id, why=fault_text(fault)
                )
                return answers.failed_message(message.id, "answer_unreadable")
            except Refused as refused:
                _log.warning("a tool list is withheld", server=caller.server.id, why=refused.reason)
                return answers.refused_message(message.id, refused)
        return Answer(forwarded.status, forwarded.headers, body)

    async def _listed(self, caller: Caller, body: bytes, judging: Judging) -> bytes:
        page = read_page(body)
        if page is None:
            return body
        listing = page.shown(await judging(page.definitions))
        self._note(caller, listing)
        await self.close()
        return listing.body

    async def _judging(
        self, caller: Caller, request: Request, era: Era, definitions: Definitions
    ) -> Judge:
        project = caller.project
        names = [str(definition["name"]) for definition in definitions]
        hidden = await self._visibility.hidden(caller, request, era, names)

        def judge(definition: Mapping[str, Json]) -> bool:
            name = str(definition["name"])
            if name in hidden:
                return False
            tool = self._tools(caller).get(name)
            if tool is None:
                return project.unknown_tools != "deny"
            if tool.pin == "CHANGED" and project.on_tool_change == "alert":
                return True
            return tool.pin == "ACCEPTED" and _is_accepted(tool, definition)

        return judge

    def _tools(self, caller: Caller) -> Mapping[str, Tool]:
        return self._registry.directory.view(caller.project.id).tools.get(caller.server.id, {})

    def _note(self, caller: Caller, listing: Listing) -> None:
        tools = self._tools(caller)
        news = [d for d in listing.definitions if _is_news(tools.get(str(d["name"])), d)]
        if news:
            if len(news) > _MOST_NEWS:
                news = _most_telling(news, tools)[:_MOST_NEWS]
            fingerprint = _fingerprint(caller, news)
            if fingerprint in self._fruitless and all(d["name"] not in tools for d in news):
                return
            task = asyncio.create_task(self._observe(caller, news, fingerprint))
            self._observing.add(task)
            task.add_done_callback(self._observing.discard)

    async def _observe(
        self, caller: Caller, definitions: list[Mapping[str, Json]], fingerprint: bytes
    ) -> None:
        by = Actor.gateway(caller.project.id)
        findings = await self._registry.change(
            by, lambda change: pins.observe(change, caller.server.id, definitions)
        )
        if not findings.added and not findings.changed and not findings.suspects:
            if len(self._fruitless) >= _MOST_FRUITLESS:
                self._fruitless.clear()
            self._fruitless.add(fingerprint)
        _log.warning(
            "a tool list shows what was not accepted",
            server=caller.server.id,
            added=findings.added,
            changed=findings.changed,
            suspects=findings.suspects,
        )


def _most_telling(
    news: list[Mapping[str, Json]], tools: Mapping[str, Tool]
) -> list[Mapping[str, Json]]:
    """First what a known tool has become, then what is spelled like one."""
    folded = {fold(name) for name in tools}

    def order(definition: Mapping[str, Json]) -> tuple[bool, bool]:
        name = str(definition["name"])
        return name not in tools, fold(name) not in folded

    return sorted(news, key=order)


def _fingerprint(caller: Caller, definitions: list[Mapping[str, Json]]) -> bytes:
    names = sorted(str(definition["name"]) for definition in definitions)
    return hashlib.sha256(orjson.dumps([caller.server.id, names])).digest()


def _is_accepted(tool: Tool, definition: Mapping[str, Json]) -> bool:
    return definition_digests(definition)[0] == tool.definition_sha256


def _is_news(tool: Tool | None, definition: Mapping[str, Json]) -> bool:
    """Not stored yet: an unknown tool, one that changed, or one that is back."""
    if tool is None or tool.pin == "GONE":
        return True
    return tool.pin == "ACCEPTED" and not _is_accepted(tool, definition)
