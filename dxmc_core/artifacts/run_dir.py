"""The run directory: one folder a stage. A run begins in a new or empty one; `run.json` says what it is about."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dxmc_core.artifacts.lease import LOCK_NAME, Lease, LockHolder, Note, is_lock, lock_holder
from dxmc_core.artifacts.manifest import Manifest, read_manifest, require_manifest
from dxmc_core.artifacts.ownership import TEMPORARY_NAME, listed, read_ownership
from dxmc_core.artifacts.storage import Storage, normalize_uri, storage_errors, write_error
from dxmc_core.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from dxmc_core.artifacts.stage_dir import StageDir
    from dxmc_core.artifacts.tables import Table

#: The stages in the order they run; the names of config sections, jobs, modules, folders and tests.
STAGES = (
    "embed_images",
    "build_semantic_space",
    "mine_neighbors",
    "train_heads",
    "assign_clusters",
    "write_report",
)

#: Left out where there is no vocabulary.
SEMANTIC_SPACE = "build_semantic_space"

#: Runs after embed_images when the configuration leaves the number of clusters to it.
CHOICE_OF_K = "suggest_k"

#: What a run directory is about: its source, its encoder, and the configuration of the run that used it last.
RUN_NAME = "run.json"

#: What people have corrected, beside the run or its generations, and the folder of its earlier versions; see
#: edits/file.py. No run removes them.
EDITS_NAMES = ("edits.yaml", "edits.parquet")
EDITS_FOLDER = "edits"

_TENSORBOARD_NAME = re.compile(r"^tensorboard/(?P<fingerprint>[0-9a-f]{12})/events\.out\.tfevents\.[^/]+$")
_MAX_NAMES = 1000


def folder_of(stage: str) -> str:
    """The name of a stage's folder: that of the report is what people look for."""
    return "report" if stage == "write_report" else stage


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

    @property
    def folders(self) -> list[str]:
        """URIs of the folders that a run writes into."""
        return [*(self.folder(name).uri for name in (*STAGES, CHOICE_OF_K)), f"{self.uri}/tensorboard"]

    def folder(self, stage: str) -> Storage:
        """Where the artifacts of a stage lie."""
        return self.storage.child(folder_of(stage))

    def manifest(self, stage: str) -> Manifest | None:
        """What a stage says of its artifacts; see `read_manifest`."""
        return read_manifest(self.folder(stage), stage)

    def require_manifest(self, stage: str) -> Manifest:
        """The same of a stage that has to be done by now."""
        return require_manifest(self.folder(stage), stage)

    def stage(self, name: str) -> "StageDir":
        """The artifacts of a stage themselves."""
        from dxmc_core.artifacts.stage_dir import StageDir  # late: it brings pyarrow

        return StageDir(self.folder(name), name)

    def read_table(self, table: "Table", columns: Sequence[str] | None = None) -> "pa.Table":
        """A whole published table, in row order; see `StageDir.read_table`."""
        return self.stage(table.stage).read_table(table, columns)

    def record(self) -> dict[str, Any] | None:
        """What `run.json` says; None where there is none.

        Raises:
            InputError: it is damaged, or not of dxmc.
        """
        try:
            found = json.loads(self.storage.read_bytes(RUN_NAME))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, IsADirectoryError):
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
            raise InputError(f"{self.uri}/{RUN_NAME} is damaged, or another program wrote it; choose another --run-dir")
        return found

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write `run.json`."""
        self.storage.write_bytes(RUN_NAME, json.dumps(record, indent=1).encode())

    def is_own(self) -> bool:
        """Whether a run has begun here.

        Raises:
            InputError: `run.json` is damaged or not of dxmc, or the place cannot be looked at.
        """
        try:
            self.storage.names(1)  # S3 says why it refuses this, but not why it refuses to say what a file is like
            return self.record() is not None
        except storage_errors() as error:
            raise write_error(self.uri, error) from error

    def require_empty(self) -> None:
        """Check that there is nothing yet, but for edits and for what a run leaves that was killed at once.

        Raises:
            InputError: there are files of somebody else, or the place cannot be looked at.
        """
        try:
            foreign = [name for name in self.storage.names(_MAX_NAMES) if not self._is_of_a_beginning(name)]
        except storage_errors() as error:
            raise write_error(self.uri, error) from error
        if foreign:
            raise InputError(
                f"{self.uri} is not empty and no run of dxmc: it has no {RUN_NAME}, but {listed(foreign)}. A run "
                f"writes into a folder of its own only; choose another --run-dir, such as {self.uri}/dxmc"
            )

    def _is_of_a_beginning(self, name: str) -> bool:
        """Whether a file is of edits, or what a run leaves that was killed before it wrote `run.json`."""
        temporary = TEMPORARY_NAME.match(name)
        if temporary:
            return temporary["file"] in (LOCK_NAME, RUN_NAME, *EDITS_NAMES)
        if name in (*EDITS_NAMES, EDITS_FOLDER):  # a person may know something before the first run
            return True
        return name == LOCK_NAME and is_lock(self.storage.read_bytes(name))

    def delete(self) -> list[str]:
        """Delete all that dxmc has written here; the names of what others have, which stays."""
        self.storage.delete_files(self._training_logs())
        folders = self.storage.list_folders()
        for stage in map(self.stage, (*STAGES, CHOICE_OF_K)):
            if stage.storage.uri.rsplit("/", 1)[1] in folders:
                stage.delete()
        # Last of all: by it a directory that is half deleted is known.
        self.storage.delete_files([RUN_NAME] if self.record() is not None else [])
        self.storage.delete_empty_folder()
        return sorted(self.storage.list_files())

    def _training_logs(self) -> list[str]:
        """Names of what training has logged for TensorBoard; see training_log.py."""
        try:
            fingerprints = read_ownership(self.folder("train_heads"), "train_heads").fingerprints
        except InputError:
            return []
        matches = map(_TENSORBOARD_NAME.match, self.storage.list_files("tensorboard"))
        return [match.string for match in matches if match and match["fingerprint"] in fingerprints]

    def locked(self, note: Note = dict) -> AbstractContextManager[None]:
        """Hold the run directory against other writers for a block; see `Lease`, also for `note`."""
        return Lease(self.storage, note).held()

    def holder(self) -> LockHolder | None:
        """Who works in it; see `lock_holder`."""
        return lock_holder(self.storage)
