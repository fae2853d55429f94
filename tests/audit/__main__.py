"""``python -m tests.audit SNAPSHOT LOCK…``; what `make audit` runs.

Exit codes: 0 nothing known · 1 something is known · 2 usage · 3 cannot tell.
"""

import sys
from pathlib import Path

from tests.audit.advisories import Unreadable, advisories
from tests.audit.lock import pinned

NO_SNAPSHOT = """\
Nothing was checked: there is no snapshot of known vulnerabilities.
Where there is internet, download OSV's archive of the ecosystem PyPI (all.zip; see osv.dev, "Data
sources"), bring it here, and say: make audit SNAPSHOT=all.zip"""


def main(words: list[str]) -> int:
    if len(words) < 2:
        print("python -m tests.audit SNAPSHOT LOCK…", file=sys.stderr)
        return 2
    snapshot, *locks = words
    if not snapshot:
        print(NO_SNAPSHOT, file=sys.stderr)
        return 3
    try:
        packages = {one for lock in locks for one in pinned(Path(lock).read_text())}
        known = advisories(Path(snapshot))
    except (OSError, Unreadable) as fault:
        print(f"Nothing was checked: {fault}", file=sys.stderr)
        return 3
    found = sorted(
        f"{name} {version}: {advisory.id}{advisory.said}"
        for name, version in packages
        for advisory in known.of(name)
        if advisory.affects(version)
    )
    print(*found, sep="\n", end="\n" if found else "")
    print(
        f"{len(packages)} packages against {known.count} advisories, the newest of"
        f" {known.newest or 'no known day'}: {len(found) or 'nothing'} found"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
