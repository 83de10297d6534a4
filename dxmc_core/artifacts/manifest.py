"""The manifest of a stage: what it made, from what, with which settings. It is written last, so it means "done"."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dxmc_core.artifacts.storage import Storage
from dxmc_core.errors import ArtifactError

#: Raised whenever a table or the manifest changes; an artifact of another version is rebuilt, never guessed at.
SCHEMA_VERSION = 4
MANIFEST_NAME = "_manifest.json"
#: The manifest of a catalog whose images are not all embedded yet; see images/catalog.py.
CATALOG_NAME = "_catalog.json"
#: In hex, of a checksum: 128 bits.
CHECKSUM_DIGITS = 32


class Part(BaseModel):
    """One immutable file of a stage: `name` is relative to the stage folder, `sha256` the first 128 bits in hex."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    rows: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """Everything a reader or a rerun needs to know of a finished stage.

    Attributes:
        fingerprint: of the settings and the inputs; a stage is skipped while it matches.
        inputs: fingerprints of the stages it read.
        tables: the parts of each table; readers read these and nothing else.
        files: single files (models, indexes).
        metrics: figures the stage measured (counts, recall, losses), JSON types only.
        seconds: wall time of the work that this manifest closes, resumed parts not included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    stage: str
    fingerprint: str
    inputs: dict[str, str]
    tables: dict[str, list[Part]]
    files: dict[str, Part]
    metrics: dict[str, Any]
    finished_at: str
    seconds: float
    dxmc_version: str

    @property
    def names(self) -> set[str]:
        """Names of all parts and files."""
        parts = [part for of_table in self.tables.values() for part in of_table]
        return {part.name for part in [*parts, *self.files.values()]}

    def rows(self, table: str) -> int:
        return sum(part.rows for part in self.tables.get(table, []))

    def to_json(self) -> bytes:
        """The file: the fields, and a checksum over them."""
        fields = json.loads(self.model_dump_json())
        return json.dumps({**fields, "checksum": _checksum_of_fields(fields)}, indent=1).encode()


def read_manifest(folder: Storage, stage: str) -> Manifest | None:
    """The manifest in the folder of a stage, or None while the stage is not done.

    Raises:
        ArtifactError: there is one that cannot be read.
    """
    try:
        data = folder.read_bytes(MANIFEST_NAME)
    except FileNotFoundError:
        return None
    return parse_manifest(data, where=f"{folder.uri}/{MANIFEST_NAME}", stage=stage)


def require_manifest(folder: Storage, stage: str) -> Manifest:
    """The manifest of a stage that has to be done by now."""
    manifest = read_manifest(folder, stage)
    if manifest is None:
        raise ArtifactError(f"{folder.uri} is not finished; run {stage} first: dxmc run --config FILE")
    return manifest


def parse_manifest(data: bytes, *, where: str, stage: str) -> Manifest:
    """Read a manifest, refusing what is damaged, of another schema version or of another stage.

    Raises:
        ArtifactError: with the file, what is wrong with it and which stage to rerun.
    """
    remedy = f"delete it to rebuild {stage}"
    try:
        found = json.loads(data)
        version = found.get("schema_version") if isinstance(found, dict) else None
        if version != SCHEMA_VERSION:
            raise ArtifactError(
                f"{where} has schema version {version!r}, this dxmc reads version {SCHEMA_VERSION}; {remedy}"
            )
        if found.pop("checksum", None) != _checksum_of_fields(found):
            raise ArtifactError(f"{where} is damaged: its checksum does not fit; {remedy}")
        manifest = Manifest.model_validate(found)
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise ArtifactError(f"{where} is not a readable manifest ({type(error).__name__}); {remedy}") from error
    if manifest.stage != stage:
        raise ArtifactError(f"{where} belongs to stage {manifest.stage!r}, expected {stage!r}; {remedy}")
    return manifest


def _checksum_of_fields(fields: Mapping[str, Any]) -> str:
    return checksum_of(json.dumps(fields, sort_keys=True).encode())


def fingerprint_of(stage: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """A stable hash of what a stage's result depends on: its settings (JSON types) and its inputs' fingerprints."""
    content = {"schema_version": SCHEMA_VERSION, "stage": stage, "settings": settings, "inputs": inputs}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def checksum_of(data: bytes) -> str:
    """The first 128 bits of the SHA-256 of a file's content, in hex."""
    return hashlib.sha256(data).hexdigest()[:CHECKSUM_DIGITS]
