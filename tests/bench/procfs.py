"""What a process and its descendants use, from /proc (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cpu_seconds", "pss_kib", "stolen_seconds", "threads", "tree", "waited_seconds"]

_TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """Return ``pid`` and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))):
            children.setdefault(int(stat[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of the tree so far, in seconds (granularity 10 ms)."""
    return sum(int(s[11]) + int(s[12]) for p in tree(pid) if (s := _stat(p))) / _TICKS


def waited_seconds(pid: int) -> float:
    """Return how long the threads of the tree were ready to run, but had no core, in seconds.

    A server on a core of its own hardly waits: this tells how much others disturbed it.
    """
    waited = 0
    for process in tree(pid):
        for task in Path(f"/proc/{process}/task").glob("*/schedstat"):
            if len(fields := _read(str(task)).split()) > 1:
                waited += int(fields[1])
    return waited / 1e9


def stolen_seconds(cores: set[int]) -> float:
    """Return how long the host of this virtual machine ran others while these cores had work."""
    lines = (line.split() for line in _read("/proc/stat").splitlines())
    names = {f"cpu{core}" for core in cores}
    return sum(int(fields[8]) for fields in lines if fields and fields[0] in names) / _TICKS


def threads(pid: int) -> int:
    """Return the number of OS threads of the tree."""
    return sum(int(s[17]) for p in tree(pid) if (s := _stat(p)))


def pss_kib(pid: int) -> int:
    """Return the proportional set size of the tree in KiB: shared pages count once."""
    total = 0
    for process in tree(pid):
        rollup = _read(f"/proc/{process}/smaps_rollup")
        total += sum(int(ln.split()[1]) for ln in rollup.splitlines() if ln.startswith("Pss:"))
    return total


def _stat(pid: int) -> list[str]:
    """Return /proc/PID/stat from the process's state on; ``[]`` if it is gone."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:  # the process ended while we looked
        return ""
