"use strict";
// Pages work without this file; it makes them live and quicker to use.

const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));

// --- times: kept in UTC, shown in the viewer's zone, UTC on hover ---

const styles = {
  "": { dateStyle: "medium", timeStyle: "short" },
  time: { timeStyle: "medium" },
  hour: { weekday: "short", hour: "2-digit", minute: "2-digit" },
  day: { dateStyle: "medium" },
  precise: { dateStyle: "medium", timeStyle: "medium" },
};

function showTimes(root) {
  for (const element of all("time[datetime]", root)) {
    const moment = new Date(element.dateTime);
    if (Number.isNaN(moment.valueOf())) continue;
    element.textContent = new Intl.DateTimeFormat(undefined, styles[element.dataset.style] || styles[""]).format(moment);
  }
  for (const element of all("text[data-hour]", root)) {
    element.textContent = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" }).format(new Date(element.dataset.hour));
  }
}

function countDown() {
  for (const element of all("[data-countdown]")) {
    const left = Math.max(0, Math.floor((new Date(element.dataset.countdown) - Date.now()) / 1000));
    const minutes = Math.floor(left / 60);
    element.textContent = left ? `${minutes}:${String(left % 60).padStart(2, "0")}` : "expired";
    element.classList.toggle("pg-soon", left < 120);
  }
}

// --- forms ---

function showApplicable(root) {
  for (const element of all("[data-shown-when]", root)) {
    const [name, value] = element.dataset.shownWhen.split("=");
    const scope = element.closest("form") || document;
    const fields = all(`[name="${CSS.escape(name)}"]`, scope);
    const field = fields.find((one) => one.checked) || fields.find((one) => one.type !== "radio" && one.type !== "checkbox");
    const given = field ? (field.type === "checkbox" ? "on" : field.value) : "";
    element.hidden = !value.split("|").includes(given);
  }
}

// While the answer to a form is awaited: asked once a second until the page is left, or until a
// download has begun, which leaves the page where it is.
async function tellProgress(address, button, label, download) {
  for (let nothing = 0; !download || nothing < 3; ) {
    await new Promise((resume) => setTimeout(resume, 1000));
    const answer = await fetch(address);
    const { text } = answer.ok ? await answer.json() : {};
    nothing = text ? 0 : nothing + 1;
    if (text) button.textContent = text;
  }
  button.textContent = label;
  button.removeAttribute("aria-busy");
  button.disabled = false;
}

document.addEventListener("change", () => showApplicable(document));

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.dataset.confirm && !window.confirm(form.dataset.confirm)) {
    event.preventDefault();
    return;
  }
  if (form.dataset.busy) {
    const button = event.submitter;
    const label = button.textContent;
    // After the form is sent: a disabled button sends no value.
    setTimeout(() => {
      button.setAttribute("aria-busy", "true");
      button.disabled = true;
      button.textContent = form.dataset.busy;
      if (form.dataset.progress) tellProgress(form.dataset.progress, button, label, "download" in form.dataset);
    });
  }
});

// --- buttons ---

document.addEventListener("click", (event) => {
  const button = event.target.closest("button, [data-copy]");
  if (!button) return;
  if ("themeToggle" in button.dataset) window.toggleTheme();
  if ("print" in button.dataset) window.print();
  if (button.dataset.toggle) {
    const target = document.querySelector(button.dataset.toggle);
    const open = target.classList.toggle("show");
    button.setAttribute("aria-expanded", String(open));
    if (open && target.tabIndex >= 0) target.focus();
  }
  if (button.dataset.copy) {
    const source = document.querySelector(button.dataset.copy);
    navigator.clipboard.writeText(source.value ?? source.textContent).then(() => {
      button.textContent = "Copied";
    });
  }
});

document.addEventListener("input", (event) => {
  const rows = event.target.dataset.find;
  if (!rows) return;
  const wanted = event.target.value.toLowerCase();
  for (const row of all(rows)) row.hidden = !row.textContent.toLowerCase().includes(wanted);
});

// --- a form that has a page of its own, opened in its row ---

function closeInline() {
  for (const row of all(".pg-inline-row")) row.remove();
}

document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[data-inline]");
  const form = event.target.closest(".pg-inline-row form");
  if (form && event.target.closest("a")) {
    event.preventDefault();
    closeInline();
    return;
  }
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const answer = await fetch(link.href, { headers: { Accept: "text/html" } }).catch(() => null);
  const found = answer && answer.ok && !answer.redirected
    ? new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main form") : null;
  if (!found) {
    location.assign(link.href);
    return;
  }
  closeInline();
  const own = link.closest("tr");
  const row = own.parentNode.insertRow(own.sectionRowIndex + 1);
  row.className = "pg-inline-row";
  const cell = row.insertCell();
  cell.colSpan = own.cells.length;
  found.action = link.href; // What it says is wrong is said on the form's own page.
  cell.append(document.adoptNode(found));
  showApplicable(found);
  found.querySelector("input:not([type=hidden]), select, textarea").focus();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeInline();
});

// --- keys: j and k walk a list, a letter presses the button that names it ---

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  const button = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (button) {
    button.click();
    return;
  }
  const items = all("[data-key-item]");
  const step = { j: 1, k: -1 }[event.key];
  if (!step || !items.length) return;
  const at = items.indexOf(document.activeElement);
  items[Math.min(items.length - 1, Math.max(0, at + step))].focus();
});

// --- live ---

function live(address) {
  const state = document.querySelector("[data-live-state]");
  const badge = document.querySelector("[data-live-count]");
  const title = document.title;
  let version = null;
  let due = 0;
  let waiting = null;

  async function refresh() {
    waiting = null;
    due = Date.now() + 5000;
    const parts = all("[data-live-part]");
    if (!parts.length || document.hidden) return;
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok || answer.redirected) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of parts) {
      const other = fresh.querySelector(`[data-live-part="${CSS.escape(part.dataset.livePart)}"]`);
      // What a person has under their finger stays where it is.
      if (!other || part.contains(document.activeElement)) continue;
      const open = all("details", part).map((one) => one.open);
      part.replaceChildren(...other.childNodes);
      all("details", part).forEach((one, number) => { one.open = Boolean(open[number]); });
      showTimes(part);
    }
    countDown();
  }

  const source = new EventSource(address);
  source.onopen = () => { if (state) state.textContent = "Live"; };
  source.onerror = () => { if (state) state.textContent = source.readyState === EventSource.CLOSED ? "Not live: load the page again" : "Connecting…"; };
  source.onmessage = (event) => {
    const now = JSON.parse(event.data);
    if (badge) {
      badge.textContent = now.pending;
      badge.hidden = !now.pending;
    }
    document.title = now.pending ? `(${now.pending}) ${title}` : title;
    const next = JSON.stringify(now);
    if (version !== null && next !== version && waiting === null) waiting = setTimeout(refresh, Math.max(0, due - Date.now()));
    version = next;
  };
  document.addEventListener("visibilitychange", () => { if (!document.hidden && version !== null) refresh(); });
  window.addEventListener("pagehide", () => source.close());
}

showTimes(document);
showApplicable(document);
countDown();
setInterval(countDown, 1000);
const page = document.querySelector("[data-live]");
if (page) live(page.dataset.live);
