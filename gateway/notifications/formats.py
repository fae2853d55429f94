"""One event, as a program, a chat room or a mailbox reads it. Pure."""

from collections.abc import Mapping
from email.message import EmailMessage
from typing import Any

import orjson

from gateway.frozen import frozen

_TITLES: Mapping[str, str] = {
    "approval.created": "A call waits for approval",
    "approval.decided": "An approval was decided",
    "budget.warning": "A budget is nearly used up",
    "budget.exceeded": "A budget is used up",
    "tool.changed": "A tool is not as it was accepted",
    "stop.raised": "Emergency stop",
    "policy.failed": "A policy did not become active; the last good one decides",
    "anchor.failed": "The log could not be anchored",
    "breaker.tripped": "An agent runs in circles",
}


@frozen
class Told:
    """An event of the outbox, opened."""

    title: str
    facts: tuple[tuple[str, str], ...]
    raw: bytes


def told(body: str) -> Told:
    document: dict[str, Any] = orjson.loads(body)
    facts = [("time", str(document["timestamp"]))]
    facts += [(name, _text(value)) for name, value in document["data"].items() if value is not None]
    kind = str(document["type"])
    return Told(_TITLES.get(kind, kind), tuple(facts), body.encode())


def slack(event: Told) -> bytes:
    """For an incoming webhook: https://api.slack.com/messaging/webhooks."""
    lines = [f"*{_slack(event.title)}*"]
    lines += [f"{_slack(name)}: `{_slack(value)}`" for name, value in event.facts]
    return orjson.dumps({"text": "\n".join(lines)})


def teams(event: Told) -> bytes:
    """An Adaptive Card 1.4, as a Teams workflow that waits for a webhook request takes it."""
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [
            {"type": "TextBlock", "text": event.title, "weight": "Bolder", "wrap": True},
            {
                "type": "FactSet",
                "facts": [{"title": name, "value": _teams(value)} for name, value in event.facts],
            },
        ],
    }
    kind = "application/vnd.microsoft.card.adaptive"
    attachment = {"contentType": kind, "contentUrl": None, "content": card}
    return orjson.dumps({"type": "message", "attachments": [attachment]})


def mail(event: Told, message_id: str, sender: str, to: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = sender
    message["To"] = to
    message["Subject"] = f"[policy-gateway] {event.title}"
    # The same for each attempt: a mailbox that has it already can tell.
    message["Message-ID"] = f"<{message_id}@{sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    lines = [f"{name}: {value}" for name, value in event.facts]
    message.set_content("\n".join([event.title, "", *lines]))
    return message


def _text(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _slack(text: str) -> str:
    # Slack's three control characters; a backtick would end the code that shows the value.
    for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("`", "'")):
        text = text.replace(plain, escaped)
    return text


def _teams(text: str) -> str:
    # Cards read Markdown: a name must not become a link.
    return "".join(f"\\{one}" if one in "\\`*_[]()#!<>|" else one for one in text)
