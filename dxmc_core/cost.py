"""What a run needs: work, time, memory and disk of each stage, by the cost model of docs/SCALING.md.

Floating-point operations follow from the sizes; the rates at which they are done are those of `Machine`.
"""

from dataclasses import asdict, dataclass
from typing import Any

from dxmc_core.method.best_start import num_rows_looked_at, start_bytes, start_work
from dxmc_core.method.inverted_file import num_cells
from dxmc_core.method.kmeans import kmeans_bytes, kmeans_work
from dxmc_core.method.noun_selection import kmeans_effort, num_image_centers
from dxmc_core.method.work import Work
from dxmc_core.stages.mine_neighbors import MAX_EXACT_ROWS

GIB = 2**30

#: Multiply-adds of an image in an encoder: ViT-B/32 at 224 pixels, as an example of open_clip's, and the offline one.
ENCODER_FLOPS = {"open_clip": 8.8e9, "offline": 0.8e9}

#: Of an image in the other tables of a run: ids, addresses, assignments.
_OTHER_BYTES_PER_IMAGE = 300
#: A process with its libraries.
_PROCESS_BYTES = 0.7 * GIB
_ENCODER_BYTES = 1.0 * GIB
_NOUNS_PER_CENTER = 5
#: Cells that a row looks through; `mine_neighbors` finds out how many it takes.
_TYPICAL_PROBES = 12
_SLICE_ROWS = 262_144
_INSTANCE_WIDTH = 1024


@dataclass(frozen=True)
class Machine:
    """What a run would have: a node of this kind, one or several.

    Attributes:
        memory_bytes, disk_bytes, temporary_bytes: of a node: memory, free disk at the run directory (None where that is
            in object storage) and for temporary files.
        cpu_flops: a core's: half of what ViT-B/32 was measured to reach by MKL, as these stages move more memory.
        cpu_bytes_per_s: at which a node's cores read numbers from memory together, where arithmetic takes no time.
        gpu_flops, gpu_bytes_per_s: a GPU's, assumed: none was at hand.
        gpu_dollars_per_hour: of a node's GPU, as assumed.
    """

    cores: int
    memory_bytes: float
    disk_bytes: float | None
    temporary_bytes: float
    gpus: int = 0
    nodes: int = 1
    cpu_flops: float = 40e9
    cpu_bytes_per_s: float = 8e9
    gpu_flops: float = 20e12
    gpu_bytes_per_s: float = 1e12
    gpu_dollars_per_hour: float = 1.0

    @property
    def task_flops(self) -> float:
        """Of one task: a node's cores, or one GPU."""
        return self.gpu_flops if self.gpus else self.cores * self.cpu_flops

    @property
    def flops(self) -> float:
        """Of all nodes."""
        return self.task_flops * self.nodes * max(self.gpus, 1)

    def task_seconds(self, work: Work) -> float:
        """What one task takes for it."""
        bytes_per_s = self.gpu_bytes_per_s if self.gpus else self.cpu_bytes_per_s
        return work.flops / self.task_flops + work.moved_bytes / bytes_per_s


@dataclass(frozen=True)
class Workload:
    """The sizes that decide the cost.

    Attributes:
        reads: the matrices beyond the image embeddings that the method trains on, as of `hyperparameters.method_reads`.
        num_epochs: of gradient steps; none for methods without.
        num_restarts, num_iterations: of the methods that are a k-means.
    """

    num_images: int
    width: int
    num_clusters: int
    num_nouns: int
    encoder: str | None
    num_neighbors: int = 50
    max_centers: int = 20_000
    top_nouns: int | None = None
    method: str = "best"
    reads: tuple[str, ...] = ("text_counterparts", "selected_nouns")
    num_epochs: int = 0
    num_restarts: int = 1
    num_iterations: int = 0
    index: str = "auto"


@dataclass(frozen=True)
class StageCost:
    """One stage of a run.

    Attributes:
        flops: floating-point operations in all.
        seconds: at the machine's rate.
        memory_bytes: the most that a node holds.
        disk_bytes: what the stage adds to the run directory.
        temporary_bytes: local files of a node while the stage runs.
        note: how the stage would go about it.
    """

    stage: str
    flops: float
    seconds: float
    memory_bytes: float
    disk_bytes: float
    temporary_bytes: float
    note: str


def estimate(load: Workload, machine: Machine) -> list[StageCost]:
    """The stages in their order."""
    return [
        stage
        for stage in (
            _embed(load, machine),
            _semantic_space(load, machine),
            _neighbors(load, machine),
            _training(load, machine),
        )
        if stage is not None
    ]


def warnings_of(costs: list[StageCost], machine: Machine) -> list[str]:
    """What would not fit, one sentence each."""
    found = []
    for cost in costs:
        if cost.memory_bytes > machine.memory_bytes:
            found.append(
                f"{cost.stage} needs about {cost.memory_bytes / GIB:.1f} GiB of memory on a node, which has "
                f"{machine.memory_bytes / GIB:.1f}"
            )
        if cost.temporary_bytes > machine.temporary_bytes:
            found.append(
                f"{cost.stage} writes about {cost.temporary_bytes / GIB:.1f} GiB of temporary files, TMPDIR has "
                f"{machine.temporary_bytes / GIB:.1f} free"
            )
    written = sum(cost.disk_bytes for cost in costs)
    if machine.disk_bytes is not None and written > machine.disk_bytes:
        found.append(
            f"the run directory takes about {written / GIB:.1f} GiB, its disk has {machine.disk_bytes / GIB:.1f} free"
        )
    return found


def as_document(load: Workload, machine: Machine) -> dict[str, Any]:
    """The estimate as JSON types."""
    costs = estimate(load, machine)
    seconds = sum(cost.seconds for cost in costs)
    gpu_hours = seconds / 3600 * machine.gpus * machine.nodes
    return {
        "workload": asdict(load),
        "machine": asdict(machine),
        "stages": [asdict(cost) for cost in costs],
        "seconds": seconds,
        "disk_bytes": sum(cost.disk_bytes for cost in costs),
        "memory_bytes": max(cost.memory_bytes for cost in costs),
        "gpu_hours": gpu_hours,
        "dollars": gpu_hours * machine.gpu_dollars_per_hour,
        "warnings": warnings_of(costs, machine),
    }


def _embed(load: Workload, machine: Machine) -> StageCost:
    flops = load.num_images * ENCODER_FLOPS[load.encoder] if load.encoder else 0.0
    workers = machine.gpus or machine.cores
    imported = load.num_images * load.width * 10  # the file, its table, and float32 of it beside each other
    return StageCost(
        "embed_images",
        flops,
        flops / machine.flops,
        workers * _ENCODER_BYTES if load.encoder else _PROCESS_BYTES + imported,
        load.num_images * (load.width * 2 + _OTHER_BYTES_PER_IMAGE),
        0,
        "one pass, bound by the encoder" if load.encoder else "embeddings are imported from their file",
    )


def _semantic_space(load: Workload, machine: Machine) -> StageCost:
    num_images, width = load.num_images, load.width
    centers = _num_centers(load)
    restarts, points_per_center, most_iterations = kmeans_effort(centers, num_images=num_images)
    sample = min(num_images, centers * points_per_center)
    selected = _num_selected(load)
    products = 1 if load.top_nouns else 2
    in_one_task = Work(2.0 * width * centers * load.num_nouns) + kmeans_work(
        num_images,
        width,
        centers,
        num_restarts=restarts,
        num_iterations=most_iterations,
        max_points_per_center=points_per_center,
    )
    mapped = 2.0 * width * selected * num_images * products
    workers = machine.gpus or (machine.cores if num_images >= 200_000 else 1)
    training = sample * width * 4 * 1.5 + 2 * centers * width * 4
    mapping = workers * (_PROCESS_BYTES + selected * (width * 6 + 3 * 1024 * 4))
    return StageCost(
        "build_semantic_space",
        in_one_task.flops + mapped,
        machine.task_seconds(in_one_task) + mapped / machine.flops,
        _PROCESS_BYTES + load.num_nouns * width * 6 + max(training + _PROCESS_BYTES, mapping),
        num_images * width * 2 + load.num_nouns * width * 2,
        0,
        f"{centers:,} centers from {sample:,} images, {restarts} restarts; {selected:,} nouns",
    )


def _num_centers(load: Workload) -> int:
    return num_image_centers(load.num_images, min(load.num_clusters, load.num_images), max_centers=load.max_centers)


def _num_selected(load: Workload) -> int:
    return min(_NOUNS_PER_CENTER * _num_centers(load), load.num_nouns)


def _neighbors(load: Workload, machine: Machine) -> StageCost:
    num_images, width = load.num_images, load.width
    limit = MAX_EXACT_ROWS["cuda" if machine.gpus else "cpu"]
    is_exact = load.index == "exact" or (load.index == "auto" and num_images <= limit)
    if is_exact:
        in_one_task, flops = 0.0, 2 * 2.0 * width * num_images**2
        memory = 2.0 * num_images * width * (2 + 4 + 1)
        temporary, note = 0.0, "exact search"
    else:
        cells = num_cells(num_images)
        trained = min(num_images, 32 * cells)
        searched = num_images / cells * min(_TYPICAL_PROBES, cells)
        in_one_task = 2 * 2.0 * width * cells * (10 * trained + num_images)
        flops = 2 * 2.0 * width * num_images * searched
        memory = trained * width * 4 * 1.5 + cells * width * 8 + num_images * 60
        memory += min(num_images, _SLICE_ROWS) * load.num_neighbors * 40 + 65_536 * width * 4 * 2
        temporary = 2.0 * num_images * width * 2
        note = f"inverted file of {cells:,} cells, about {_TYPICAL_PROBES} of them a query"
    return StageCost(
        "mine_neighbors",
        in_one_task + flops,
        in_one_task / machine.task_flops + flops / machine.flops,
        2 * _PROCESS_BYTES + memory,
        num_images * load.num_neighbors * 2 * 4,
        temporary,
        note,
    )


def _training(load: Workload, machine: Machine) -> StageCost:
    counts = {"best": _best_start, "kmeans": _centroids, "concat_kmeans": _centroids}
    fitted, memory, notes = counts[load.method](load) if load.method in counts else (Work(), 0.0, [])
    flops = _epochs(load)
    if load.num_epochs:
        notes.append(f"{load.num_epochs} epochs of {_num_modalities(load)} cluster heads")
    elif load.method == "best":
        notes.append("no epochs")
    files = _training_files(load)
    return StageCost(
        "train_heads",
        fitted.flops + flops,
        machine.task_seconds(fitted) + flops / machine.flops,
        2 * _PROCESS_BYTES + memory,
        0,
        files,
        "; ".join([*notes, f"reads {files / GIB:.1f} GiB, from memory where they fit"]),
    )


def _best_start(load: Workload) -> tuple[Work, float, list[str]]:
    """What `best` works out before any epoch, in one task: the work, the memory it holds, and what to say of it."""
    sizes = load.num_images, load.width, load.num_clusters
    has_text = "text_counterparts" in load.reads
    work = start_work(
        *sizes, num_nouns=_num_selected(load) if has_text else 0, has_neighbors="image_neighbors" in load.reads
    )
    looked_at = num_rows_looked_at(load.num_images, load.num_clusters)
    which = "all images" if looked_at == load.num_images else f"a sample of {looked_at:,} images"
    return work, start_bytes(*sizes, has_text=has_text), [f"looks at {which}"]


def _centroids(load: Workload) -> tuple[Work, float, list[str]]:
    """k-means of all rows, in one task; with text, rows of twice the width that are put together from unit rows."""
    has_text = "text_counterparts" in load.reads
    width = load.width * (2 if has_text else 1)
    work = kmeans_work(
        load.num_images,
        width,
        load.num_clusters,
        num_restarts=load.num_restarts,
        num_iterations=load.num_iterations,
        max_points_per_center=None,
    )
    rows = 4.0 * load.num_images * width if has_text else 0.0
    training = kmeans_bytes(load.num_images, width, load.num_clusters, max_points_per_center=None)
    return work, rows + training, [f"k-means of all rows, {load.num_restarts} restarts"]


def _epochs(load: Workload) -> float:
    """Operations of the epochs: an anchor and a neighbour for each modality's head, forward and backward."""
    parameters = _num_modalities(load) * (load.width * load.width + load.width * load.num_clusters)
    return 6.0 * parameters * 2 * load.num_images * load.num_epochs


def _num_modalities(load: Workload) -> int:
    """Heads that are trained: the text has one, too, but with `best`, where it ends in the start."""
    return 2 if "text_counterparts" in load.reads and load.method != "best" else 1


def _training_files(load: Workload) -> float:
    """Bytes of the matrices that are mapped: embeddings and counterparts in float16, neighbours in int32."""
    matrices = 1 + ("text_counterparts" in load.reads)
    neighbors = ("image_neighbors" in load.reads) + ("text_neighbors" in load.reads)
    return load.num_images * (2.0 * load.width * matrices + 4.0 * load.num_neighbors * neighbors)
