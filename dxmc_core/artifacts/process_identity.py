"""Tells whether a process that has left its mark somewhere is still at work, where this process can know that.

A host name and a process number are no identity: containers repeat both. The boot of a kernel and a PID namespace in
it are; within these a number that was given again has another start. The start is counted from the boot, so it does not
move when the clock is set.
"""

import os
from pathlib import Path
from typing import Any, Literal

_PROC = Path("/proc")
#: States of a process by which nothing of it will run any more, and by which nothing runs until somebody lets it go on.
_DEAD, _STOPPED = "ZX", "Tt"


def identify() -> dict[str, Any]:
    """What to write down of this process: `pid`, and `process`, by which it is known; None where there is no /proc."""
    pid, space = os.getpid(), _space()
    return {"pid": pid, "process": {**space, "started": _stat(pid)[1]} if space else None}


def known_state(mark: dict[str, Any]) -> Literal["alive", "dead", "unknown"]:
    """Whether the process that wrote down `identify()` is at work.

    Unknown are those of other machines and containers, and those that are stopped.
    """
    process, space = mark.get("process"), _space()
    if not isinstance(process, dict) or not space or space != {name: process.get(name) for name in space}:
        return "unknown"
    try:
        state, started = _stat(mark["pid"])
    except OSError:
        return "unknown" if _exists(mark["pid"]) else "dead"
    if started != process.get("started") or state in _DEAD:
        return "dead"
    return "unknown" if state in _STOPPED else "alive"


def _space() -> dict[str, str]:
    """The boot and the PID namespace of this process; empty where a system does not say.

    The number of a namespace is given again when that is gone, and whoever then has it finds no old process in it.
    """
    try:
        return {
            "boot": (_PROC / "sys/kernel/random/boot_id").read_text().strip(),
            "pid_namespace": str((_PROC / "self/ns/pid").readlink()),
        }
    except OSError:
        return {}


def _stat(pid: int) -> tuple[str, int]:
    """State and start, in ticks since the boot, of a process."""
    # Its second field is a name in parentheses, with whatever characters.
    fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _exists(pid: int) -> bool:
    """Whether there is a process, also where /proc shows those of other users to nobody else."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
