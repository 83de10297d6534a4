"""The run directory: one folder a stage."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

from dxmc_core.artifacts.lease import Lease
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.storage import Storage, normalize_uri

#: The stages in the order they run; the names of config sections, jobs, modules, folders and tests.
STAGES = (
    "embed_images",
    "build_semantic_space",
    "mine_neighbors",
    "train_heads",
    "assign_clusters",
    "write_report",
)

#: Runs after embed_images when the configuration leaves the number of clusters to it.
CHOICE_OF_K = "suggest_k"

#: What a run directory is about: its source, its encoder, and the configuration of the run that used it last.
RUN_NAME = "run.json"


@dataclass(frozen=True)
class RunDir:
    """Where a run's artifacts lie, on local disk or in object storage."""

    uri: str

    @classmethod
    def at(cls, uri: str) -> "RunDir":
        return cls(normalize_uri(uri))

    @property
    def storage(self) -> Storage:
        return Storage(self.uri)

    def stage(self, name: str) -> StageDir:
        folder = "report" if name == "write_report" else name
        return StageDir(self.storage.child(folder), name)

    def locked(self) -> AbstractContextManager[None]:
        """Hold the run directory against other writers for a block; see `Lease.held`."""
        return Lease(self.storage).held()
