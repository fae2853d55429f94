"""A real Chromium on a real gateway: people who sign in, and what their browsers complain of."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from gateway.demo.instructions import Demo
from tests.conftest import needs

HERE = Path(__file__).parent
PATIENCE_MS = 30_000


@dataclass
class Chromium:
    """One browser for a whole module; each person gets a profile of their own."""

    browser: Browser
    demo: Demo
    complaints: list[str] = field(default_factory=list)
    """What consoles said: blocked by the policy, script errors, failed loads."""

    @contextmanager
    def person(self, name: str, password: str, **options: Any) -> Iterator[Page]:
        """A page of somebody who has signed in."""
        with self.anybody(**options) as page:
            page.goto(f"{self.demo.base_url}/dashboard")
            page.get_by_label("Name").fill(name)
            page.get_by_label("Password").fill(password)
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url(lambda url: "/sign-in" not in url)
            yield page

    @contextmanager
    def anybody(self, **options: Any) -> Iterator[Page]:
        options.setdefault("viewport", {"width": 1440, "height": 900})
        context: BrowserContext = self.browser.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self._note("error", str(error)))
        try:
            yield page
        finally:
            context.close()

    def admin(self, **options: Any) -> Any:
        return self.person(self.demo.admin_user, self.demo.admin_password, **options)

    def approver(self, **options: Any) -> Any:
        return self.person(self.demo.approver_user, self.demo.approver_password, **options)

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)


@contextmanager
def chromium(demo: Demo) -> Iterator[Chromium]:
    path = needs("chromium", "on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        # Tests may run as root in a container, where Chromium's own sandbox cannot be made.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield Chromium(browser, demo)
        finally:
            browser.close()


def ask(demo: Demo, tool: str, arguments: object, key: str = "", url: str = "") -> dict[str, Any]:
    """A tool call by the demonstration's agent; the JSON-RPC response."""
    answer = httpx.post(
        url or demo.proxy_url,
        headers={
            "Authorization": f"Bearer {key or demo.project_key}",
            "Accept": "application/json, text/event-stream",
        },
        json={
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": tool, "arguments": arguments},
        },
        timeout=60,
        trust_env=False,
    )
    text = answer.text
    if answer.headers["content-type"].startswith("text/event-stream"):
        text = next(line[5:] for line in text.splitlines() if line.startswith("data:"))
    found: dict[str, Any] = json.loads(text)
    return found


def api(demo: Demo, method: str, path: str, body: object = None) -> Any:
    """The API as the demonstration's administrator."""
    answer = httpx.request(
        method,
        f"{demo.base_url}/api/v1{path}",
        headers={"Authorization": f"Bearer {demo.admin_key}"},
        json=body,
        timeout=60,
        trust_env=False,
    )
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def axe_source() -> str:
    """axe-core's script, installed once for this lock."""
    digest = hashlib.sha256((HERE / "axe" / "package-lock.json").read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "policy-gateway-tests" / f"axe-{digest}"
    script = home / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        npm = needs("npm", "it comes with Node.js")
        home.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=home.parent))
        for name in (".npmrc", "package.json", "package-lock.json"):
            shutil.copy(HERE / "axe" / name, work)
        done = subprocess.run(
            [npm, "ci", "--ignore-scripts"], cwd=work, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        shutil.rmtree(home, ignore_errors=True)
        work.rename(home)
    return script.read_text()


def serious(page: Page, axe: str) -> list[str]:
    """What axe-core finds serious or critical on the page; by day, and what the night changes."""
    # Through the debugger, since the page's own policy lets no foreign script in.
    page.evaluate(axe)
    # Without motion, or a colour would be seen half-way from one to the other.
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    found += page.evaluate("axe.run(document, {runOnly: ['color-contrast']})")["violations"]
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
