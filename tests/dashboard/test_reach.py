"""What the API can do, people can do in the dashboard; what they cannot has a reason here."""

import re

from gateway.api.routes import ROUTES
from gateway.dashboard.routes import PAGES

FOR_PLATFORMS = "a platform, an agent or another gateway asks this, with a key that no person has"
REASONS = {
    **{
        ("POST", path): FOR_PLATFORMS
        for path in (
            *("/webhooks/ingest", "/access/v1/evaluation", "/access/v1/evaluations"),
            *("/api/evaluate", "/extensions/{id}/copilot-studio/validate"),
            "/extensions/{id}/copilot-studio/analyze-tool-execution",
            *(f"/extensions/{{id}}/{kind}" for kind in ("graph", "purview", "salesforce")),
            "/extensions/{id}/servicenow",
        )
    },
    ("GET", "/approvals/status"): "an agent asks how its own approval stands",
    ("GET", "/agents/{id}/budgets"): "an agent's row leads to the budgets that name it",
}
"""Operations that no page uses."""
WHERE = {
    "/mcp/servers/from-template": "/servers/from/{name}",
    "/mcp/templates": "/servers",
    "/mcp/templates/{name}": "/servers/from/{name}",
    "/mcp/tools/{id}": "/tools/{id}/risk",
    "/mcp/tools/{id}/accept": "/tools/{id}/accept",
    "/mcp/policies": "/policies/new",
    "/mcp/decide": "/try",
    "/mcp/emergency-stop": "/stops/new",
    "/policy/replay": "/policies/what-if",
    "/policy/status": "/policies",
    "/checkpoints/latest": "/evidence",
    "/anchors": "/evidence",
    "/projects/current": "/settings",
    "/export": "/traces.csv",
}
"""Pages whose path does not follow from the operation's, which it does for all others."""
SUFFIXES = {
    ("POST", "/mcp/servers"): "/servers/new",
    ("PATCH", "/mcp/servers/{id}"): "/servers/{id}/change",
    ("GET", "/mcp/servers/{id}/tools"): "/servers/{id}",
    ("GET", "/mcp/servers/{id}/overrides"): "/servers/{id}",
    ("POST", "/mcp/servers/{id}/overrides"): "/servers/{id}/overrides/new",
    ("GET", "/mcp/servers/{id}/consent"): "/servers/{id}",
    ("GET", "/mcp/tools/{id}/diff"): "/tools/{id}",
    ("GET", "/mcp/policies"): "/policies",
    ("GET", "/mcp/emergency-stop"): "/stops",
    ("GET", "/policy/bundles/{digest}"): "/policies/bundles/{digest}",
    ("GET", "/anchors/{id}"): "/evidence/anchors/{id}",
    ("DELETE", "/traces/{id}/payload"): "/traces/{id}/erase",
    ("POST", "/evidence"): "/evidence",
}


def page_of(method: str, operation: str) -> tuple[str, str]:
    """The page through which a person does it: method and path below `/dashboard`."""
    asked = "GET" if method == "GET" else "POST"
    if (method, operation) in SUFFIXES:
        return asked, SUFFIXES[method, operation]
    if operation in WHERE:
        return asked, WHERE[operation]
    path = re.sub("^/mcp/emergency-stop", "/stops", operation)
    path = re.sub("^/users", "/people", re.sub("^/mcp", "", path))
    if method == "DELETE":
        return asked, path + "/remove"
    if method == "POST" and path.count("/") == 1:
        return asked, path + "/new"
    if verb := re.fullmatch("/agents/{id}/(pause|resume|suspend)", path):
        return asked, verb[0].replace(verb[1], "move/{verb}")
    return asked, path


def test_every_operation_of_the_api_has_a_page_or_a_reason_why_not() -> None:
    pages = {(page.method, page.path) for page in PAGES}
    operations = {(route.method, route.path) for route in ROUTES}
    assert REASONS.keys() <= operations
    without = {one for one in operations if page_of(*one) not in pages}
    assert without == REASONS.keys()


def test_every_page_that_changes_something_stands_behind_one_that_can_be_read() -> None:
    read = {page.path for page in PAGES if page.method == "GET"}
    for page in PAGES:
        if page.method == "POST":
            above = page.path
            while above and above not in read:
                above = above.rpartition("/")[0]
            assert above, page.path
