"""Stage 4 as a Ray job: Ray Train when several workers or a GPU take part, one task when a single process does.

Checkpoints go to the stage folder under the fingerprint, not into Ray Train's own: a rerun, which to Ray is another
run, finds them there too.
"""

import json
import logging
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayActorError, RayTaskError

from dxmc_core.artifacts.best_start import START_NAME, evidence_of, serialize_start
from dxmc_core.artifacts.heads import HEADS_NAME
from dxmc_core.artifacts.joined_images import IMAGE_TABLES
from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.artifacts.storage import storage_errors
from dxmc_core.config import ResourcesConfig
from dxmc_core.method.hyperparameters import settings_of
from dxmc_core.report import flatten_settings
from dxmc_core.runtime.allocator import reuse_freed_blocks
from dxmc_core.runtime.cpu_products import prefer_onednn
from dxmc_core.stages.train_heads import (
    METRICS_NAME,
    TrainingJob,
    find_best_start,
    live_metrics,
    read_start,
    train_heads,
)
from dxmc_core.stages.training_log import LogEpoch, training_log
from ray_jobs.cluster import (
    RequiredFiles,
    call_beside_driver,
    causes,
    num_gpus,
    remove_placement_groups,
    required_files,
    run_on_host,
    told_plainly,
)
from ray_jobs.context import RunContext
from ray_jobs.hosts import (
    Ask,
    Host,
    NoHostLeftError,
    cores_of_each_worker,
    cores_of_whole_hosts,
    described,
    hosts,
)
from ray_jobs.main import main_of
from ray_jobs.plans.train_heads import LEARNED, NAME, learned_edits
from ray_jobs.progress import Progress

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

_MAX_FAILURES = 3
#: The longest that one worker waits for the others, who may be reading their rows. Ray notices a dead one by itself.
_COLLECTIVE_TIMEOUT_S = 600
_POLL_S = 1.0
#: With fewer images, `train_workers: auto` keeps training on one host: an epoch is short beside what hosts exchange.
_MANY_IMAGES = 200_000

logger = logging.getLogger(__name__)


def run(context: RunContext, fingerprint: str) -> StageResult:
    config = context.config
    output = context.stage(NAME)
    image_tables = tuple(config.encoder_of_table)
    if config.further_encoders and not settings_of(config.method.name).joins_encoders:
        logger.info("%s: method %s goes by the first encoder alone; best joins several", NAME, config.method.name)
        image_tables = image_tables[:1]
    job = TrainingJob(
        method=config.method,
        num_clusters=context.num_clusters,
        seed=config.seed,
        images=context.stage("embed_images"),
        semantic_space=context.stage("build_semantic_space"),
        neighbors=context.stage("mine_neighbors"),
        output=output,
        fingerprint=fingerprint,
        checkpoint_every_s=config.train_heads.checkpoint_every_s,
        count_near_duplicates_once=config.train_heads.count_near_duplicates_once,
        warm_start=context.base.stage(NAME) if context.base is not None else None,
        image_tables=image_tables,
        edits=learned_edits(context),
    )
    use_gpu = num_gpus(config.resources) > 0
    with (
        training_log(
            config.train_heads.log_to,
            context.run_dir,
            fingerprint=fingerprint,
            settings=flatten_settings(config.model_dump(mode="json")),
        ) as log_epoch,
        _LiveView(job, log_epoch),
    ):
        if config.method.name == "best":
            device = "cuda" if use_gpu else "cpu"
            run_on_host(
                partial(find_best_start, device=device), job, device=device, doing="looking for the start", tells=True
            )
        if job.num_epochs == 0:
            run_on_host(train_heads, job, doing="fitting the heads")
        else:
            _train(job, config.resources, num_images=context.num_images)
    history = [json.loads(line) for line in output.storage.read_bytes(METRICS_NAME).splitlines()]
    names = [HEADS_NAME, METRICS_NAME]
    evidence: dict[str, Any] = {}
    start = read_start(job)
    if start is not None:
        output.write_file(START_NAME, serialize_start(start))
        names.append(START_NAME)
        evidence["start"] = evidence_of(start)
    if len(image_tables) > 1:
        evidence[IMAGE_TABLES] = list(image_tables)
    return StageResult(
        tables={},
        files={name: output.describe_file(name) for name in names},
        metrics={
            "method": config.method.name,
            "epochs": len(history),
            "last_epoch": history[-1] if history else None,
            **evidence,
            **({LEARNED: [edit.id for edit in job.edits]} if job.edits else {}),
        },
    )


@dataclass(frozen=True)
class TrainingLayout:
    """The workers that train together.

    Attributes:
        least, most: how many; Ray Train goes between these as hosts leave and come.
        cores: of each; 0 where each has a GPU.
        note: what a person should know of how they were chosen.
    """

    least: int
    most: int
    cores: int
    note: str | None = None

    @property
    def is_single_task(self) -> bool:
        return self.most == 1 and self.cores > 0

    @property
    def ask(self) -> Ask:
        return Ask(self.cores, gpus=0 if self.cores else 1, count=self.least, is_group=True)


def choose_training(resources: ResourcesConfig, found: Sequence[Host], *, gpus: int, num_images: int) -> TrainingLayout:
    """The workers for these hosts, each with room on one of them. There are never more than have room now, unless a
    range says that there may be.

    Args:
        gpus: to use, of all hosts; 0 to train on cores.
    """
    cores = [host.cores for host in found]
    wanted = resources.train_workers
    if isinstance(wanted, str):
        return _chosen_by_hosts(found, gpus=gpus, num_images=num_images)
    least, most = (wanted, wanted) if isinstance(wanted, int) else wanted
    room = gpus or max(sum(cores), 1)
    note = None
    if room < least:
        unit = "GPU" if gpus else "core"
        note = f"train_workers is {wanted}, and there is one {unit} each for {room} only: {described(found)}"
        least, most = room, room if isinstance(wanted, int) else most
    size = 0 if gpus else cores_of_each_worker(cores, most) or 1
    return TrainingLayout(least, most, size, note)


def _chosen_by_hosts(found: Sequence[Host], *, gpus: int, num_images: int) -> TrainingLayout:
    """`train_workers: auto`: one on one host; on several one for each that takes part, as many as there are."""
    size = 0 if gpus else cores_of_whole_hosts([host.cores for host in found])
    most = min(gpus, sum(host.gpus > 0 for host in found)) if gpus else sum(host.cores // size for host in found)
    if most <= 1:
        return TrainingLayout(1, 1, size)
    if num_images < _MANY_IMAGES:
        return TrainingLayout(1, 1, size, f"train_workers auto: 1, for fewer than {_MANY_IMAGES:,} images")
    return TrainingLayout(1, most, size, f"train_workers auto: 1 to {most}, for {described(found)}")


def _train(job: TrainingJob, resources: ResourcesConfig, *, num_images: int) -> None:
    """Train on the hosts that there are, and on those that are left whenever they are too few for what was asked."""
    while True:
        gpus = num_gpus(resources)
        layout = choose_training(resources, hosts(), gpus=gpus, num_images=num_images)
        if layout.note is not None:
            logger.info("%s: %s", NAME, layout.note)
        if layout.is_single_task:
            run_on_host(train_heads, job, doing="training")
            return
        try:
            with Progress("starting the workers that train"):
                _fit(job, layout)
            return
        except NoHostLeftError as error:
            logger.warning("%s; training goes on with what is left", error)


def _fit(job: TrainingJob, layout: TrainingLayout) -> None:
    """Train on several workers. When one dies they start again, from the newest checkpoint, three times."""
    from ray.train import ControllerError

    for failures in range(_MAX_FAILURES + 1):
        try:
            call_beside_driver(_fit_once, job, layout, required_files(), ask=layout.ask)
            return
        except (ControllerError, RayTaskError) as error:
            # Ray Train (2.60) starts workers again by itself, but gives up when one dies in some moments of the start.
            given_up = any(isinstance(cause, ControllerError) for cause in causes(error))
            died = any(isinstance(cause, RayActorError) for cause in causes(error))
            if failures == _MAX_FAILURES or not (given_up and died):
                raise
            logger.warning("%s: a worker died while the workers were starting; they are started again", NAME)
            remove_placement_groups()


def _fit_once(job: TrainingJob, layout: TrainingLayout, required: RequiredFiles) -> None:
    _trainer(job, layout, required).fit()


def _trainer(job: TrainingJob, layout: TrainingLayout, required: RequiredFiles) -> "TorchTrainer":
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from ray_jobs.training_group import GroupConfig

    use_gpu = layout.cores == 0
    num_workers = layout.most if layout.least == layout.most else (layout.least, layout.most)
    return TorchTrainer(
        _train_worker,
        train_loop_config={"job": job, "required": required},
        scaling_config=ScalingConfig(
            num_workers=num_workers,  # type: ignore[arg-type]  # ray.train shows type checkers v1's class (2.60)
            use_gpu=use_gpu,
            resources_per_worker=None if use_gpu else {"CPU": layout.cores},
        ),
        torch_config=GroupConfig(backend="nccl" if use_gpu else "gloo", timeout_s=_COLLECTIVE_TIMEOUT_S),
        run_config=RunConfig(
            # A finished (storage_path, name) pair would give the old result instead of training.
            name=f"{job.fingerprint[:12]}-{uuid.uuid4().hex[:8]}",
            storage_path=f"{job.output.storage.uri}/ray_train",
            # Spot machines may be taken away any number of times: each time costs what a checkpoint is old.
            failure_config=FailureConfig(
                max_failures=_MAX_FAILURES,
                max_preemption_failures=-1,  # type: ignore[call-arg]  # as above
            ),
        ),
    )


def _train_worker(config: dict[str, Any]) -> None:
    import ray.train
    import ray.train.torch

    prefer_onednn()
    reuse_freed_blocks()
    device = str(ray.train.torch.get_device())
    worker = ray.train.get_context()
    with told_plainly():
        config["required"].require_here()
        train_heads(config["job"], device=device, rank=worker.get_world_rank(), local_rank=worker.get_local_rank())


class _LiveView:
    """Shows and logs the epochs that the workers report in the stage folder while they train."""

    def __init__(self, job: TrainingJob, log_epoch: LogEpoch) -> None:
        self._job = job
        self._log_epoch = log_epoch
        self._warned = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="dxmc-live-view")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        progress: Progress | None = None
        shown = 0
        stopping = False
        while not stopping:
            stopping = self._stop.wait(_POLL_S)
            try:
                epochs = live_metrics(self._job)
            except storage_errors():  # nothing to show, and training has its own way of telling
                continue
            if not epochs or len(epochs) <= shown:
                continue
            if progress is None:
                progress = Progress("training", epochs[-1]["num_epochs"], unit="epochs").__enter__()
            last = epochs[-1]
            progress.add(len(epochs) - shown, **_facts(last))
            for epoch in epochs[shown:]:
                self._log_epoch(epoch)
                self._warn(epoch)
            shown = len(epochs)
        if progress is not None:
            progress.__exit__()

    def _warn(self, epoch: dict[str, Any]) -> None:
        """Once when it turns bad, and once more if that is how training ends."""
        # Clusters fill up in the first epochs; what is empty after a quarter of them tends to stay so.
        if epoch["warning"] is None or epoch["epoch"] <= epoch["num_epochs"] // 4:
            return
        if not self._warned or epoch["epoch"] == epoch["num_epochs"]:
            logger.warning("%s epoch %d: %s", NAME, epoch["epoch"], epoch["warning"])
        self._warned = True


def _facts(epoch: dict[str, Any]) -> dict[str, Any]:
    """What the progress line says of an epoch; the rest is in metrics.jsonl."""
    facts = {name: f"{value:.3f}" for name, value in epoch["terms"].items() if name != "total"}
    facts |= {"balance": f"{epoch['balance']:.3f}", "empty": epoch["cluster_sizes"].count(0)}
    if epoch["num_changed"] is not None:
        facts["changed"] = epoch["num_changed"]
    return {"loss": f"{epoch['terms']['total']:.3f}", **facts}


if __name__ == "__main__":
    main_of(NAME)
