"""`/policy`: which bundle decides, why another does not, and every bundle that ever decided."""

from typing import Annotated

from pydantic import Field
from starlette.responses import Response

from gateway.api.call import ApiCall
from gateway.api.models import Output
from gateway.policy.bundle_server import CONTENT_TYPE
from gateway.policy.replay import as_document
from gateway.registry.faults import Missing
from gateway.registry.fields import Input
from gateway.what_if import Candidate


class ActiveOut(Output):
    revision: str
    digest: str
    since: str
    sources: dict[str, str]
    """Each source's name and the SHA-256 over its files."""


class FailureOut(Output):
    reason: str
    file: str
    """Empty where no one file is to blame; then `line` is 0."""
    line: int
    at: str
    deciding: str | None
    """The digest of the bundle that decides all the same."""
    resolved_at: str | None
    """When the sources were good again."""


class PolicyStatusOut(Output):
    active: ActiveOut | None
    building_since: str | None
    last_failure: FailureOut | None


class ReplayBody(Input):
    """A candidate: files laid over the organisation's policy, and how far back to look."""

    files: Annotated[
        dict[
            Annotated[str, Field(min_length=1, max_length=256)],
            Annotated[str, Field(max_length=256 << 10)] | None,
        ],
        Field(min_length=1, max_length=200, description="Path to text; null takes a file away"),
    ]
    hours: Annotated[
        float, Field(gt=0, le=24 * 90, description="How far back calls are taken from")
    ] = 24 * 7
    limit: Annotated[int, Field(ge=1, le=10_000, description="Calls, the newest first")] = 10_000


class ChangeOut(Output):
    kind: str
    before: str
    after: str
    policy_ids: list[str]
    tool: str
    trace_ids: list[str]


class WithoutDecision(Output):
    trace_id: str
    message: str


class Times(Output):
    p50: int
    p99: int


class BeforeAndAfter(Output):
    before: Times
    after: Times


class ReplayOut(Output):
    """Calls are named, never their arguments."""

    inputs: int
    stricter: bool
    looser: bool
    changes: list[ChangeOut]
    errors: list[WithoutDecision]
    latency_us: BeforeAndAfter
    not_replayable: int
    """Calls whose recorded input is gone."""


async def status(call: ApiCall) -> PolicyStatusOut:
    return PolicyStatusOut.model_validate(call.context.policy_status())


async def bundle(call: ApiCall) -> Response:
    """The archive's bytes; they never change, and their digest is their name."""
    digest = call.path["digest"]
    archive = await call.context.policy_bundle(digest)
    if archive is None:
        raise Missing("policy bundle")
    name = digest.replace(":", "-") + ".tar.gz"
    headers = {"ETag": f'"{digest}"', "Content-Disposition": f'attachment; filename="{name}"'}
    return Response(archive, headers=headers, media_type=CONTENT_TYPE)


async def replay(call: ApiCall, body: ReplayBody) -> ReplayOut:
    """What the candidate would have decided otherwise; nothing of it ever serves."""
    candidate = Candidate(body.files, body.hours * 3600, body.limit)
    result, unkept = await call.context.what_if(call.project_id, candidate)
    return ReplayOut.model_validate({**as_document(result), "not_replayable": unkept})
