"""Stage 4: trains the heads of the chosen method, or fits its centroids, with checkpoints between epochs.

The same function runs in one process and in every worker of a Ray Train group; the global batch is the same for both.
"""

import io
import json
import logging
import re
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from dxmc_core.artifacts.best_start import START_NAME, deserialize_start, serialize_start
from dxmc_core.artifacts.heads import HEADS_NAME, load_heads, serialize_heads
from dxmc_core.artifacts.host_arrays import HostArrays
from dxmc_core.artifacts.joined_images import load_images
from dxmc_core.artifacts.matrices import Allocate, RowMatrix, load_matrix, noun_columns, width_of
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import IMAGES, NEAR_DUPLICATES, NOUNS, SELECTED_NOUNS
from dxmc_core.edits.constraints import constraints_of
from dxmc_core.edits.model import Edit
from dxmc_core.edits.references import named_images
from dxmc_core.errors import ArtifactError, DxmcError, InputError
from dxmc_core.method.best.best_start import NUM_LOOKS, BestStart
from dxmc_core.method.distributed import broadcast_number
from dxmc_core.method.fit import fit_heads, heads_of_copies
from dxmc_core.method.hyperparameters import Hyperparameters, method_reads, method_settings
from dxmc_core.method.neighbors.near_duplicates import one_of_each
from dxmc_core.method.objectives.best import find_start_of
from dxmc_core.method.steps import OnStep, no_report
from dxmc_core.method.training import EpochReport, TrainingState
from dxmc_core.method.training_data import KNOWN, MATRICES, TrainingData
from dxmc_core.method.work import DataShape, Work
from dxmc_core.stages.settings.train_heads import MethodConfig
from dxmc_core.vocabulary.wordnet import wordnet_taxonomy
from dxmc_core.workload import GIB, PROCESS_BYTES, RAY_BYTES, Machine, StageCost, Workload

METRICS_NAME = "metrics.jsonl"
_CHECKPOINT_NAME = re.compile(r"/epoch-\d{6}\.pt$")
_GPU_DATA_SHARE = 0.5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingJob:
    """Everything a worker needs to take part in training. Small and picklable.

    Attributes:
        image_tables: of the encoders whose embeddings are joined, the first one's first.
        warm_start: the finished stage of an earlier run, whose heads training starts from where the method can.
        edits: what people say of images, for `best`, which alone learns from it.
    """

    method: MethodConfig
    num_clusters: int
    seed: int
    images: StageDir
    semantic_space: StageDir
    neighbors: StageDir
    output: StageDir
    fingerprint: str
    checkpoint_every_s: float = 10.0
    count_near_duplicates_once: bool = False
    warm_start: StageDir | None = None
    image_tables: tuple[str, ...] = (IMAGES.name,)
    edits: tuple[Edit, ...] = ()

    @property
    def num_epochs(self) -> int:
        """Of gradient steps; 0 for methods without."""
        return method_settings(
            self.method.name, num_clusters=self.num_clusters, num_images=self.num_clusters, **self.method.settings
        ).epochs

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the matrices that the method trains on, beyond the image embeddings."""
        return method_reads(self.method.name, **self.method.settings)


def load_training_data(job: TrainingJob, host: HostArrays) -> TrainingData:
    """What the method reads, once per host; neighbours become positions."""
    arrays = host.share(("image_embeddings", *MATRICES, *KNOWN), partial(_read_matrices, job))
    is_one = len(job.image_tables) == 1
    widths = [] if is_one else [width_of(job.images, table) for table in job.image_tables]
    return TrainingData.from_arrays(**arrays, encoder_widths=widths)


def _read_matrices(job: TrainingJob, allocate: Allocate) -> dict[str, np.ndarray]:
    images = load_images(job.images, job.image_tables, allocate=allocate)
    arrays = {"image_embeddings": images.values}
    if "text_counterparts" in job.reads:
        arrays["text_counterparts"] = load_matrix(job.semantic_space, "text_counterparts", allocate=allocate).values
    for name in ("image_neighbors", "text_neighbors"):
        if name in job.reads:
            arrays[name] = load_matrix(
                job.neighbors,
                "neighbors",
                name,
                convert=lambda row_ids: images.positions_of(row_ids).astype(np.int32),
                allocate=allocate,
            ).values
    if "selected_nouns" in job.reads:
        arrays["selected_nouns"] = noun_columns(job.semantic_space.read_table(SELECTED_NOUNS))[2]
    if "noun_embeddings" in job.reads:
        arrays |= _nouns(job.semantic_space)
    if job.edits:
        arrays |= _known(job, images)
    return _one_of_each_group(job, images.row_ids, arrays) if job.count_near_duplicates_once else arrays


def _known(job: TrainingJob, images: RowMatrix) -> dict[str, np.ndarray]:
    """What people know of the images."""
    named = pa.array(named_images(job.edits), pa.string())
    row_ids: dict[str, int] = {}
    for part in job.images.iter_parts(IMAGES, ["row_id", "image_id"]):
        found = part.filter(pc.is_in(part["image_id"], named))
        row_ids.update(zip(found["image_id"].to_pylist(), found["row_id"].to_pylist(), strict=True))
    positions = images.positions_of(np.array(list(row_ids.values()), dtype=np.int64)).tolist()
    known = constraints_of(job.edits, dict(zip(row_ids, positions, strict=True)))
    if known is None:
        return {}
    logger.info(
        "train_heads: people know of %d images, in %d groups, which belong together or apart",
        len(known.rows), len(known.apart),
    )  # fmt: skip
    return dict(zip(KNOWN, known.as_pairs(), strict=True))


def _one_of_each_group(job: TrainingJob, row_ids: np.ndarray, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of the images that stand for their group of near duplicates, or have none."""
    table = job.neighbors.read_table(NEAR_DUPLICATES, ["row_id", "group_id"])
    members, first = (np.searchsorted(row_ids, table[name].to_numpy()) for name in ("row_id", "group_id"))
    groups = np.arange(len(row_ids))
    groups[members] = first
    kept = np.flatnonzero(groups == np.arange(len(row_ids)))
    if len(kept) < job.num_clusters:
        raise InputError(
            f"num_clusters is {job.num_clusters}, but only {len(kept)} images are no near duplicates of others; set "
            f"num_clusters to {len(kept)} or less, or train_heads.count_near_duplicates_once to false"
        )
    logger.info("train_heads: %d of %d images, one of each group of near duplicates", len(kept), len(groups))
    rows: dict[str, np.ndarray] = {
        name: arrays[name][kept] for name in ("image_embeddings", "text_counterparts") if name in arrays
    }
    neighbors = {
        name: one_of_each(groups, arrays[name]) for name in ("image_neighbors", "text_neighbors") if name in arrays
    }
    if "known_images" in arrays:
        # What is known of a copy is known of the image that stands for it.
        positions, of_groups = arrays["known_images"].T
        positions, first = np.unique(np.searchsorted(kept, groups[positions]), return_index=True)
        rows["known_images"] = np.stack([positions, of_groups[first]], axis=1)
    return arrays | rows | neighbors


def _nouns(semantic_space: StageDir) -> dict[str, np.ndarray]:
    """Embeddings (M, D) of the whole vocabulary, and pairs (E, 2) of a noun and its hypernym among them."""
    _, synset_ids, embeddings = noun_columns(semantic_space.read_table(NOUNS))
    hypernyms = wordnet_taxonomy().pairs(synset_ids) if any(synset_ids) else None
    return {"noun_embeddings": embeddings} | ({} if hypernyms is None else {"noun_hypernyms": hypernyms})


def find_best_start(job: TrainingJob, *, device: str = "cpu", on_step: OnStep = no_report) -> None:
    """Work out what `best` starts from and write it; goes on after the newest look of this fingerprint."""
    name = _start_name(job)
    start = read_start(job)
    if start is not None and start.is_done:
        return

    def keep(start: BestStart) -> None:
        logger.info(
            "train_heads: look %d of at most %d at %d images, for %d of which another one of their burst stands%s",
            start.num_looks, NUM_LOOKS, start.num_rows, start.num_copies, ", settled" if start.is_settled else "",
        )  # fmt: skip
        job.output.storage.write_bytes(name, serialize_start(start))

    with closing(HostArrays(rank=0, local_rank=0, device="cpu")) as host:
        data = load_training_data(job, host)
        if heads_of_copies(data, job.num_clusters) is not None:
            return
        find_start_of(
            data,
            num_clusters=job.num_clusters,
            seed=job.seed,
            device=device,
            resume_from=start,
            on_look=keep,
            on_step=on_step,
        )


def _start_name(job: TrainingJob) -> str:
    return f"{_checkpoint_folder(job)}/{START_NAME}"


def read_start(job: TrainingJob) -> BestStart | None:
    """The start of this fingerprint as far as it was worked out, or None."""
    name = _start_name(job)
    try:
        return deserialize_start(job.output.storage.read_bytes(name), where=f"{job.output.storage.uri}/{name}")
    except FileNotFoundError:
        return None
    except ArtifactError as error:
        logger.warning("train_heads: starting anew, as %s", error)
        return None


def train_heads(
    job: TrainingJob,
    *,
    device: str = "cpu",
    rank: int = 0,
    local_rank: int = 0,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> None:
    """Train and write `heads.safetensors` and `metrics.jsonl`; goes on from the newest checkpoint of this fingerprint.

    Args:
        rank, local_rank: this process's number among all that train together, and among those on its host.

    Raises:
        DxmcError: training failed in a way that a setting can mend, such as a loss that is no longer finite.
    """
    with closing(HostArrays(rank=rank, local_rank=local_rank, device=device)) as host:
        data = _placed(load_training_data(job, host), device)
        _train_on(data, job, device=device, rank=rank, on_epoch=on_epoch)


def _train_on(
    data: TrainingData,
    job: TrainingJob,
    *,
    device: str,
    rank: int,
    on_epoch: Callable[[EpochReport], None] | None,
) -> None:
    checkpoint = _common_checkpoint(job, device=device, rank=rank)
    history: list[dict] = checkpoint["history"] if checkpoint else []
    last_checkpoint = time.monotonic()
    if checkpoint and rank == 0:
        logger.info("train_heads: resuming after epoch %d", len(history))

    def on_epoch_end(report: EpochReport, make_state: Callable[[], TrainingState]) -> None:
        nonlocal last_checkpoint
        history.append(asdict(report))
        if rank == 0:
            job.output.storage.write_bytes(_live_metrics_name(job), _json_lines(history))
        if rank == 0 and time.monotonic() - last_checkpoint >= job.checkpoint_every_s:
            last_checkpoint = time.monotonic()
            save_checkpoint(job, {"history": history, "state": make_state()}, epoch=report.epoch)
        if on_epoch is not None:
            on_epoch(report)

    best_start = read_start(job) if rank == 0 else None
    try:
        fit = fit_heads(
            job.method.name,
            data,
            num_clusters=job.num_clusters,
            seed=job.seed,
            device=device,
            on_epoch_end=on_epoch_end,
            resume_state=checkpoint["state"] if checkpoint else None,
            warm_heads=load_heads(job.warm_start) if job.warm_start is not None else None,
            best_start=best_start,
            **job.method.settings,
        )
    except FloatingPointError as error:
        raise DxmcError(f"train_heads: {error}") from error
    if rank == 0:
        job.output.write_file(HEADS_NAME, serialize_heads(fit.heads))
        job.output.write_file(METRICS_NAME, _json_lines(history))


def live_metrics(job: TrainingJob) -> list[dict]:
    """The epochs reported so far by a training that is under way; see `EpochReport` for the keys."""
    try:
        data = job.output.storage.read_bytes(_live_metrics_name(job))
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in data.splitlines()]


def _live_metrics_name(job: TrainingJob) -> str:
    return f"{_checkpoint_folder(job)}/{METRICS_NAME}"


def _json_lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _placed(data: TrainingData, device: str) -> TrainingData:
    """The data on the GPU when they take less than half of its free memory, else where they are."""
    if not device.startswith("cuda"):
        return data
    free, _ = torch.cuda.mem_get_info(device)
    return data.to(device) if data.size_bytes < _GPU_DATA_SHARE * free else data


def _checkpoint_folder(job: TrainingJob) -> str:
    return f"checkpoints/{job.fingerprint[:12]}"


def _checkpoint_name(job: TrainingJob, epoch: int) -> str:
    return f"{_checkpoint_folder(job)}/epoch-{epoch:06d}.pt"


def save_checkpoint(job: TrainingJob, content: dict[str, Any], *, epoch: int) -> None:
    """Write the state after an epoch, then drop all but the two newest: one may be damaged, never both."""
    sink = io.BytesIO()
    torch.save(content, sink)
    storage = job.output.storage
    storage.write_bytes(_checkpoint_name(job, epoch), sink.getvalue())
    for name in _checkpoints(job)[:-2]:
        storage.delete(name)


def _checkpoints(job: TrainingJob) -> list[str]:
    """Names of the checkpoints that lie there, oldest first."""
    names = job.output.storage.list_files(_checkpoint_folder(job))
    return sorted(name for name in names if _CHECKPOINT_NAME.search(name))


def load_checkpoint(job: TrainingJob) -> dict[str, Any] | None:
    """The newest readable checkpoint of this fingerprint, or None."""
    for name in reversed(_checkpoints(job)):
        try:
            return _read_checkpoint(job, name)
        except (RuntimeError, EOFError, ValueError) as error:
            place = f"{job.output.storage.uri}/{name}"
            logger.warning("train_heads: skipping the damaged checkpoint %s (%s)", place, error)
    return None


def _common_checkpoint(job: TrainingJob, *, device: str, rank: int) -> dict[str, Any] | None:
    """The checkpoint that rank 0 found, on every rank: one that looked for itself might find another, or none."""
    checkpoint = load_checkpoint(job) if rank == 0 else None
    epoch = broadcast_number(len(checkpoint["history"]) if checkpoint else 0, device=device)
    return checkpoint if rank == 0 or epoch == 0 else _read_checkpoint(job, _checkpoint_name(job, epoch))


def _read_checkpoint(job: TrainingJob, name: str) -> dict[str, Any]:
    """Tensors and plain values only, no pickle."""
    return torch.load(io.BytesIO(job.output.storage.read_bytes(name)), weights_only=True, map_location="cpu")


def cost(load: Workload, machine: Machine) -> StageCost:
    """What the stage takes by the method at hand: what it works out in one task, and its epochs."""
    num_epochs, name = load.settings.epochs, load.method
    first = load.settings.first_cost(
        DataShape(load.num_images, load.width, load.num_clusters, load.further_widths, load.num_selected_nouns)
    )
    notes = [first.note] if first.note else []
    if isinstance(load.settings, Hyperparameters):
        notes.append(
            f"{num_epochs} epochs of {load.settings.num_modalities} cluster heads" if num_epochs else "no epochs"
        )
    files = _training_files(load)
    return StageCost(
        "train_heads",
        (
            # Without a group of workers it goes on in the process of the stage before, with a few more libraries.
            machine.starting(2 if num_epochs and machine.gpus else 0.3),
            machine.in_one_task(f"what {name} works out first" if num_epochs else name, first.work),
            machine.on_all("epochs", _epochs_work(load)),
            machine.writing(files),
        ),
        memory_bytes=RAY_BYTES + 2 * PROCESS_BYTES + first.memory_bytes,
        temporary_bytes=files,
        note="; ".join([*notes, f"reads {files / GIB:.1f} GiB, from memory where they fit"]),
    )


def _epochs_work(load: Workload) -> Work:
    """An anchor and a neighbour for each modality's head, forward and backward."""
    if not isinstance(load.settings, Hyperparameters):
        return Work()
    parameters = load.settings.num_modalities * (load.width * load.width + load.width * load.num_clusters)
    return Work(6.0 * parameters * 2 * load.num_images * load.settings.epochs)


def _training_files(load: Workload) -> float:
    """Bytes of the matrices that are mapped: embeddings and counterparts in float16, neighbours in int32."""
    matrices = 1 + ("text_counterparts" in load.reads)
    neighbors = ("image_neighbors" in load.reads) + ("text_neighbors" in load.reads)
    further = sum(load.further_widths) if load.settings.joins_encoders else 0
    return load.num_images * (2.0 * (load.width * matrices + further) + 4.0 * load.num_neighbors * neighbors)
