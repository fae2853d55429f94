"""The one table of the API: each route with who may use it, what it takes and what it answers.

Roles are enforced from this table and nowhere else; OpenAPI is written from it. A key sees its own
project: every handler looks ids up in the key's project only, so that another project's id and one
that does not exist are answered alike.
"""

from collections.abc import Sequence
from functools import cache

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute

from gateway.api import (
    agents,
    anchors,
    approvals,
    budgets,
    consents,
    decide,
    emergency_stop,
    evidence,
    extensions,
    keys,
    notifications,
    openapi,
    overrides,
    policies,
    policy_bundles,
    project,
    proposals,
    servers,
    templates,
    tools,
    traces,
    users,
)
from gateway.api.context import ApiContext
from gateway.api.endpoint import Endpoint, Route
from gateway.api.errors import ApiError, answer
from gateway.api.health import HealthEndpoints
from gateway.api.models import Listing, ListQuery
from gateway.extensions import authzen, copilot_studio, mappers, platform_events, webhook
from gateway.extensions.events import EventsIn, IngestAnswers
from gateway.ids import new_id
from gateway.policy.bundle_server import CONTENT_TYPE
from gateway.registry.agents import AgentPatch, NewAgent
from gateway.registry.approvals import Ruling
from gateway.registry.budgets import BudgetPatch, NewBudget
from gateway.registry.erasure import Erasing
from gateway.registry.extensions import NewExtension
from gateway.registry.keys import NewKey
from gateway.registry.notifications import NewNotification
from gateway.registry.overrides import NewOverride
from gateway.registry.projects import ProjectPatch
from gateway.registry.proposals import Word
from gateway.registry.rules import NewRule, RulePatch
from gateway.registry.servers import NewServer, ServerPatch
from gateway.registry.stops import Lift, NewStop
from gateway.registry.templated_servers import FromTemplate, NextVersion
from gateway.registry.tools import Acceptance, ToolPatch
from gateway.registry.users import NewUser, UserPatch
from gateway.values import Role

BASE = "/api/v1"

_ADMIN = frozenset({Role.ADMIN})
_READERS = frozenset({Role.ADMIN, Role.AUDITOR})
_TRACE_READERS = _READERS | {Role.EXTENSION}
_APPROVERS = frozenset({Role.ADMIN, Role.APPROVER})
_APPROVAL_READERS = _APPROVERS | _READERS
_CALLERS = frozenset({Role.PROJECT})
_PLATFORMS = frozenset({Role.EXTENSION})
_SENDERS = frozenset({Role.EXTENSION, Role.PROJECT})
_DECIDERS = frozenset({Role.PROJECT, Role.ADMIN})

# fmt: off
ROUTES: tuple[Route, ...] = (
    Route("GET", "/mcp/servers", _READERS, servers.list_servers, "List servers",
          Listing[servers.ServerOut], query=ListQuery),
    Route("POST", "/mcp/servers", _ADMIN, servers.register, "Register a server",
          servers.ServerOut, body=NewServer, status=201),
    Route("GET", "/mcp/servers/{id}", _READERS, servers.get, "Read a server", servers.ServerOut),
    Route("PATCH", "/mcp/servers/{id}", _ADMIN, servers.patch,
          "Change, approve or block a server", servers.ServerOut, body=ServerPatch,
          may_loosen=True),
    Route("DELETE", "/mcp/servers/{id}", _ADMIN, servers.remove,
          "Remove a server with its tools and rules", None, status=204),
    Route("POST", "/mcp/servers/from-template", _ADMIN, servers.register_from_template,
          "Register a server with a template's policies", servers.TemplatedServerOut,
          body=FromTemplate, status=201),
    Route("POST", "/mcp/servers/{id}/template-version", _ADMIN, servers.accept_version,
          "Accept the template's present version", servers.ServerOut, body=NextVersion),
    Route("GET", "/mcp/templates", _ADMIN, templates.list_templates, "List connector templates",
          templates.TemplatesOut),
    Route("GET", "/mcp/templates/{name}", _ADMIN, templates.get, "Read a connector template",
          templates.TemplateOut),
    Route("POST", "/mcp/servers/{id}/scan", _ADMIN, servers.scan, "Scan a server's tools",
          servers.ScanOut),
    Route("GET", "/mcp/servers/{id}/consent", _READERS, consents.get,
          "Read how the consent to use a server stands", consents.ConsentOut),
    Route("POST", "/mcp/servers/{id}/consent", _ADMIN, consents.ask,
          "Ask where to consent that the gateway uses a server", consents.AskedOut),
    Route("GET", "/mcp/servers/{id}/tools", _READERS, tools.list_tools, "List a server's tools",
          Listing[tools.ToolOut], query=ListQuery),
    Route("GET", "/mcp/servers/{id}/overrides", _READERS, overrides.list_overrides,
          "List a server's overrides", Listing[overrides.OverrideOut], query=ListQuery),
    Route("POST", "/mcp/servers/{id}/overrides", _ADMIN, overrides.create,
          "Loosen or tighten a template's policy on a server, for a time",
          overrides.OverrideOut, body=NewOverride, status=201, may_loosen=True),
    Route("DELETE", "/mcp/servers/{id}/overrides/{override_id}", _ADMIN, overrides.remove,
          "Remove an override", None, status=204, may_loosen=True),
    Route("PATCH", "/mcp/tools/{id}", _ADMIN, tools.patch,
          "Override a tool's risk, set what a call costs",
          tools.ToolOut, body=ToolPatch, may_loosen=True),
    Route("GET", "/mcp/tools/{id}/diff", _READERS, tools.diff,
          "Compare the accepted definition with the current one", tools.DiffOut),
    Route("POST", "/mcp/tools/{id}/accept", _ADMIN, tools.accept,
          "Accept the definition that was shown", tools.ToolOut, body=Acceptance),
    Route("GET", "/mcp/policies", _READERS, policies.list_policies,
          "List rules and templates' policies",
          Listing[policies.PolicyOut], query=ListQuery),
    Route("POST", "/mcp/policies", _ADMIN, policies.create, "Make a rule",
          policies.PolicyOut, body=NewRule, status=201, may_loosen=True),
    Route("GET", "/mcp/policies/{id}", _READERS, policies.get, "Read a rule",
          policies.PolicyOut),
    Route("PATCH", "/mcp/policies/{id}", _ADMIN, policies.patch, "Change a rule",
          policies.PolicyOut, body=RulePatch, may_loosen=True),
    Route("DELETE", "/mcp/policies/{id}", _ADMIN, policies.remove,
          "Remove a rule, or disable a template's policy for a time", None,
          query=policies.RemoveQuery, status=204, may_loosen=True),
    Route("GET", "/proposals", _READERS, proposals.list_proposals,
          "List changes that wait for a second person", Listing[proposals.ProposalOut],
          query=ListQuery),
    Route("POST", "/proposals/{id}/confirm", _ADMIN, proposals.confirm,
          "Make another person's change", proposals.ProposalOut, body=Word),
    Route("POST", "/proposals/{id}/reject", _ADMIN, proposals.reject, "Void a proposed change",
          proposals.ProposalOut, body=Word),
    Route("POST", "/mcp/decide", _DECIDERS, decide.decide,
          "Ask what would be decided of a call", decide.Answer, body=decide.DecideBody,
          writes=False),
    Route("GET", "/mcp/emergency-stop", _APPROVAL_READERS, emergency_stop.list_stops,
          "List emergency stops", Listing[emergency_stop.StopOut], query=ListQuery),
    Route("POST", "/mcp/emergency-stop", _APPROVERS, emergency_stop.raise_stop,
          "Stop the project, a server or an agent", emergency_stop.RaisedOut, body=NewStop,
          status=201),
    Route("POST", "/mcp/emergency-stop/{id}/lift", _ADMIN, emergency_stop.lift,
          "Lift an emergency stop", emergency_stop.StopOut, body=Lift),
    Route("GET", "/agents", _READERS, agents.list_agents, "List agents",
          Listing[agents.AgentOut], query=ListQuery),
    Route("POST", "/agents", _ADMIN, agents.create, "Make an agent", agents.AgentOut,
          body=NewAgent, status=201),
    Route("GET", "/agents/{id}", _READERS, agents.get, "Read an agent", agents.AgentOut),
    Route("PATCH", "/agents/{id}", _ADMIN, agents.patch, "Change an agent", agents.AgentOut,
          body=AgentPatch),
    Route("POST", "/agents/{id}/pause", _ADMIN, agents.pause, "Pause an agent",
          agents.AgentOut),
    Route("POST", "/agents/{id}/resume", _ADMIN, agents.resume, "Let an agent go on",
          agents.AgentOut),
    Route("POST", "/agents/{id}/suspend", _ADMIN, agents.suspend, "Suspend an agent",
          agents.AgentOut),
    Route("POST", "/agents/{id}/revoke", _ADMIN, agents.revoke, "Revoke an agent for good",
          agents.AgentOut),
    Route("GET", "/agents/{id}/budgets", _READERS, agents.list_budgets,
          "List an agent's budgets", Listing[budgets.BudgetOut], query=ListQuery),
    Route("GET", "/keys", _READERS, keys.list_keys, "List keys", Listing[keys.KeyOut],
          query=ListQuery),
    Route("POST", "/keys", _ADMIN, keys.create, "Make a key; its secret is shown once",
          keys.NewKeyOut, body=NewKey, status=201),
    Route("DELETE", "/keys/{id}", _ADMIN, keys.revoke, "Revoke a key", keys.KeyOut),
    Route("POST", "/keys/{id}/rotate", _ADMIN, keys.rotate,
          "Give a key a new secret, shown once", keys.NewKeyOut),
    Route("GET", "/users", _READERS, users.list_users, "List people", Listing[users.UserOut],
          query=ListQuery),
    Route("POST", "/users", _ADMIN, users.create,
          "Let a person sign in; a password that is made is shown once", users.NewUserOut,
          body=NewUser, status=201),
    Route("PATCH", "/users/{id}", _ADMIN, users.patch, "Change a person's role or password",
          users.UserOut, body=UserPatch),
    Route("DELETE", "/users/{id}", _ADMIN, users.remove, "Remove a person and end their sessions",
          None, status=204),
    Route("GET", "/budgets", _READERS, budgets.list_budgets, "List budgets",
          Listing[budgets.BudgetOut], query=ListQuery),
    Route("POST", "/budgets", _ADMIN, budgets.create, "Make a budget", budgets.BudgetOut,
          body=NewBudget, status=201),
    Route("GET", "/budgets/{id}", _READERS, budgets.get, "Read a budget and what is used",
          budgets.BudgetOut),
    Route("PATCH", "/budgets/{id}", _ADMIN, budgets.patch, "Change a budget",
          budgets.BudgetOut, body=BudgetPatch, may_loosen=True),
    Route("DELETE", "/budgets/{id}", _ADMIN, budgets.remove, "Remove a budget", None,
          status=204, may_loosen=True),
    Route("GET", "/budgets/{id}/history", _READERS, budgets.history,
          "List what was used of a budget, for 90 days", Listing[budgets.WindowOut],
          query=ListQuery),
    Route("GET", "/approvals", _APPROVAL_READERS, approvals.list_approvals, "List approvals",
          Listing[approvals.ApprovalOut], query=approvals.ApprovalsQuery),
    Route("GET", "/approvals/status", _CALLERS, approvals.status,
          "Ask how an approval stands, or wait for it", approvals.ApprovalStatus,
          query=approvals.StatusQuery),
    Route("GET", "/approvals/{id}", _APPROVAL_READERS, approvals.get,
          "Read an approval with its call", approvals.OpenedApproval),
    Route("POST", "/approvals/{id}/approve", _APPROVERS, approvals.approve,
          "Let this exact call pass, once", approvals.ApprovalOut, body=Ruling),
    Route("POST", "/approvals/{id}/deny", _APPROVERS, approvals.deny, "Deny the call",
          approvals.ApprovalOut, body=Ruling),
    Route("GET", "/traces", _TRACE_READERS, traces.list_traces, "List records, newest first",
          Listing[traces.TraceOut], query=traces.TracesQuery),
    Route("GET", "/traces/{id}", _TRACE_READERS, traces.get, "Read a call's records and payloads",
          traces.FullTrace),
    Route("GET", "/notifications", _ADMIN, notifications.list_notifications,
          "List who is told of what", Listing[notifications.NotificationOut], query=ListQuery),
    Route("POST", "/notifications", _ADMIN, notifications.create,
          "Have a webhook, a chat room or a mailbox told", notifications.NewNotificationOut,
          body=NewNotification, status=201),
    Route("DELETE", "/notifications/{id}", _ADMIN, notifications.remove,
          "Tell it nothing more", None, status=204),
    Route("GET", "/extensions", _READERS, extensions.list_extensions, "List extensions",
          Listing[extensions.ExtensionOut], query=ListQuery),
    Route("POST", "/extensions", _ADMIN, extensions.create,
          "Make an extension; its key and signing secret are shown once",
          extensions.NewExtensionOut, body=NewExtension, status=201),
    Route("DELETE", "/extensions/{id}", _ADMIN, extensions.remove, "End an extension",
          extensions.ExtensionOut),
    Route("POST", "/extensions/{id}/rotate", _ADMIN, extensions.rotate,
          "Give an extension a new key and signing secret, shown once",
          extensions.NewExtensionOut),
    Route("POST", "/webhooks/ingest", _SENDERS, webhook.described,
          "Ask before a tool call, or report one: an event, or up to 100", IngestAnswers,
          body=EventsIn, door=webhook.ingest, verdicts=(202, 403, 503)),
    Route("GET", "/traces/{id}/proof", _READERS, evidence.proof,
          "Prove that a call's records are in the log", evidence.ProofsOut),
    Route("DELETE", "/traces/{id}/payload", _ADMIN, evidence.erase,
          "Erase what is kept of a call; its proof stays valid", evidence.ErasedOut, body=Erasing),
    Route("GET", "/checkpoints/latest", _READERS, evidence.checkpoint,
          "Read the log's signed head", evidence.CheckpointOut),
    Route("POST", "/evidence", _READERS, evidence.bundle,
          "Download an evidence bundle for a filter", (evidence.ZIP,), body=evidence.EvidenceBody,
          writes=False),
    Route("GET", "/export", _READERS, evidence.export, "Download records as NDJSON or CSV",
          (evidence.NDJSON, evidence.CSV), query=evidence.ExportQuery),
    Route("POST", "/extensions/{id}/copilot-studio/validate", _PLATFORMS,
          copilot_studio.validated, "Copilot Studio asks whether it is set up",
          copilot_studio.Validated, door=copilot_studio.validate, fault=copilot_studio.ErrorOut),
    Route("POST", "/extensions/{id}/copilot-studio/analyze-tool-execution", _PLATFORMS,
          copilot_studio.analysed, "Copilot Studio asks before a tool call",
          copilot_studio.Analysed, body=copilot_studio.Analyse, door=copilot_studio.analyse,
          fault=copilot_studio.ErrorOut),
    Route("POST", "/extensions/{id}/graph", _PLATFORMS, platform_events.described_graph,
          "Record Microsoft Graph's notifications of aiInteraction", platform_events.Taken,
          door=platform_events.graph, status=202, greeting="text/plain"),
    Route("POST", "/extensions/{id}/purview", _PLATFORMS, platform_events.described_purview,
          "Record Purview's audit records", platform_events.Taken,
          door=platform_events.purview, status=202, greeting="application/json"),
    Route("POST", "/extensions/{id}/salesforce", _PLATFORMS, platform_events.described_salesforce,
          "Record Salesforce's platform events and event log rows", platform_events.Taken,
          door=platform_events.door(mappers.salesforce), status=202),
    Route("POST", "/extensions/{id}/servicenow", _PLATFORMS, platform_events.described_servicenow,
          "Record ServiceNow's tool executions", platform_events.Taken,
          door=platform_events.door(mappers.servicenow), status=202),
    Route("POST", "/access/v1/evaluation", _SENDERS, authzen.evaluates,
          "Decide for another gateway, as AuthZEN asks", authzen.EvaluationAnswer,
          body=authzen.Evaluation, door=authzen.evaluation, base=""),
    Route("POST", "/access/v1/evaluations", _SENDERS, authzen.evaluates_many,
          "Decide several at once", authzen.EvaluationsAnswer,
          body=authzen.Evaluations, door=authzen.evaluations, base=""),
    Route("POST", "/api/evaluate", _SENDERS, authzen.answers,
          "Decide as the mcpsec benchmark asks, where that is switched on",
          authzen.QuestionAnswer, body=authzen.Question, door=authzen.question, base=""),
    Route("GET", "/anchors", _READERS, anchors.list_anchors,
          "List anchors, and read how much of the log is anchored", anchors.AnchorsOut,
          query=ListQuery),
    Route("GET", "/anchors/{id}", _READERS, anchors.get, "Read an anchor", anchors.FullAnchor),
    Route("GET", "/policy/status", _READERS, policy_bundles.status,
          "Read which policy decides, and why other sources do not",
          policy_bundles.PolicyStatusOut),
    Route("POST", "/policy/replay", _READERS, policy_bundles.replay,
          "Tell what a candidate would have decided otherwise for recorded calls",
          policy_bundles.ReplayOut, body=policy_bundles.ReplayBody, writes=False),
    Route("GET", "/policy/bundles/{digest}", _READERS, policy_bundles.bundle,
          "Download a bundle that decided, now or earlier", (CONTENT_TYPE,)),
    Route("GET", "/projects/current", _READERS, project.get, "Read the project's settings",
          project.ProjectOut),
    Route("PATCH", "/projects/current", _ADMIN, project.patch, "Change the project's settings",
          project.ProjectOut, body=ProjectPatch, may_loosen=True),
)
# fmt: on


def routes(context: ApiContext) -> list[HttpRoute]:
    """The API for Starlette: every route of the table, health without details, OpenAPI.

    The application also needs `gateway.api.errors.EXCEPTION_HANDLERS`.
    """
    # Paths are tried one after the other: first those on which platforms wait for each call.
    groups = sorted(_by_path(ROUTES).items(), key=lambda one: one[1][0].door is None)
    found = [
        HttpRoute(path, Endpoint(context, group).__call__, methods=_methods(group))
        for path, group in groups
    ]
    # A browser comes back here without a key, with what counts once.
    found.append(HttpRoute(BASE + consents.CALLBACK, consents.callback(context), methods=["GET"]))
    found.append(HttpRoute("/openapi.json", _specification, methods=["GET"]))
    # Clients probe these; what they must not get is a page of HTML.
    found.append(HttpRoute("/.well-known/{rest:path}", _nothing_here))
    return [*found, *_health(context, with_details=False)]


def management_routes(context: ApiContext) -> list[HttpRoute]:
    """Health for the management listener, with what is wrong."""
    return _health(context, with_details=True)


def _health(context: ApiContext, *, with_details: bool) -> list[HttpRoute]:
    health = HealthEndpoints(context, with_details=with_details)
    return [
        HttpRoute("/healthz", health.health, methods=["GET"]),
        HttpRoute("/readyz", health.ready, methods=["GET"]),
    ]


@cache
def specification() -> bytes:
    """The API's OpenAPI 3.1 document; made when first asked for, since start-up is hurried."""
    return openapi.document(ROUTES)


async def _specification(_request: Request) -> Response:
    return Response(specification(), media_type="application/json")


async def _nothing_here(_request: Request) -> Response:
    return answer(ApiError(404, "No such path."), new_id("req"))


def _by_path(table: Sequence[Route]) -> dict[str, list[Route]]:
    found: dict[str, list[Route]] = {}
    for route in table:
        found.setdefault(route.base + route.path, []).append(route)
    return found


def _methods(group: Sequence[Route]) -> list[str]:
    return [route.method for route in group]
