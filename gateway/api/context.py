"""What the API's handlers are given: the registry, and the few things that only the app can do."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field

from gateway.api.making import Making
from gateway.dry_run import Question
from gateway.extensions.control_plane import ControlPlane
from gateway.extensions.entra import EntraTokens
from gateway.frozen import frozen
from gateway.policy.activation import PolicyStatus
from gateway.policy.replay import Replay
from gateway.registry.consents import Granted
from gateway.registry.core import Registry
from gateway.registry.erasure import Vacated
from gateway.registry.pins import Scan
from gateway.trace.checkpoint import Signed
from gateway.values import Json, Key, ProjectId, Server, Stop
from gateway.what_if import Candidate


@frozen
class Readiness:
    """Whether calls can be decided, traced and forwarded now."""

    ready: bool
    checks: Mapping[str, str]
    """What was looked at: ``ok``, or what is wrong. Shown on the management listener only."""


@frozen
class ApiContext:
    registry: Registry
    public_url: str
    """Under which clients reach the gateway, without a slash at its end."""
    scan: Callable[[Server], Awaitable[Scan]]
    """Walks the server's `tools/list` and has it assessed. Raises `gateway.registry.faults.Unready`
    with a message for the administrator; never the upstream's text."""
    redeem: Callable[[Server, str, str, str], Awaitable[Granted]]
    """Turns an authorization code, with PKCE's verifier and the redirect URI, into tokens. Raises
    `gateway.registry.faults.Unready`."""
    decide: Callable[[Key, Question], Awaitable[Mapping[str, Json]]]
    """Answers the members of `gateway.api.decide.Answer`, all of them; the API hides what the
    key's role may not see. Raises `gateway.registry.faults.Unready` when OPA cannot decide."""
    readiness: Callable[[], Awaitable[Readiness]]
    cancel_calls: Callable[[Stop], int]
    """Cuts the running calls that a stop covers; returns how many there were."""
    policy_status: Callable[[], PolicyStatus]
    policy_bundle: Callable[[str], Awaitable[bytes | None]]
    """The archive of the bundle with this digest, if it ever decided here."""
    what_if: Callable[[ProjectId, Candidate], Awaitable[tuple[Replay, int]]]
    """Replays recorded calls against a candidate; see `gateway.what_if`."""
    control_plane: ControlPlane
    """Decides and records what does not pass the proxy."""
    checkpoint: Callable[[], Awaitable[Signed | None]]
    """Signs the log's head as it is now; None for an empty log."""
    vacated: Vacated
    entra: EntraTokens
    evaluate_profile: str | None = None
    """The slug of the server whose policies answer ``/api/evaluate``; None: it is not there."""
    take: Callable[[str], float] = lambda _key_id: 0.0
    """Takes one request from a key's allowance; how many seconds it must wait, or 0."""
    making: Making = field(default_factory=Making)
