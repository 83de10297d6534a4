"""What a schedule calls: brings a generation up to date with its source, by assigning what is new or clustering anew.

`python -m ray_jobs.recluster --config FILE`, the same as `dxmc recluster`. The run directory of the configuration is
the home of generations; each is a run directory of its own, made beside the current one and published at the end.
"""

import argparse
import logging
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from dxmc_core.artifacts.generations import GenerationRecord, Generations, Pointer, now
from dxmc_core.artifacts.manifest import fingerprint_of
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.config import PipelineConfig, load_config, read_run_config
from dxmc_core.errors import InputError
from dxmc_core.reclustering import Decision, SinceFull, decide
from dxmc_core.run_metrics import stage_metrics
from dxmc_core.stages.assign_arrivals import reference_figures, since_full
from dxmc_core.stages.settings.recluster import clustering_settings
from ray_jobs.arguments import add_quiet, add_recluster_arguments
from ray_jobs.assign_arrivals import Arrivals, assign_arrivals, describe_arrivals
from ray_jobs.cluster import num_gpus_used
from ray_jobs.context import RunContext, describing_of, record_of
from ray_jobs.main import run_in_order, start_ray_for
from ray_jobs.plan import check_outside
from ray_jobs.plans import plan_of
from ray_jobs.program import guarded
from ray_jobs.progress import snapshot
from ray_jobs.run_report import reported

NAME = "recluster"
_ASSIGN = "assign_clusters"

logger = logging.getLogger(__name__)


@dataclass
class Night:
    """One scheduled run: where it starts from, and what it makes.

    Attributes:
        before: where `current` stood.
        base: the run it starts from; None for the first one.
        record: what that run says of itself, where it is a generation.
    """

    context: RunContext
    generations: Generations
    number: int
    before: Pointer | None
    record: GenerationRecord | None

    @property
    def base(self) -> RunDir | None:
        return self.context.base

    @property
    def describing(self) -> str:
        return describing_of(self.context)


def run(arguments: argparse.Namespace) -> GenerationRecord | None:
    """Load the configuration and make the next generation; None when there is nothing to do."""
    config = load_config(arguments.config, arguments.overrides, run_dir=arguments.run_dir)
    home = RunDir.at(config.run_dir)
    Generations(home).require_own_or_empty()
    # A run that is refused says nothing about the one at work, so only one that holds the lock is reported.
    with home.locked(snapshot), reported(home, prometheus_uri=config.recluster.prometheus_uri) as report:
        record = recluster(config, home, mode=arguments.mode)
        pointer = Generations(home).pointer()
        report["generation"] = pointer.current if pointer is not None else None
        if record is not None:
            report.update({"mode": record.mode, "reason": record.reason, **record.metrics["run"]})
    return record


def recluster(config: PipelineConfig, home: RunDir, *, mode: str = "auto") -> GenerationRecord | None:
    """Make the next generation and move `current` to it; None when nothing has changed since the last one.

    Args:
        home: where the generations are; its lock is the caller's.

    Raises:
        InputError: something cannot be used.
    """
    started = time.perf_counter()
    if not _has_clusters(Generations(home)):
        home.write_record(record_of(config))  # by which the next night knows that the place is dxmc's
    night = _begin(config, Generations(home), mode)
    check_outside(night.context, [plan_of(name) for name in night.context.stages])
    if mode == "auto" and _is_up_to_date(night):
        logger.info("nothing to do: generation %d is up to date with its source", _number_of(night.record))
        return None
    night.context.claim()
    start_ray_for(night.context)
    run_in_order(night.context, ["embed_images"])
    made = _make(night, mode)
    run_in_order(night.context, ["write_report"])
    record = _publish(night, made, seconds=time.perf_counter() - started)
    removed = night.generations.retire(config.recluster.keep_generations)
    if removed:
        logger.info("%s: removed the generations %s", NAME, ", ".join(map(str, removed)))
    return record


def _has_clusters(generations: Generations) -> bool:
    return generations.pointer() is not None or generations.home.stage(_ASSIGN).manifest() is not None


def _number_of(record: GenerationRecord | None) -> int | None:
    return record.number if record is not None else None


def _begin(config: PipelineConfig, generations: Generations, mode: str) -> Night:
    before = generations.pointer()
    base, record = None, None
    if before is not None:
        base, record = generations.run_dir(before.current), generations.record(before.current)
    elif generations.home.stage(_ASSIGN).manifest() is not None:
        base = generations.home  # of dxmc run, which generations begin with
    if base is None and mode == "assign":
        raise InputError(f"{generations.home.uri} has no clusters yet to assign to; run with --mode full or auto first")
    number = generations.begin()
    run_dir = generations.run_dir(number)
    settings = config.assign_clusters
    keep = base.uri if base is not None else _other_run(settings.keep_ids_from, generations.home)
    config = config.model_copy(
        update={"run_dir": run_dir.uri, _ASSIGN: settings.model_copy(update={"keep_ids_from": keep})}
    )
    return Night(RunContext(config, run_dir, base), generations, number, before, record)


def _other_run(uri: str | None, home: RunDir) -> str | None:
    """Where ids come from in a first generation: this place has none yet."""
    return None if uri is None or RunDir.at(uri) == home else uri


def _is_up_to_date(night: Night) -> bool:
    if night.base is None or night.record is None or night.record.metrics.get("describing") != night.describing:
        return False
    embedded = night.base.stage("embed_images").require_manifest()
    return embedded.fingerprint == plan_of("embed_images").fingerprint(night.context) and not _changed_settings(night)


def _changed_settings(night: Night) -> bool:
    assert night.base is not None
    then, now_ = read_run_config(night.base), night.context.config
    return clustering_settings(then.model_dump(mode="json")) != clustering_settings(now_.model_dump(mode="json"))


@dataclass(frozen=True)
class Made:
    """What was done tonight, and why.

    Attributes:
        measured: what the decision rests on; None where nothing had to be measured for it.
        since: what the next night starts from.
    """

    decision: Decision
    measured: SinceFull | None
    since: SinceFull


def _make(night: Night, mode: str) -> Made:
    """Every stage after embed_images but the report, in the mode that is asked for or that the drift asks for."""
    context, arrivals = night.context, None
    if night.base is None:
        decision = Decision("full", "this is the first clustering here")
    elif mode == "full":
        decision = Decision("full", "asked for by --mode full")
    elif mode == "auto" and _changed_settings(night):
        decision = Decision("full", "settings of the clustering have changed since the last one")
    else:
        since = since_full(night.base, night.record)
        arrivals = assign_arrivals(context, night.base, since, fingerprint=_assign_fingerprint(night))
        decision = decide(context.config.recluster, arrivals.since)
        if mode == "assign":
            decision = Decision("assign", f"asked for by --mode assign ({decision.reason})")
    logger.info("%s: %s, because %s", NAME, decision.mode, decision.reason)
    if decision.mode == "assign":
        assert arrivals is not None
        _publish_assignments(night, arrivals)
        return Made(decision, arrivals.since, arrivals.since)
    run_in_order(context, [name for name in context.stages if name not in ("embed_images", "write_report")])
    measured = arrivals.since if arrivals is not None else None
    return Made(decision, measured, SinceFull(*reference_figures(context.stage(_ASSIGN))))


def _assign_fingerprint(night: Night) -> str:
    return fingerprint_of(_ASSIGN, {"mode": "assign", "describing": night.describing}, _assign_inputs(night))


def _assign_inputs(night: Night) -> dict[str, str]:
    base = night.base
    assert base is not None
    own = night.context.inputs_of("embed_images") or {}
    stages = (*night.context.text_stages, "train_heads", _ASSIGN)
    return {**own, **{f"base/{stage}": base.stage(stage).require_manifest().fingerprint for stage in stages}}


def _publish_assignments(night: Night, arrivals: Arrivals) -> None:
    """The artifacts of a night without a full clustering: the base's nouns and heads, and assign_clusters."""
    context, base = night.context, night.base
    assert base is not None
    for name in (*context.choice_of_k, *context.text_stages, "train_heads"):
        # Text counterparts have the base's row ids; nothing reads them before the next full clustering.
        context.published(base.stage(name).copy_to(context.stage(name), without=["text_counterparts"]))
    started, fingerprint = time.perf_counter(), _assign_fingerprint(night)
    made = describe_arrivals(context, base, arrivals, fingerprint=fingerprint)
    context.published(
        made.publish(context.stage(_ASSIGN), fingerprint=fingerprint, inputs=_assign_inputs(night), started=started)
    )
    logger.info("%-21s done: %s", _ASSIGN, plan_of(_ASSIGN).summary(context))


def _publish(night: Night, made: Made, *, seconds: float) -> GenerationRecord:
    record = GenerationRecord(
        number=night.number,
        base=_number_of(night.record),
        mode=made.decision.mode,
        reason=made.decision.reason,
        published_at=now(),
        metrics={
            "since_full": asdict(made.since),
            "describing": night.describing,
            "seconds": round(seconds, 3),
            "run": {**_stage_metrics(night, made.decision), **_drift_metrics(made)},
        },
    )
    night.generations.publish(record, before=night.before)
    logger.info("%s: generation %d is current, %s, %.1f s", NAME, record.number, night.context.run_dir.uri, seconds)
    return record


def _drift_metrics(made: Made) -> dict[str, Any]:
    if made.measured is None:
        return {"drift": {}, "turnover": None}
    return {"drift": made.measured.drift.as_dict(), "turnover": round(made.measured.turnover, 6)}


def _stage_metrics(night: Night, decision: Decision) -> dict[str, Any]:
    """Figures of the stages that were made tonight; without a full clustering the others are copies."""
    context = night.context
    made = context.stages if decision.mode == "full" else ("embed_images", _ASSIGN, "write_report")
    manifests = {name: context.stage(name).require_manifest() for name in made}
    return stage_metrics(manifests, num_gpus=num_gpus_used(context.config.resources))


def main() -> None:
    """Run as a program and exit."""
    parser = argparse.ArgumentParser(description="Makes the next generation of a clustering that is kept up to date.")
    add_recluster_arguments(parser)
    add_quiet(parser)
    arguments = parser.parse_args()
    sys.exit(guarded(lambda: run(arguments), name=NAME, quiet=arguments.quiet))


if __name__ == "__main__":
    main()
