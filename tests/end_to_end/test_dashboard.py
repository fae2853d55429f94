"""The dashboard in a real Chromium, on the demonstration with its OPA and its sample server."""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.end_to_end.browser import PATIENCE_MS, Chromium, api, ask, axe_source, chromium, serious
from tests.end_to_end.demonstration import need_opa, running
from tests.end_to_end.hostile import PROBE, hostile_server

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    need_opa()
    folder: Path = tmp_path_factory.mktemp("dashboard")
    with running(folder / "data") as it, chromium(it.demo) as found:
        yield found


@pytest.fixture(autouse=True)
def _no_complaints(site: Chromium) -> Iterator[None]:
    """Whatever a test does, no page may load what the policy forbids or fail in a script."""
    site.complaints.clear()
    yield
    assert [text for text in site.complaints if "status of 4" not in text] == []


def url(site: Chromium, path: str = "") -> str:
    return f"{site.demo.base_url}/dashboard{path}"


def delete_asked(site: Chromium, record: str) -> str:
    """An approval that waits; its id."""
    error = ask(site.demo, "delete_record", {"record_id": record})["error"]
    assert error["code"] == -31004
    approval_id: str = error["data"]["approval_id"]
    return approval_id


def decide(page: Page, verb: str, reason: str) -> None:
    page.get_by_label("Reason").fill(reason)
    page.get_by_role("button", name=verb).click()


def test_a_call_waits_is_seen_live_and_passes_once_it_is_approved(site: Chromium) -> None:
    with site.approver() as page, site.admin() as other:
        page.goto(url(site, "/approvals"))
        expect(page.get_by_text("Nothing waits for you.")).to_be_visible()
        expect(page.locator("[data-live-state]")).to_have_text("Live")
        approval_id = delete_asked(site, "OPP-0001")
        # Nobody loads the page again.
        entry = page.get_by_role("link", name=re.compile("delete_record"))
        expect(entry).to_be_visible()
        entry.click()
        expect(page.get_by_text("OPP-0001", exact=True)).to_be_visible()
        other.goto(url(site, f"/approvals/{approval_id}"))
        decide(page, "Approve", "The customer asked for it")
        expect(page.get_by_text("Approved: this exact call may pass once.")).to_be_visible()
        decide(other, "Deny", "Too late")
        expect(other.get_by_role("alert")).to_contain_text("cannot be decided any more")
    assert "result" in ask(site.demo, "delete_record", {"record_id": "OPP-0001"})
    assert ask(site.demo, "delete_record", {"record_id": "OPP-0001"})["error"]["code"] == -31004


def test_what_cannot_be_seen_in_a_call_is_shown_as_its_escape(site: Chromium) -> None:
    mail = {"to": ["eve@example.com"], "subject": f"p\u0430ypal \u202e{PROBE}", "body": "\u200b"}
    error = ask(site.demo, "send_email", mail)["error"]
    with site.approver(viewport={"width": 390, "height": 844}) as page:
        page.goto(url(site, f"/approvals/{error['data']['approval_id']}"))
        for code in ("U+0430", "U+202E", "U+200B"):
            expect(page.get_by_text(code).first).to_be_visible()
        expect(page.get_by_text(PROBE).first).to_be_visible()
        assert "pwned" not in page.title()
        raw = page.locator("#raw")
        expect(raw).to_be_hidden()
        page.keyboard.press("j")
        expect(raw).to_be_visible()
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390
        decide(page, "Deny", "Looks forged")
        expect(page.get_by_text("Denied.")).to_be_visible()


def test_a_phone_shows_the_newest_hour_first_and_older_ones_by_swiping(site: Chromium) -> None:
    ask(site.demo, "query_records", {"object_name": "Account", "limit": 1})
    with site.admin(viewport={"width": 390, "height": 844}) as page:
        page.goto(url(site, ""))
        newest = page.locator(".pg-chart [data-hour]").last.bounding_box()
        oldest = page.locator(".pg-chart [data-hour]").first.bounding_box()
        assert newest is not None
        assert 0 <= newest["x"] <= 390
        assert oldest is not None
        assert oldest["x"] < 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_stop_stands_on_every_page_until_it_is_lifted(site: Chromium) -> None:
    with site.admin() as page:
        page.goto(url(site, "/agents"))
        page.get_by_role("link", name="Emergency stop").click()
        page.get_by_label("Reason").fill("Something is wrong")
        page.get_by_role("button", name="Stop now").click()
        expect(page.get_by_text("type STOP", exact=True)).to_be_visible()
        expect(page.get_by_label("Reason")).to_have_value("Something is wrong")
        page.get_by_label("Type STOP to confirm").fill("stop")
        page.get_by_role("button", name="Stop now").click()
        expect(page.get_by_text("Stopped.").first).to_be_visible()
        refused = ask(site.demo, "query_records", {"object_name": "Account", "limit": 1})
        assert refused["error"]["code"] == -31001
        for path in ("", "/servers", "/settings"):
            page.goto(url(site, path))
            expect(page.locator(".pg-stopped")).to_contain_text("Something is wrong")
        page.locator(".pg-stopped").get_by_role("link", name="Lift").click()
        page.get_by_label("Why it is safe").fill("It was a mistake")
        page.get_by_role("button", name="Lift the stop").click()
        expect(page.locator(".pg-stopped")).to_have_count(0)
    assert "result" in ask(site.demo, "query_records", {"object_name": "Account", "limit": 1})


def test_a_refusal_is_told_in_one_sentence_and_decided_again(site: Chromium) -> None:
    answer = ask(site.demo, "bulk_export", {"object_name": "Contact"})
    trace_id = answer["error"]["data"]["trace_id"]
    with site.admin() as page:
        page.goto(url(site, "/traces?decision=BLOCKED&tool=bulk_export"))
        expect(page.locator(f"a[href$='{trace_id}']")).to_be_visible()
        page.goto(url(site, f"/traces/{trace_id}"))
        expect(page.locator("#why")).to_contain_text("denied by policy")
        expect(page.locator("#why")).to_contain_text("Nobody needs all records at once")
        page.get_by_role("button", name="Decide again").click()
        expect(page.get_by_text("The same as recorded.")).to_be_visible()


def test_a_call_is_printed_whole_dark_on_light_with_its_times_in_utc(site: Chromium) -> None:
    error = ask(site.demo, "bulk_export", {"object_name": "Contact"})["error"]["data"]
    with site.admin(color_scheme="dark", timezone_id="Asia/Tokyo") as page:
        page.goto(url(site, f"/traces/{error['trace_id']}"))
        moment = page.locator(".pg-timeline time").first
        utc = moment.get_attribute("title") or ""
        assert utc.endswith(" UTC")
        # In the viewer's zone on the screen: nine hours later than UTC.
        assert moment.inner_text() != utc
        hour = (int(utc[11:13]) + 9) % 24
        assert re.search(rf"\b0?{hour % 12 or 12}:{utc[14:16]}", moment.inner_text())
        leaf = page.get_by_text(re.compile("^Leaf")).first
        expect(leaf).to_be_hidden()
        page.emulate_media(media="print")
        expect(leaf).to_be_visible()
        for gone in (".pg-side", ".pg-top", ".pg-actions"):
            expect(page.locator(gone)).to_be_hidden()
        colours = "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
        assert page.locator("main").evaluate(colours) == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
        expect(page.locator("html")).to_have_attribute("data-bs-theme", "light")
        after = "e => getComputedStyle(e, '::after').content"
        assert moment.evaluate(after) == f'" ({utc})"'
        assert page.pdf().startswith(b"%PDF")
        page.emulate_media(media="screen")
        expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")


def test_a_server_is_registered_scanned_changed_and_accepted_by_hand(site: Chromium) -> None:
    with hostile_server() as (hostile, address), site.admin() as page:
        page.goto(url(site, "/servers/new"))
        page.get_by_label("Name").first.fill("  ")
        page.locator("#f-server_url").fill("nonsense")
        page.get_by_role("button", name="Register").click()
        expect(page.get_by_text("must begin with http:// or https://")).to_be_visible()
        expect(page.locator("#f-server_url")).to_have_value("nonsense")
        page.get_by_label("Name").first.fill(f"Odd {PROBE}"[:100])
        page.locator("#f-server_url").fill(address)
        page.get_by_label("May lie in a private network").check()
        page.get_by_role("button", name="Register").click()
        hostile.last_page.clear()
        progress = f"{page.url}/scan"
        # The browser's own view waits for the scan's answer; what the page asks does not.
        with page.expect_response(lambda r: (r.url, r.request.method) == (progress, "GET")):
            page.get_by_role("button", name="Scan").click(no_wait_after=True)
        while page.request.get(progress).json()["text"] != "2 tools read…":
            assert page.url + "/scan" == progress
        hostile.last_page.set()
        expect(page.get_by_text("Scanned: 2 tools")).to_be_visible()
        page.get_by_role("button", name="Activate").click()
        expect(page.get_by_text("Active: agents may call it.")).to_be_visible()
        server = page.url
        page.get_by_role("link", name="read_probe").click()
        expect(page.get_by_text("U+202E").first).to_be_visible()
        hostile.description = "Read and delete everything"
        page.goto(server)
        page.get_by_role("button", name="Scan").click()
        expect(page.get_by_text("1 changed")).to_be_visible()
        page.get_by_role("link", name="read_probe").click()
        expect(page.locator("ins").filter(has_text="delete everything")).to_be_visible()
        page.get_by_label("Why this definition is right").fill("It was agreed")
        page.get_by_role("button", name="Accept what is shown").click()
        expect(page.get_by_text("Accepted: agents may call it as it is shown.")).to_be_visible()
        page.get_by_role("link", name="Try a call").click()
        page.get_by_role("button", name="Ask").click()
        expect(page.locator("#answer")).to_contain_text("ALLOW")
        assert "pwned" not in page.title()


def test_nothing_that_agents_control_becomes_mark_up(site: Chromium) -> None:
    agent = api(site.demo, "POST", "/agents", {"name": PROBE[:100], "owner": PROBE[:100]})
    new = {"role": "project", "name": PROBE[:100], "owner": "Kim", "agent_id": agent["id"]}
    key = api(site.demo, "POST", "/keys", new)["key"]
    ask(site.demo, PROBE, {PROBE: PROBE}, key=key)
    waiting = ask(site.demo, "delete_record", {"record_id": PROBE}, key=key)["error"]["data"]
    with site.admin() as page:
        for path in (
            *("", "/approvals", f"/approvals/{waiting['approval_id']}", "/traces?kind=all"),
            *(f"/traces/{waiting['trace_id']}", "/agents", "/keys", "/servers", "/stops/new"),
            *("/policies/new", f"/traces?tool={PROBE}", "/try"),
        ):
            page.goto(url(site, path))
            assert "pwned" not in page.title(), path
            assert page.locator("main img, main script").count() == 0, path


def test_a_role_sees_and_does_what_it_may(site: Chromium) -> None:
    with site.approver() as page:
        page.goto(url(site))
        page.wait_for_url(url(site, "/approvals"))
        assert page.locator(".nav-link-title").all_inner_texts() == ["Approvals", "Stops"]
        for path in ("/traces", "/servers", "/keys", "/settings"):
            answer = page.goto(url(site, path))
            assert answer is not None
            assert answer.status == 403
    password = "a password for the auditor"
    new = {"name": "Noor", "role": "auditor", "password": password}
    api(site.demo, "POST", "/users", new)
    with site.person("Noor", password) as page:
        page.goto(url(site, "/servers"))
        expect(page.get_by_role("link", name="Register a server")).to_have_count(0)
        expect(page.get_by_role("link", name="Emergency stop")).to_have_count(0)
        token = page.locator("input[name=csrf]").first.get_attribute("value")
        form: dict[str, str | float | bool] = {"csrf": token or "", "scope": "all", "reason": "x"}
        form["word"] = "STOP"
        answer = page.request.post(
            url(site, "/stops/new"), form=form, headers={"Origin": site.demo.base_url}
        )
        assert answer.status == 403


def test_a_form_without_the_sessions_token_changes_nothing(site: Chromium) -> None:
    with site.admin() as page:
        origin = {"Origin": site.demo.base_url}
        form = {"name": "forged", "owner": "x"}
        for given, headers in (
            (form, origin),
            ({**form, "csrf": "guess"}, origin),
        ):
            answer = page.request.post(url(site, "/agents/new"), form=given, headers=headers)
            assert answer.status == 403
        token = page.locator("input[name=csrf]").first.get_attribute("value") or ""
        cookies = "; ".join(f"{c['name']}={c['value']}" for c in page.context.cookies())
        answer = httpx.post(
            url(site, "/agents/new"),
            data={**form, "csrf": token},
            headers={"Cookie": cookies, "Origin": "https://evil.example"},
            trust_env=False,
        )
        assert answer.status_code == 403
    assert "forged" not in [agent["name"] for agent in api(site.demo, "GET", "/agents")["items"]]


def test_a_candidate_policy_is_tried_on_the_calls_of_the_last_days(site: Chromium) -> None:
    ask(site.demo, "query_records", {"object_name": "Account", "limit": 1})
    candidate = """package policies.all.no_reading

import rego.v2

findings contains {"action": "DENY", "policy_id": "no_reading", "reason": "No."} if {
	input.tool.name == "query_records"
}
"""
    with site.admin() as page:
        page.goto(url(site, "/policies/what-if"))
        page.get_by_label("Candidate").fill("package broken {")
        page.get_by_role("button", name="Replay").click()
        expect(page.get_by_role("alert")).to_contain_text("candidate.rego")
        page.get_by_label("Candidate").fill(candidate)
        page.get_by_role("button", name="Replay").click()
        expect(page.locator("#result")).to_contain_text("newly denied")
        expect(page.locator("#result")).to_contain_text("no_reading")
        page.goto(url(site, "/policies/what-if"))
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as folder:
            folder.writestr("all/no_reading/no_reading.rego", candidate)
        upload = {"name": "p.zip", "mimeType": "application/zip", "buffer": archive.getvalue()}
        page.get_by_label("A file").set_input_files(upload)
        page.get_by_role("button", name="Replay").click()
        expect(page.locator("#result")).to_contain_text("no_reading")


def test_an_auditor_takes_proof_and_evidence_away(site: Chromium) -> None:
    answer = ask(site.demo, "bulk_export", {"object_name": "Lead"})
    trace_id = answer["error"]["data"]["trace_id"]
    with site.admin() as page:
        page.goto(url(site, f"/traces/{trace_id}"))
        page.get_by_role("link", name="Proof").click()
        expect(page.locator("#proof-1")).to_contain_text("c2sp.org/tlog-proof")
        page.goto(url(site, "/evidence"))
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Download").click()
        assert zipfile.is_zipfile(waiting.value.path())
        expect(page.get_by_role("button", name="Download")).to_be_enabled()
        page.goto(url(site, "/traces?decision=BLOCKED"))
        with page.expect_download() as waiting:
            page.get_by_role("link", name="Export", exact=True).click()
        assert trace_id in waiting.value.path().read_text()


def test_a_button_tells_how_far_a_bundle_is_and_comes_back_with_it(site: Chromium) -> None:
    said = iter(["Preparing…", "7 of 10 records…"])
    with site.admin() as page:
        page.goto(url(site, "/evidence"))
        # Ten records are read at once; what a million would tell on the way is put in between.
        page.route(
            "**/dashboard/evidence/progress",
            lambda route: route.fulfill(json={"text": next(said, "")}),
        )
        with page.expect_download():
            page.get_by_role("button", name="Download").click()
            expect(page.get_by_role("button", name="7 of 10 records…")).to_be_disabled()
        expect(page.get_by_role("button", name="Download")).to_be_enabled()


def test_rules_keys_and_budgets_are_made_by_form(site: Chromium) -> None:
    with site.admin() as page:
        page.goto(url(site, "/policies/new"))
        page.get_by_label("Action").select_option("DENY")
        page.get_by_label("Tools by pattern").fill("slow_*")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("The rule is live.")).to_be_visible()
        denied = ask(site.demo, "slow_report", {})
        assert denied["error"]["code"] == -31003
        page.goto(url(site, "/keys/new"))
        page.get_by_label("Role").select_option("auditor")
        page.get_by_label("Name").first.fill("By hand")
        page.get_by_label("Owner").fill("Kim")
        page.get_by_role("button", name="Make").click()
        secret = page.locator("#secret-1").input_value()
        assert secret.startswith("gwv_")
        page.goto(url(site, "/keys"))
        assert secret not in page.content()
        page.goto(url(site, "/budgets/new"))
        page.get_by_label("Window").select_option("day")
        page.get_by_label("Limit").fill("many")
        page.get_by_role("button", name="Make").click()
        expect(page.get_by_label("Limit")).to_have_value("many")
        page.get_by_label("Limit").fill("100000")
        page.get_by_role("button", name="Make").click()
        expect(page.get_by_text("of 100,000")).to_be_visible()


def test_a_row_is_found_sorted_and_changed_where_it_stands(site: Chromium) -> None:
    for number in range(3):
        api(site.demo, "POST", "/agents", {"name": f"inline {number}", "owner": f"team {number}"})
    with site.admin() as page:
        page.goto(url(site, "/agents"))
        find = page.get_by_role("searchbox", name="Find in agents")
        find.fill("inline")
        expect(page.locator("tr[data-row]:visible")).to_have_count(3)  # before anything is asked
        find.press("Enter")
        page.get_by_role("columnheader", name="Owner").get_by_role("link").click()
        page.get_by_role("columnheader", name="Owner").get_by_role("link").click()
        rows = page.locator("tr[data-row]")
        expect(rows).to_have_count(3)
        expect(rows.first).to_contain_text("inline 2")
        page.get_by_role("link", name="Change inline 1").click()
        form = page.locator(".pg-inline-row form")
        expect(form.get_by_label("Owner")).to_be_focused()
        assert serious(page, axe_source()) == []
        page.keyboard.press("Escape")
        expect(form).to_have_count(0)
        page.get_by_role("link", name="Change inline 1").click()
        form.get_by_label("Owner").fill("another team")
        form.get_by_role("button", name="Save").click()
        expect(page.get_by_text("Saved.")).to_be_visible()
        expect(page.get_by_text("another team")).to_be_visible()
        with page.expect_download() as waiting:
            page.get_by_role("link", name="Export").click()
        assert "another team" in waiting.value.path().read_text()


PATHS = (
    *("", "/approvals", "/traces?kind=all", "/servers", "/servers/new", "/servers/from/copilot"),
    *("/policies", "/policies/new", "/policies/rego", "/policies/what-if", "/proposals"),
    *("/budgets", "/budgets/new", "/agents", "/agents/new", "/keys", "/keys/new", "/people"),
    *("/people/new", "/stops", "/stops/new", "/settings", "/try", "/evidence", "/extensions"),
    *("/extensions/new", "/notifications", "/notifications/new"),
)


def test_no_page_has_a_serious_fault_of_accessibility(site: Chromium) -> None:
    axe = axe_source()
    found: list[str] = []
    with site.anybody() as page:
        page.goto(url(site, "/sign-in"))
        found += serious(page, axe)
    with site.admin() as page:
        error = ask(site.demo, "delete_record", {"record_id": "for-axe"})["error"]["data"]
        server = f"/servers/{site.demo.server_id}"
        tools = api(site.demo, "GET", f"/mcp{server}/tools")["items"]
        window = {"scope": "project", "window": "hour", "limit": 90_000}
        budget = api(site.demo, "POST", "/budgets", window)["id"]
        trace = f"/traces/{error['trace_id']}"
        some = (
            *(f"/approvals/{error['approval_id']}", trace, f"{trace}/proof", f"{server}/change"),
            *(f"{server}/remove", f"/tools/{tools[0]['id']}", f"/budgets/{budget}/history"),
            *("/agents?q=nobody", "/approvals?status=ALL", "/policies?sort=action"),
        )
        for path in (*PATHS, server, *some):
            page.goto(url(site, path))
            found += [f"{path}: {one}" for one in serious(page, axe)]
    assert found == []
