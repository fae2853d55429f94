"""How long the first page of traces takes in the dashboard.

    python -m benchmarks.dashboard [--traces 1000000]

The whole page, from the session in its cookie to the last row, without the network. With a million
traces it must stay under 300 ms.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median

from sqlalchemy import text

from tests.dashboard.site import Site, a_site

PAGES = {
    "newest": "/dashboard/traces",
    "of a day": "/dashboard/traces?time_range=24h",
    "refused": "/dashboard/traces?decision=BLOCKED",
    "of one agent": "/dashboard/traces?agent_id=agt_3",
    "of one tool": "/dashboard/traces?tool=tool_7",
    "of one policy": "/dashboard/traces?policy=rule:pol_20",
    "that are searched": "/dashboard/traces?q=denied",
    "of which none fits": "/dashboard/traces?policy=never",
    "searched in vain": "/dashboard/traces?q=never",
}
TIMES = 20
_SEED = text(
    """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
    INSERT INTO trace (log, idx, id, call_id, project_id, pseq, ts, kind, decision, reason_code,
                       risk, agent_id, server_id, tool, policies, body, leaf)
    SELECT 9, i, 'bench_' || i, 'call_' || i, :project, i,
           strftime('%Y-%m-%dT%H:%M:%S.000000Z', 'now', '-' || (:count - i) || ' seconds'),
           'decision', iif(i % 10, 'ALLOW', 'DENY'), iif(i % 10, NULL, 'policy_denied'),
           'LOW', 'agt_' || (i % 5), 'srv_1', 'tool_' || (i % 20),
           iif(i % 10, char(10) || 'gateway.default' || char(10),
               char(10) || 'rule:pol_' || (i % 300) || char(10) || 'no_export' || char(10)),
           zeroblob(700), zeroblob(32)
    FROM n
    """
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=1_000_000)
    count = parser.parse_args().traces
    with tempfile.TemporaryDirectory() as folder, a_site(Path(folder)) as site:
        seed(site, count)
        asyncio.run(measure(site, count))


def seed(site: Site, count: int) -> None:
    """Rows as the log writes them, but for the log's own tree, which no page of traces reads."""
    given = {"count": count, "project": site.world.project_id}
    site.world.state.writer.change_now(lambda connection: connection.execute(_SEED, given).rowcount)


async def measure(site: Site, count: int) -> None:
    async with site.person("admin") as client:
        for what, path in PAGES.items():
            times = []
            for _ in range(TIMES):
                start = time.perf_counter()
                answer = await client.get(path)
                times.append(time.perf_counter() - start)
                assert answer.status_code == 200
            print(
                f"first page of traces, {what:<19} {count:>10,} traces "
                f"{median(times) * 1e3:>7.1f} ms, slowest {max(times) * 1e3:.1f} ms"
            )


if __name__ == "__main__":
    main()
