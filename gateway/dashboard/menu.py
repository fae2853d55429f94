"""The menu: what the person's role can open, in the order of a day's work."""

from starlette.requests import Request

from gateway.dashboard.desk import Desk
from gateway.dashboard.page import BASE
from gateway.frozen import frozen


@frozen
class Entry:
    label: str
    path: str
    icon: str
    operation: str
    """The GET that its page asks: who may not ask it does not see the entry."""
    is_here: bool = False

    @property
    def url(self) -> str:
        return BASE + self.path


ENTRIES = (
    Entry("Overview", "", "gauge-high", "/traces"),
    Entry("Approvals", "/approvals", "user-check", "/approvals"),
    Entry("Traces", "/traces", "list-check", "/traces"),
    Entry("Servers", "/servers", "server", "/mcp/servers"),
    Entry("Policies", "/policies", "scale-balanced", "/mcp/policies"),
    Entry("Proposals", "/proposals", "people-arrows", "/proposals"),
    Entry("Budgets", "/budgets", "coins", "/budgets"),
    Entry("Agents", "/agents", "robot", "/agents"),
    Entry("Keys", "/keys", "key", "/keys"),
    Entry("Extensions", "/extensions", "plug", "/extensions"),
    Entry("Notifications", "/notifications", "bell", "/notifications"),
    Entry("Evidence", "/evidence", "file-shield", "/checkpoints/latest"),
    Entry("People", "/people", "users", "/users"),
    Entry("Stops", "/stops", "hand", "/mcp/emergency-stop"),
    Entry("Settings", "/settings", "sliders", "/projects/current"),
)


def menu(request: Request, desk: Desk) -> list[Entry]:
    path = request.url.path.removeprefix(BASE)
    return [
        Entry(entry.label, entry.path, entry.icon, entry.operation, _is_here(entry.path, path))
        for entry in ENTRIES
        if desk.may("GET", entry.operation)
    ]


def _is_here(entry: str, path: str) -> bool:
    return path == entry or (entry != "" and path.startswith(entry + "/"))
