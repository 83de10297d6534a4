"""What a run needs: work, time, memory and disk of each stage, by the cost model of docs/SCALING.md.

Floating-point operations follow from the sizes; the rates at which they are done are those of `Machine`.
"""

from dataclasses import asdict, dataclass
from typing import Any

from dxmc_core.method.inverted_file import num_cells
from dxmc_core.method.noun_selection import kmeans_effort, num_image_centers
from dxmc_core.stages.mine_neighbors import MAX_EXACT_ROWS

GIB = 2**30

#: Multiply-adds of an image in an encoder: ViT-B/32 at 224 pixels, as an example of open_clip's, and the offline one.
ENCODER_FLOPS = {"open_clip": 8.8e9, "offline": 0.8e9}

#: Of an image in the other tables of a run: ids, addresses, assignments.
_OTHER_BYTES_PER_IMAGE = 300
#: A process with its libraries.
_PROCESS_BYTES = 0.7 * GIB
_ENCODER_BYTES = 1.0 * GIB
#: Iterations of k-means: every restart begins with so many, and so many more bring a finalist to its end.
_TRIAL_ITERATIONS, _FINAL_ITERATIONS, _FINALISTS = 10, 15, 4
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
        gpu_flops: a GPU's, assumed: none was at hand.
        gpu_dollars_per_hour: of a node's GPU, as assumed.
    """

    cores: int
    memory_bytes: float
    disk_bytes: float | None
    temporary_bytes: float
    gpus: int = 0
    nodes: int = 1
    cpu_flops: float = 40e9
    gpu_flops: float = 20e12
    gpu_dollars_per_hour: float = 1.0

    @property
    def task_flops(self) -> float:
        """Of one task: a node's cores, or one GPU."""
        return self.gpu_flops if self.gpus else self.cores * self.cpu_flops

    @property
    def flops(self) -> float:
        """Of all nodes."""
        return self.task_flops * self.nodes * max(self.gpus, 1)


@dataclass(frozen=True)
class Workload:
    """The sizes that decide the cost. K only matters below 300 images a cluster."""

    num_images: int
    width: int
    num_clusters: int
    num_nouns: int
    encoder: str | None
    num_neighbors: int = 50
    max_centers: int = 20_000
    top_nouns: int | None = None
    num_epochs: int = 20
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
    centers = num_image_centers(num_images, min(load.num_clusters, num_images), max_centers=load.max_centers)
    restarts, points_per_center, most_iterations = kmeans_effort(centers, num_images=num_images)
    sample = min(num_images, centers * points_per_center)
    finalists = min(restarts, _FINALISTS)
    iterations = restarts * min(_TRIAL_ITERATIONS, most_iterations)
    iterations += finalists * min(_FINAL_ITERATIONS, max(most_iterations - _TRIAL_ITERATIONS, 0))
    selected = min(_NOUNS_PER_CENTER * centers, load.num_nouns)
    products = 1 if load.top_nouns else 2
    in_one_task = 2.0 * width * centers * (sample * iterations + num_images + load.num_nouns)
    mapped = 2.0 * width * selected * num_images * products
    workers = machine.gpus or (machine.cores if num_images >= 200_000 else 1)
    training = sample * width * 4 * 1.5 + 2 * centers * width * 4
    mapping = workers * (_PROCESS_BYTES + selected * (width * 6 + 3 * 1024 * 4))
    return StageCost(
        "build_semantic_space",
        in_one_task + mapped,
        in_one_task / machine.task_flops + mapped / machine.flops,
        _PROCESS_BYTES + load.num_nouns * width * 6 + max(training + _PROCESS_BYTES, mapping),
        num_images * width * 2 + load.num_nouns * width * 2,
        0,
        f"{centers:,} centers from {sample:,} images, {restarts} restarts; {selected:,} nouns",
    )


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
    num_images, width = load.num_images, load.width
    parameters = 2 * (width * width + width * load.num_clusters)
    # Two modalities' heads, an anchor and a neighbour each, forward and backward.
    flops = 6.0 * parameters * 2 * num_images * load.num_epochs
    files = num_images * (2.0 * width * 2 + 2 * load.num_neighbors * 4)
    return StageCost(
        "train_heads",
        flops,
        flops / machine.flops,
        2 * _PROCESS_BYTES,
        0,
        files,
        f"{load.num_epochs} epochs of two modalities' cluster heads; reads {files / GIB:.1f} GiB at random, from "
        "memory where they fit",
    )
