"""`dxmc status`: what a run directory holds, who is at work in it, and what a rerun would do."""

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from dxmc_core.runtime.durations import duration

if TYPE_CHECKING:
    from dxmc_core.artifacts.lease import LockHolder
    from ray_jobs.context import RunContext
    from ray_jobs.plan import StageState

NAME = "status"
SUMMARY = "Show what a run directory holds, who is at work in it, and what a rerun would do."
EXAMPLES = """\
dxmc status runs/laptop
dxmc status runs/laptop --check-source      lists the source too, to see whether it has changed
dxmc status s3://bucket/runs/first --json"""
_WILL = {
    "done": "done",
    "stale": "changed: a rerun rebuilds it",
    "missing": "not done: a rerun runs it",
    "waiting": "waits for an earlier stage",
}

#: The stages whose fingerprint has the number of clusters.
_STAGES_OF_K = ("build_semantic_space", "train_heads")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument(
        "--check-source", action="store_true", help="list the source, however many images it holds: has it changed?"
    )


def execute(arguments: argparse.Namespace) -> None:
    from dxmc_core.artifacts.generations import read_record
    from dxmc_core.artifacts.run_dir import RunDir
    from ray_jobs.context import RunContext

    context = RunContext.open(arguments.run_dir)
    holder = RunDir.at(arguments.run_dir).holder()
    record = read_record(context.run_dir)
    states = _made(context) if record is not None else _states(context, with_source=arguments.check_source)
    if arguments.json:
        result = {
            "run_dir": context.run_dir.uri,
            "generation": None if record is None else record.model_dump(),
            "at_work": None if holder is None else _as_json(holder),
            "source_checked": arguments.check_source,
            "stages": [_row(state) for state in states],
        }
        print(json.dumps(result, indent=1))
        return
    print(context.run_dir.uri)
    if holder is not None:
        _print_holder(holder)
    if record is not None:
        print(f"  generation {record.number}, {record.published_at}: {record.mode}, because {record.reason}")
    for state in states:
        print(f"  {state.name:<21} {_WILL[state.state]:<30} {_facts(context, state)}".rstrip())
    if states and states[0].manifest:
        reasons = states[0].manifest.metrics["reject_reasons"]
        print("rejects: " + (", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none"))


def _states(context: "RunContext", *, with_source: bool) -> "list[StageState]":
    """What a rerun would do. The embeddings are read only where some may be copies, which lowers K."""
    from ray_jobs.plan import stage_states
    from ray_jobs.plans import plan_of

    plans = [plan_of(name) for name in context.stages]
    context.counts_distinct = False
    states = stage_states(context, plans, with_source=with_source)
    if any(state.state == "stale" and state.name in _STAGES_OF_K for state in states):
        context.counts_distinct = True
        states = stage_states(context, plans, with_source=with_source)
    return states


def _print_holder(holder: "LockHolder") -> None:
    since, so_long = "", ""
    if holder.since is not None:
        since, so_long = f", since {_clock(holder.since)}", f" ({duration(max(time.time() - holder.since, 0))})"
    who = f"process {holder.pid} on {holder.host}{since}"
    if holder.is_gone:
        print(f"  left by {who}, which is gone; the next run takes over")
    elif holder.is_gone is None:
        print(f"  at work, or gone without a word: {who}{so_long}; the next run watches its lock to find out")
    else:
        print(f"  at work: {who}{so_long}")
    if "doing" in holder.note:
        print(f"  {holder.note['stage']:<21} {holder.note['doing']}, at {_clock(holder.note['said_at'])}")
    if holder.note.get("last_line"):
        print(f"  last line of its log: {holder.note['last_line']}")


def _as_json(holder: "LockHolder") -> dict[str, Any]:
    return {
        "host": holder.host,
        "pid": holder.pid,
        "since": None if holder.since is None else _clock(holder.since),
        "is_gone": holder.is_gone,
        **{key: holder.note.get(key) for key in ("stage", "doing", "done", "total", "unit", "last_line")},
    }


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _facts(context: "RunContext", state: "StageState") -> str:
    """How long a stage took, and what it made in the words of its plan unless it is of another version."""
    from ray_jobs.plans import plan_of

    if state.manifest is None:
        return ""
    made = plan_of(state.name).summary(context) if state.state == "done" else ""
    return f"{state.manifest.seconds:>9.1f} s  {made}"


def _made(context: "RunContext") -> "list[StageState]":
    """The stages that a published generation has; nothing rebuilds them."""
    from ray_jobs.plan import StageState

    manifests = {name: context.manifest(name) for name in context.stages}
    return [
        StageState(name, "done", manifest.fingerprint, manifest)
        for name, manifest in manifests.items()
        if manifest is not None
    ]


def _row(state: "StageState") -> dict[str, Any]:
    manifest = state.manifest
    return {
        "stage": state.name,
        "state": state.state,
        "rows": max((manifest.rows(table) for table in manifest.tables), default=0) if manifest else 0,
        "seconds": manifest.seconds if manifest else 0.0,
        "finished_at": manifest.finished_at if manifest else None,
        "metrics": manifest.metrics if manifest else {},
    }
