"""Pictures of the dashboard for the docs: `python -m tests.end_to_end.screenshots FOLDER`."""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect

from gateway.demo.instructions import Demo
from tests.end_to_end.browser import PATIENCE_MS, Chromium, api, ask, chromium
from tests.end_to_end.demonstration import running

PHONE: dict[str, object] = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
DESK: dict[str, object] = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as data,
        running(Path(data, "data")) as it,
        chromium(it.demo) as browser,
    ):
        approval_id, trace_id = _some_calls(it.demo)
        pages = {
            "overview": "",
            "approval": f"/approvals/{approval_id}",
            "approvals": "/approvals",
            "traces": "/traces",
            "trace": f"/traces/{trace_id}",
            "server": f"/servers/{it.demo.server_id}",
            "servers": "/servers",
            "policies": "/policies",
            "what-if": "/policies/what-if",
            "stop": "/stops/new",
            "budgets": "/budgets",
            "agents": "/agents",
            "keys": "/keys",
            "people": "/people",
            "settings": "/settings",
        }
        _shoot(browser, folder, pages, "", DESK)
        phone = {name: pages[name] for name in ("overview", "approval")}
        _shoot(browser, folder, phone, "-phone", PHONE)


def _some_calls(demo: Demo) -> tuple[str, str]:
    """An approval that waits, and a call that was denied."""
    agent = api(demo, "POST", "/agents", {"name": "sales-assistant", "owner": "kim@example.com"})
    budget = {"scope": "agent", "target_id": agent["id"], "window": "day", "limit": 40}
    api(demo, "POST", "/budgets", budget)
    new = {"role": "project", "name": "Sales", "owner": "kim@example.com", "agent_id": agent["id"]}
    key = api(demo, "POST", "/keys", new)["key"]
    for number in range(24):
        ask(demo, "query_records", {"object_name": "Account", "limit": number + 1}, key=key)
    for name in ("Acme", "Globex", "Initech"):
        new_record = {"object_name": "Account", "fields": {"name": name}}
        ask(demo, "create_record", new_record, key=key)
    mail = {"to": ["kim@example.com"], "subject": "Your offer", "body": "As we agreed."}
    waiting = ask(demo, "send_email", mail, key=key)["error"]["data"]
    ask(demo, "delete_record", {"record_id": "OPP-0001"}, key=key)
    denied = ask(demo, "bulk_export", {"object_name": "Contact"}, key=key)["error"]["data"]
    return waiting["approval_id"], denied["trace_id"]


def _shoot(
    browser: Chromium, folder: Path, pages: dict[str, str], suffix: str, options: dict[str, object]
) -> None:
    with browser.admin(**options) as page:
        for name, path in pages.items():
            page.goto(f"{browser.demo.base_url}/dashboard{path}")
            _settle(page)
            page.screenshot(path=folder / f"{name}{suffix}.png")


def _settle(page: Page) -> None:
    """Until the page is live: its badge is then where it stays."""
    # Not by `wait_for_function`, which evaluates text: the pages' policy forbids it.
    expect(page.locator("[data-live-state]")).to_have_text("Live", timeout=PATIENCE_MS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
