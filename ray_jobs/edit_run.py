"""Corrections applied at once: a new generation of a run, made in this process from what is there, without training.

`dxmc edit` and `dxmc review` call it. Ray is not started: what an edit changes is worked out in seconds.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dxmc_core.artifacts.generations import EDIT, GenerationRecord, Generations, home_of, now
from dxmc_core.artifacts.manifest import fingerprint_of
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.config import read_run_config
from dxmc_core.edits.file import EditsError, EditsFile, append_edits, read_edits
from dxmc_core.edits.model import Edit
from dxmc_core.edits.references import fill_references, missing_lines, read_outcomes
from dxmc_core.errors import InputError
from dxmc_core.run_metrics import stage_metrics
from dxmc_core.stages.assign_arrivals import since_full
from dxmc_core.stages.edited_clusters import ClusteredImages, edit_clusters, tell_of_edits
from ray_jobs.context import RunContext, describing_of
from ray_jobs.plans import plan_of
from ray_jobs.plans.train_heads import LEARNED
from ray_jobs.progress import Progress, snapshot
from ray_jobs.report_files import call_here, make_report, map_pages_here

_ASSIGN = "assign_clusters"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AppliedEdits:
    """What came of edits.

    Attributes:
        generation: number of the generation that is current now.
        run_dir: where it lies.
        rows: of its table `edits`, one for each edit of the home, in their order.
    """

    generation: int
    run_dir: RunDir
    rows: list[dict[str, Any]]


def edit_run(
    run_dir_uri: str,
    change: Callable[[EditsFile, RunDir], EditsFile],
    *,
    reason: Callable[[], str | None] = lambda: None,
) -> AppliedEdits:
    """Change the edits of a home and apply all of them, under its lock.

    Args:
        run_dir_uri: the home, or a generation of it.
        change: is given the edits and the current run, and writes others, see `append_edits` and `undo_edit`.
        reason: why the generation was made, for a person, asked after `change`; by default what the last edit does.

    Raises:
        InputError: the run is not finished, or `change` refuses; nothing is changed.
    """
    home = home_of(RunDir.at(run_dir_uri))
    generations = Generations(home)
    with home.locked(snapshot):
        before = generations.pointer()
        base = home if before is None else generations.run_dir(before.current)
        if base.stage(_ASSIGN).manifest() is None:
            raise InputError(f"{home.uri} has no clusters yet; run dxmc run or dxmc recluster first")
        started = time.perf_counter()
        found = change(read_edits(home), base)
        record = None if before is None else generations.record(before.current)
        number = generations.begin()
        generations.discard_unfinished(number)
        context = _context_of(base, generations.run_dir(number))
        context.claim()
        rows = _make(context, base, record)
        published = _record_of(context, base, record, number, reason() or _reason(found), started)
        generations.publish(published, before=before)
        generations.retire(context.config.recluster.keep_generations)
        logger.info("generation %d is current, %s", number, context.run_dir.uri)
    return AppliedEdits(number, context.run_dir, rows)


def add_edits(found: EditsFile, base: RunDir, edits: Sequence[Edit]) -> EditsFile:
    """Write more edits, where each names clusters and images that the run has.

    Raises:
        EditsError: one names others, or contradicts an earlier one; nothing is written.
    """
    filled = fill_references(edits, base)
    lines = missing_lines(filled, base, where=found.uri, first=len(found.edits) + 1)
    if lines:
        raise EditsError(lines)
    return append_edits(found, filled)


def _reason(found: EditsFile) -> str:
    return f"{found.edits[-1].summary()}, by {found.edits[-1].author}" if found.edits else "no edits are left"


def _context_of(base: RunDir, run_dir: RunDir) -> RunContext:
    """The new generation, with the configuration of the run that it changes."""
    config = read_run_config(base)
    settings = config.assign_clusters.model_copy(update={"keep_ids_from": base.uri})
    config = config.model_copy(update={"run_dir": run_dir.uri, _ASSIGN: settings})
    return RunContext(config, run_dir, base)


def _make(context: RunContext, base: RunDir, record: GenerationRecord | None) -> list[dict[str, Any]]:
    """All stages of the generation; the rows of the table `edits`."""
    for name in ("embed_images", *context.choice_of_k, *context.text_stages, "mine_neighbors", "train_heads"):
        if base.stage(name).manifest() is not None:
            with Progress(f"copying {name}"):
                context.published(base.stage(name).copy_to(context.stage(name)))
    started = time.perf_counter()
    output, before = context.stage(_ASSIGN), base.stage(_ASSIGN)
    inputs = {f"base/{_ASSIGN}": before.require_manifest().fingerprint, **(context.inputs_of("embed_images") or {})}
    fingerprint = fingerprint_of(_ASSIGN, {"mode": EDIT, "describing": describing_of(context)}, inputs)
    output.begin(fingerprint)
    heads = context.stage("train_heads").manifest()
    with Progress("applying edits"):
        edited = edit_clusters(
            ClusteredImages.published(before),
            context.edits,
            images=context.stage("embed_images"),
            output=output,
            fingerprint=fingerprint,
            config=context.config.assign_clusters,
            previous_run=base.uri,
            learned=frozenset(heads.metrics.get(LEARNED, []) if heads is not None else ()),
            judging=context.config.naming.judging_nouns,
            seed=context.config.seed,
        )
    context.keep_edits(edited.edits)
    tell_of_edits(edited)
    made = edited.written(output, fingerprint=fingerprint)
    context.published(made.publish(output, fingerprint=fingerprint, inputs=inputs, started=started))
    plan, started = plan_of("write_report"), time.perf_counter()
    report, fingerprint = context.stage(plan.NAME), plan.fingerprint(context)
    report.begin(fingerprint)
    made = make_report(context, fingerprint, call=call_here, map_pages=map_pages_here)
    context.published(made.publish(report, fingerprint=fingerprint, inputs=plan.inputs(context), started=started))
    return read_outcomes(output)


def _record_of(
    context: RunContext, base: RunDir, record: GenerationRecord | None, number: int, reason: str, started: float
) -> GenerationRecord:
    manifests = {name: context.stage(name).require_manifest() for name in ("embed_images", _ASSIGN, "write_report")}
    return GenerationRecord(
        number=number,
        base=None if record is None else record.number,
        mode=EDIT,
        reason=reason,
        published_at=now(),
        metrics={
            "since_full": asdict(since_full(base, record)),
            "describing": describing_of(context),
            "seconds": round(time.perf_counter() - started, 3),
            "run": {**stage_metrics(manifests, num_gpus=0), "drift": {}, "turnover": None},
        },
    )
