"""What a process and its children use, as /proc tells it: Linux only."""

import os
import re
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def with_children(pid: int) -> list[int]:
    """The process, its children, and theirs."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        if (fields := _fields(stat)) is not None:
            parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += parents.get(one, ())
    return found


def processor_seconds(pid: int) -> float:
    """Of the process, of its running children, and of those whose end it has seen."""
    ticks = 0
    for one in with_children(pid):
        if (fields := _fields(Path(f"/proc/{one}/stat"))) is not None:
            ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS


def own_seconds(pid: int) -> dict[str, float]:
    """Processor time by the program's name: of the process and of its running children, alone."""
    spent: dict[str, float] = {}
    for one in with_children(pid):
        if (fields := _fields(Path(f"/proc/{one}/stat"))) is not None:
            name = Path(f"/proc/{one}/comm").read_text().strip()
            spent[name] = spent.get(name, 0.0) + sum(map(int, fields[11:13])) / _TICKS
    return spent


def resident_mb(pid: int) -> float:
    """Of the process alone."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def _fields(stat: Path) -> list[str] | None:
    """Those after the name, which may hold spaces; None for a process that has ended."""
    try:
        return stat.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
