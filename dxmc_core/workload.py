"""What the stages count their cost in, for `dxmc preflight`: the sizes of a run, a machine and its rates, and parts.

Every stage has a function `cost` beside the constants that its cost rests on; preflight/cost.py puts them together.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from dxmc_core.method.hyperparameters import AtOnceSettings, BestHyperparameters, Hyperparameters
from dxmc_core.method.nouns.noun_selection import num_image_centers
from dxmc_core.method.work import Work

GIB = 2**30

#: Below so many images a light pass over them is one task: it is done with them before a pool of workers has started.
SMALL_NUM_IMAGES = 200_000

#: A process with its libraries.
PROCESS_BYTES = 0.5 * GIB
#: The command itself, and the processes that Ray starts on a machine for its own use.
RAY_BYTES = 0.7 * GIB
#: What Ray Data starts beside a pool of workers, and how long a pool takes to start, in processes.
POOL_BYTES = 0.5 * GIB
POOL_STARTS = 1.5


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second. The defaults are assumptions; `machine_rates.py` measures this machine.

    Attributes:
        core_flops: float32 operations of a core while all cores multiply matrices.
        share_reached: of these rates by what stages do; by processor time it was 0.52 to 0.86 of them.
        int8_speedup: how many times faster products of 8 bits are.
        core_bytes_per_s: what a core reads and writes while all cores do, where arithmetic takes no time.
        decode_s: what a core takes to decode and resize one image.
        fetch_s: between two images that arrive in a process, which asks for 16 at a time.
        listed_per_s: images that listing the source finds.
        disk_bytes_per_s: at which artifacts are written.
        process_s: until a Python process has imported the libraries that stages use.
        measured: the names of those that are no assumptions.
    """

    core_flops: float = 60e9
    share_reached: float = 0.67
    int8_speedup: float = 1.0
    core_bytes_per_s: float = 4e9
    decode_s: float = 0.01
    fetch_s: float = 0.005
    listed_per_s: float = 10_000.0
    disk_bytes_per_s: float = 200e6
    process_s: float = 6.0
    measured: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """What a run would have: a node of this kind, one or several.

    Attributes:
        memory_bytes, disk_bytes, temporary_bytes: of a node: memory, free disk at the run directory (None where that is
            in object storage) and for temporary files.
        gpu_flops, gpu_bytes_per_s: a GPU's, assumed: none was at hand.
        gpu_dollars_per_hour: of a node's GPU, as assumed.
    """

    cores: int
    memory_bytes: float
    disk_bytes: float | None
    temporary_bytes: float
    gpus: int = 0
    nodes: int = 1
    rates: Rates = field(default_factory=Rates)
    gpu_flops: float = 20e12
    gpu_bytes_per_s: float = 1e12
    gpu_dollars_per_hour: float = 1.0

    @property
    def num_workers(self) -> int:
        """Processes that map rows on all nodes: one for each GPU, or for each core."""
        return self.nodes * (self.gpus or self.cores)

    def in_one_task(self, name: str, work: Work) -> "CostPart":
        """What one task does with all cores of a node, or with one GPU."""
        return self._part(name, work, cores=self.cores, gpus=min(self.gpus, 1))

    def on_all(self, name: str, work: Work) -> "CostPart":
        """What the workers of all nodes share."""
        return self._part(name, work, cores=self.cores * self.nodes, gpus=self.gpus * self.nodes)

    def on_cpus(self, name: str, work: Work, *, num_cores: int | None = None) -> "CostPart":
        """What is done without GPUs, by default with all cores of one node."""
        return self._part(name, work, cores=num_cores or self.cores, gpus=0)

    def _part(self, name: str, work: Work, *, cores: int, gpus: int) -> "CostPart":
        rates = self.rates
        flops = gpus * self.gpu_flops if gpus else cores * rates.core_flops * rates.share_reached
        bytes_per_s = gpus * self.gpu_bytes_per_s if gpus else cores * rates.core_bytes_per_s * rates.share_reached
        return CostPart(name, work.flops / flops + work.moved_bytes / bytes_per_s, work.flops)

    def starting(self, num_processes: float = 1) -> "CostPart":
        """Processes that start one after the other, each with the libraries of the stages."""
        return CostPart("starting processes", num_processes * self.rates.process_s)

    def writing(self, num_bytes: float) -> "CostPart":
        """Artifacts that are written by all nodes."""
        return CostPart("writing", num_bytes / (self.nodes * self.rates.disk_bytes_per_s))


@dataclass(frozen=True)
class EncoderWork:
    """The work of an encoder.

    Attributes:
        image: for one image, resized already.
        noun: for one noun with all its prompts.
        loading: until a process has the encoder, libraries left out.
        num_bytes: of its weights.
    """

    image: Work = field(default_factory=Work)
    noun: Work = field(default_factory=Work)
    loading: Work = field(default_factory=Work)
    num_bytes: float = 0.0

    @classmethod
    def of_all(cls, encoders: Iterable["EncoderWork"]) -> "EncoderWork":
        """Of encoders that all see every image and of which the first one reads the nouns."""
        first, *further = encoders
        return cls(
            image=sum((other.image for other in further), start=first.image),
            noun=first.noun,
            loading=sum((other.loading for other in further), start=first.loading),
            num_bytes=first.num_bytes + sum(other.num_bytes for other in further),
        )


@dataclass(frozen=True)
class Workload:
    """The sizes that decide the cost.

    Attributes:
        encoder: its name, or None where embeddings come from a file.
        encoder_work: of the encoder of images and nouns; nothing where both come from files. Of several, all together
            for an image, and the first for a noun.
        further_widths: columns of the embeddings by encoders beside the first.
        nouns_to_encode: none where they are embedded already.
        chooses_k: num_clusters is auto, and suggest_k runs on at most `k_max_images` for K up to `k_max_clusters`.
        method, settings: its name, and its settings for data of this shape.
        images_per_cluster: listed for each cluster and shown in the report, where there are image files.
    """

    num_images: int
    width: int
    num_clusters: int
    num_nouns: int
    encoder: str | None
    encoder_work: EncoderWork = field(default_factory=EncoderWork)
    further_widths: tuple[int, ...] = ()
    nouns_to_encode: int = 0
    chooses_k: bool = False
    k_max_images: int = 10_000
    k_max_clusters: int | None = None
    num_neighbors: int = 50
    max_centers: int = 20_000
    nouns_per_center: int = 5
    top_nouns: int | None = None
    method: str = "best"
    settings: Hyperparameters | AtOnceSettings = field(default_factory=BestHyperparameters)
    index: str = "auto"
    search_index: str = "auto"
    max_described_images: int = 500_000
    images_per_cluster: int = 32
    max_map_points: int = 3000
    max_member_images: int = 10_000
    report_bytes: int = 20_000_000

    @property
    def reads(self) -> tuple[str, ...]:
        """The matrices beyond the image embeddings that the method trains on."""
        return self.settings.reads

    @property
    def num_centers(self) -> int:
        """Image centres of the semantic space."""
        num_clusters = min(self.num_clusters, self.num_images)
        return num_image_centers(self.num_images, num_clusters, max_centers=self.max_centers)

    @property
    def num_searched(self) -> int:
        """Modalities whose rows get neighbours: images, and text counterparts where the method trains on theirs."""
        return 2 if "text_neighbors" in self.reads else 1

    @property
    def num_selected_nouns(self) -> int:
        """Nouns that the image centres choose, at most."""
        return min(self.nouns_per_center * self.num_centers, self.num_nouns)


@dataclass(frozen=True)
class CostPart:
    """What a stage spends time on.

    Attributes:
        flops: operations of products of matrices, each multiply and add counted as two.
    """

    name: str
    seconds: float
    flops: float = 0.0


@dataclass(frozen=True)
class StageCost:
    """One stage of a run.

    Attributes:
        parts: one after the other.
        memory_bytes: the most that a node holds.
        disk_bytes: what the stage adds to the run directory.
        temporary_bytes: local files of a node while the stage runs.
        note: how the stage would go about it.
    """

    stage: str
    parts: tuple[CostPart, ...]
    memory_bytes: float
    disk_bytes: float = 0.0
    temporary_bytes: float = 0.0
    note: str = ""

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.parts)

    @property
    def flops(self) -> float:
        return sum(part.flops for part in self.parts)

    @property
    def mostly(self) -> CostPart:
        """The part that takes longest."""
        return max(self.parts, key=lambda part: part.seconds)

    def as_document(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "seconds": self.seconds, "flops": self.flops, "mostly": self.mostly.name}
