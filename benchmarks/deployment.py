"""A deployment of a given size: filled, run, called and looked at."""

import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
from sqlalchemy import Connection, func, select, text

from benchmarks import filling, policies
from benchmarks.calls import Row, free_port, process, run_wrk, wait_ready
from benchmarks.processes import processor_seconds, resident_mb, with_children
from benchmarks.upstream import CALL, HEADERS, TOOL
from gateway.data_dir.first_start import initialise
from gateway.data_dir.state import open_by
from gateway.database_place import DATABASE
from gateway.registry.users import NewUser
from gateway.settings import Settings
from gateway.store import tables
from gateway.store.database import is_postgresql, reading_engine
from gateway.values import ProjectId

CONNECTIONS = 32
PAGES = ("", "/traces", "/approvals", "/agents", "/servers", "/policies", "/stops")
_PASSWORD = "a benchmark's long password"
_ALWAYS_MATCHING = 7
_CHANGES, _LISTS, _LOOKS = 20, 50, 5
"""How often each is done: the processor's time is told in hundredths of a second."""
_MADE = "made.json"
_SCRIPT = """
local keys, paths, requests, n = {{{keys}}}, {{{paths}}}, {{}}, 0
function init(args)
  for i = 1, math.max(#keys, #paths) do
    wrk.headers["Authorization"] = "Bearer " .. keys[(i - 1) % #keys + 1]
    requests[i] = wrk.format("POST", paths[(i - 1) % #paths + 1], nil, [==[{body}]==])
  end
end
function request() n = n % #requests + 1; return requests[n] end
"""


@dataclass(frozen=True, slots=True)
class Size:
    agents: int = 100
    servers: int = 10
    traces: int = 0
    """Records: a call leaves two."""
    rules: int = 20
    policies: int = 20
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class Deployment:
    """Filled and not running."""

    folder: Path
    size: Size
    database: str | None
    """PostgreSQL's URL; None for SQLite."""
    admin_key: str
    keys: Sequence[str]
    servers: Sequence[str]

    def environment(self, replica: int) -> Mapping[str, str]:
        found = {
            "GATEWAY_DATA_DIR": str(self.folder / f"data{replica}"),
            "GATEWAY_POLICY_DIRS": str(self.folder / "policies"),
            "GATEWAY_PORT": str(free_port()),
            "GATEWAY_MANAGEMENT_PORT": "0",
            "GATEWAY_PRIVATE_UPSTREAMS": "127.0.0.0/8",
            "GATEWAY_LOG_LEVEL": "error",
        }
        return found if self.database is None else {**found, "GATEWAY_DATABASE_URL": self.database}

    @property
    def settings(self) -> Settings:
        return Settings.read(data_dir=self.folder / "data0", database_url=self.database)

    def stored(self) -> tuple[int, int]:
        """Records, and bytes of the database; while no gateway runs on it."""
        engine = reading_engine(self.settings.database)
        with engine.connect() as connection, connection.begin():
            found = _records(connection), _bytes(connection, self.folder / "data0" / DATABASE)
        engine.dispose()
        return found


def prepared(folder: Path, size: Size, upstream: str, database: str | None = None) -> Deployment:
    """Make and fill it, or take the one of this size that is there from an earlier run."""
    if (folder / _MADE).exists():
        return Deployment(folder, size, database, **json.loads((folder / _MADE).read_text()))
    for n in range(size.policies):
        policies.write(folder / "policies", "all" if n < _ALWAYS_MATCHING else f"tool.t{n}", n)
    settings = Settings.read(data_dir=folder / "data0", database_url=database)
    person = NewUser(name="Ada", role="admin", password=_PASSWORD)
    made = initialise(settings, project="bench", owner="bench", people=[person])
    project = ProjectId(made.project_id)
    with open_by(settings) as state:
        keys = filling.fill_people(state, project, size.agents)
        servers = filling.fill_servers(state, project, size.servers, upstream)
        filling.fill_rules(state, project, size.rules)
    filling.fill_records(settings, project, size.traces)
    for replica in range(1, size.replicas):
        shutil.copytree(folder / "data0" / "keys", folder / f"data{replica}" / "keys")
    told = {"admin_key": made.admin_key, "keys": keys, "servers": servers}
    (folder / _MADE).write_text(json.dumps(told))
    return Deployment(folder, size, database, made.admin_key, keys, servers)


@dataclass(frozen=True, slots=True)
class Start:
    """Of one gateway with its OPA: seconds until it was ready, by the clock and the processor."""

    seconds: float
    processor: float


@dataclass(frozen=True, slots=True)
class Work:
    """Of something done several times: milliseconds, by the clock and the processor."""

    clock: float
    processor: float
    what: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """Gateways of one deployment, ready."""

    deployment: Deployment
    bases: Sequence[str]
    pids: Sequence[int]
    start: Start

    def call(self, seconds: int) -> tuple[Row, float]:
        """All agents and servers in turn, spread over the replicas.

        Returns what came of it and the microseconds of the processor that a call took.
        """
        connections = max(1, CONNECTIONS // len(self.bases))
        script = self._script()
        before = self._processor()
        with ThreadPoolExecutor() as pool:
            rows = list(
                pool.map(lambda base: run_wrk(base, script, connections, seconds, ""), self.bases)
            )
        calls = sum(row.calls for row in rows)
        used = (self._processor() - before) / max(1.0, calls * seconds) * 1e6
        late = max(row.p50 for row in rows), max(row.p99 for row in rows)
        failed = sum(row.failed for row in rows)
        return Row("", connections * len(rows), calls, *late, failed), used

    def memory(self) -> tuple[float, float]:
        """Megabytes of one gateway, and of its OPA."""
        gateway, *children = with_children(self.pids[0])
        return resident_mb(gateway), sum(map(resident_mb, children))

    def changes(self) -> Work:
        """An agent made by API, until it is live."""
        with self._client("/api/v1") as api:
            api.headers["Authorization"] = f"Bearer {self.deployment.admin_key}"

            def change() -> None:
                new = {"name": f"new {time.time_ns()}", "owner": "bench"}
                api.post("/agents", json=new).raise_for_status()

            return self._worked(change, _CHANGES)

    def lists(self) -> Work:
        """What an agent sees of a server's tools."""
        path = f"/mcp/proxy/{self.deployment.servers[0]}"
        body = CALL.replace(b"tools/call", b"tools/list")
        headers = {name: value for name, value in HEADERS.items() if name != "Mcp-Name"}
        headers["Mcp-Method"] = "tools/list"
        with self._client("/api/v1") as api:
            headers["Authorization"] = f"Bearer {self.deployment.keys[0]}"

            def listed() -> None:
                answer = api.post(path, content=body, headers=headers)
                if str(TOOL["name"]) not in answer.text:
                    raise RuntimeError(answer.text)

            return self._worked(listed, _LISTS)

    def slowest_page(self) -> Work:
        """Of the dashboard, once each has been looked at."""
        with self._client("") as client:
            form = {"name": "Ada", "password": _PASSWORD, "next": ""}
            client.post("/dashboard/sign-in", data=form, headers={"Origin": self.bases[0]})

            def looked(page: str) -> None:
                answer = client.get(f"/dashboard{page}")
                if answer.status_code != 200:
                    raise RuntimeError(f"{page}: {answer.status_code} {answer.text[:300]}")

            works = [self._worked(partial(looked, page), _LOOKS, page) for page in PAGES]
        return max(works, key=lambda work: work.processor)

    def _client(self, below: str) -> httpx.Client:
        return httpx.Client(base_url=self.bases[0] + below, timeout=120, trust_env=False)

    def _processor(self) -> float:
        return sum(map(processor_seconds, self.pids))

    def _worked(self, work: Callable[[], None], times: int, what: str = "overview") -> Work:
        work()
        clocks, before = [], self._processor()
        for _ in range(times):
            start = time.perf_counter()
            work()
            clocks.append(time.perf_counter() - start)
        used = (self._processor() - before) / times
        return Work(statistics.median(clocks) * 1000, used * 1000, what.strip("/") or "overview")

    def _script(self) -> str:
        made = self.deployment
        headers = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in HEADERS.items())
        keys = ",".join(f'"{key}"' for key in made.keys)
        paths = ",".join(f'"/api/v1/mcp/proxy/{server}"' for server in made.servers)
        return headers + _SCRIPT.format(keys=keys, paths=paths, body=CALL.decode())


@contextmanager
def running(made: Deployment, program: str = "gateway") -> Iterator[Running]:
    """``program`` is the module that serves."""
    with ExitStack() as stack:
        bases, pids, start = [], [], Start(0, 0)
        for replica in range(made.size.replicas):
            environment = made.environment(replica)
            began = time.perf_counter()
            one = stack.enter_context(
                process(sys.executable, "-m", program, "serve", **environment)
            )
            bases.append(f"http://127.0.0.1:{environment['GATEWAY_PORT']}")
            wait_ready(bases[-1])
            start = Start(time.perf_counter() - began, processor_seconds(one.pid))
            pids.append(one.pid)
        yield Running(made, bases, pids, start)


def _records(connection: Connection) -> int:
    trace = tables.trace.c
    logs = connection.execute(select(tables.logs.c.log)).scalars()
    last = [select(func.max(trace.idx)).where(trace.log == log) for log in logs]
    return sum(1 + (connection.execute(query).scalar() or 0) for query in last)


def _bytes(connection: Connection, file: Path) -> int:
    if is_postgresql(connection):
        size = connection.execute(text("SELECT pg_database_size(current_database())"))
        return int(size.scalar_one())
    return sum(path.stat().st_size for path in (file, Path(f"{file}-wal")) if path.exists())
