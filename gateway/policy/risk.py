"""Asks Rego how much harm each of a server's tools can do."""

from collections.abc import Iterator, Mapping, Sequence

import jiter
import orjson

from gateway.frozen import frozen
from gateway.policy.engine import LARGEST_QUESTION, Engine, EngineFault
from gateway.values import Json, Risk

_SECONDS = 5.0
_FIELDS = ("name", "title", "description", "inputSchema", "annotations")
_TOO_LARGE = "the definition is too large to be assessed"


@frozen
class RiskAssessment:
    risk: Risk
    reasons: tuple[str, ...]


class RiskAssessor:
    """`data.gateway.risks`, asked in pieces that OPA can bear."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def risks(self, definitions: Sequence[Mapping[str, Json]]) -> list[RiskAssessment]:
        """Assess MCP tool definitions, in their order. Raises `EngineFault`."""
        found: list[RiskAssessment] = []
        for tools in _pieces(definitions):
            if tools is None:
                found.append(RiskAssessment(Risk.CRITICAL, (_TOO_LARGE,)))
            else:
                found += await self._assess(tools)
        return found

    async def _assess(self, tools: list[bytes]) -> list[RiskAssessment]:
        question = b'{"input":{"tools":[%b]}}' % b",".join(tools)
        answer = await self._engine.ask(b"gateway/risks", question, key="scan", seconds=_SECONDS)
        if not isinstance(answer.result, list) or len(answer.result) != len(tools):
            raise EngineFault("data.gateway.risks did not answer for each tool")
        return [_assessment(item) for item in answer.result]


def _pieces(definitions: Sequence[Mapping[str, Json]]) -> Iterator[list[bytes] | None]:
    """Tools as JSON, as many together as one question may hold; None for one that is too large."""
    most = LARGEST_QUESTION - 64
    piece: list[bytes] = []
    for definition in definitions:
        fields = {field: definition[field] for field in _FIELDS if field in definition}
        tool = orjson.dumps(fields, default=as_sent)
        if piece and (len(tool) > most or sum(map(len, piece)) + len(piece) + len(tool) > most):
            yield piece
            piece = []
        if len(tool) > most:
            yield None
        else:
            piece.append(tool)
    if piece:
        yield piece


def as_sent(value: object) -> object:
    """orjson's `default`: a number keeps the digits that it came with."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, jiter.LosslessFloat):
        return orjson.Fragment(bytes(value))
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _assessment(item: Json) -> RiskAssessment:
    try:
        reasons = tuple(_sentence(reason) for reason in item["reasons"])
        return RiskAssessment(Risk(item["level"]), reasons)
    except (KeyError, TypeError, ValueError):
        raise EngineFault(f"data.gateway.risks answered {item!r}") from None


def _sentence(reason: Json) -> str:
    level, word, where = Risk(reason["level"]), reason["word"], reason["where"]
    return f"{level}: “{word}” in {where}" if word else f"{level}: unreadable {where}"
