"""`/policy`: which bundle decides, why another does not, and every bundle that ever decided."""

from starlette.responses import Response

from gateway.api.call import ApiCall
from gateway.api.models import Output
from gateway.policy.bundle_server import CONTENT_TYPE
from gateway.registry.faults import Missing


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
