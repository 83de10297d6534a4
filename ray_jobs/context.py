"""What every job shares: the configuration, the run directory, and what is known of the run."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dxmc_core.artifacts.generations import CURRENT_NAME, RECORD_NAME, folders_of, open_run_dir
from dxmc_core.artifacts.manifest import MANIFEST_NAME, Manifest
from dxmc_core.artifacts.run_dir import CHOICE_OF_K, EDITS_FOLDER, SEMANTIC_SPACE, STAGES, RunDir
from dxmc_core.config import AUTO, PipelineConfig, read_run_config
from dxmc_core.edits.file import EditsFile, read_edits, write_edits
from dxmc_core.edits.model import Edit
from dxmc_core.edits.renames import read_renames, rename_edits
from dxmc_core.errors import ArtifactError, InputError
from dxmc_core.stages.settings.build_semantic_space import cache_uri
from dxmc_core.stages.settings.embed_images import source_identity
from dxmc_core.stages.settings.recluster import describing_settings

if TYPE_CHECKING:
    from dxmc_core.artifacts.stage_dir import StageDir
    from dxmc_core.images.catalog import Listing

logger = logging.getLogger(__name__)


@dataclass
class RunContext:
    """One run as the jobs see it. Manifests are read once: a published one never changes while the run is locked.

    Attributes:
        base: the run that embeddings of unchanged images and the heads to start from are taken from, if any.
        listing: what the source of images held when this command first asked.
        counts_distinct: look into the embeddings whether there are as many distinct ones as clusters are wanted.
    """

    config: PipelineConfig
    run_dir: RunDir
    base: RunDir | None = None
    listing: "Listing | None" = None
    counts_distinct: bool = True
    _manifests: dict[str, Manifest] = field(default_factory=dict)
    _num_clusters: dict[tuple[str, int], int] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """What a task is sent: without the listing, some 30 bytes for each image, which the driver alone asks for."""
        return {**self.__dict__, "listing": None}

    @classmethod
    def of(cls, config: PipelineConfig) -> "RunContext":
        return cls(config, RunDir.at(config.run_dir))

    @classmethod
    def open(cls, run_dir_uri: str) -> "RunContext":
        """A run that is there already, with the configuration it was last run with.

        Raises:
            InputError: there is none, or what it says of itself cannot be read.
        """
        run_dir = open_run_dir(run_dir_uri)
        return cls(read_run_config(run_dir), run_dir)

    def stage(self, name: str) -> "StageDir":
        return self.run_dir.stage(name)

    def manifest(self, name: str) -> Manifest | None:
        """The manifest of a finished stage. A damaged one counts as unfinished, with a warning."""
        if name not in self._manifests:
            try:
                manifest = self.run_dir.manifest(name)
            except ArtifactError as error:
                logger.warning("%s; rebuilding", error)
                return None
            if manifest is None:
                return None
            self._manifests[name] = manifest
        return self._manifests[name]

    def published(self, manifest: Manifest) -> None:
        self._manifests[manifest.stage] = manifest

    def inputs_of(self, *stages: str) -> dict[str, str] | None:
        """Fingerprints of finished input stages, or None while one of them is not done."""
        manifests = {name: self.manifest(name) for name in stages}
        if any(manifest is None for manifest in manifests.values()):
            return None
        return {name: manifest.fingerprint for name, manifest in manifests.items() if manifest is not None}

    @cached_property
    def renames(self) -> dict[int, str]:
        """Names that a person gives in the file `assign_clusters.renames`, by cluster id."""
        uri = self.config.assign_clusters.renames
        return read_renames(uri) if uri is not None else {}

    @cached_property
    def edits_file(self) -> EditsFile:
        """The edits that this run listens to, as it found them when it first asked."""
        return read_edits(self.run_dir)

    @cached_property
    def edits(self) -> tuple[Edit, ...]:
        """What people have corrected, those names first. Ids of clusters are those of the run before, or of this one
        where it is clustered again, by whose images they are known from now on."""
        edits = self.edits_file.edits
        before = self.base or (self.run_dir if self.manifest("assign_clusters") is not None else None)
        if before is not None and any(not ref.images for edit in edits for ref in edit.clusters):
            from dxmc_core.edits.references import fill_references  # late: it reads tables

            edits = fill_references(edits, before)
        return (*rename_edits(self.renames), *edits)

    @property
    def are_names_alone(self) -> bool:
        """Whether all edits are names for ids, which needs no look at any image."""
        return len(self.edits) == len(self.renames)

    def keep_edits(self, edits: Sequence[Edit]) -> None:
        """Write edits with what was filled in back into their file."""
        by_id = {edit.id: edit for edit in edits}
        filled = tuple(by_id.get(edit.id, edit) for edit in self.edits_file.edits)
        if filled == self.edits_file.edits:
            return
        try:
            self.edits_file = write_edits(self.edits_file, filled)
            self.__dict__.pop("edits", None)  # to be made of the new file
        except InputError as error:
            logger.warning("%s; what this run has filled in is not in it", error)

    @property
    def own_places(self) -> list[str]:
        """URIs of the folders that dxmc writes into: where they lie within the source, they are no part of it."""
        settings = self.config.build_semantic_space
        cache = [cache_uri(settings, self.run_dir.uri)] if settings.noun_cache_uri is None else []
        return [*folders_of(self.run_dir), *cache]

    @property
    def num_images(self) -> int:
        manifest = self.manifest("embed_images")
        return manifest.rows("images") if manifest else 0

    @property
    def choice_of_k(self) -> tuple[str, ...]:
        """The stage that K comes from when it is `auto`; none when it is given."""
        return (CHOICE_OF_K,) if self.config.num_clusters == AUTO else ()

    @property
    def text_stages(self) -> tuple[str, ...]:
        """The stage that the nouns are chosen by; none without a vocabulary."""
        return () if self.config.vocabulary is None else (SEMANTIC_SPACE,)

    @property
    def num_clusters(self) -> int:
        """K as it was given, or as suggest_k chose it; as many as there are distinct embeddings where they are fewer.

        Raises:
            InputError: it is `auto`, and suggest_k has not run.
        """
        wanted, embedded = self._wanted_num_clusters, self.manifest("embed_images")
        if embedded is None or embedded.rows("images") < wanted:  # which `check_num_clusters` refuses
            return wanted
        if not self.counts_distinct:
            return wanted
        key = (embedded.fingerprint, wanted)
        if key not in self._num_clusters:
            from dxmc_core.stages.distinct_clusters import distinct_num_clusters  # late: it reads embeddings

            try:
                self._num_clusters[key] = distinct_num_clusters(wanted, self.stage("embed_images"))
            except ArtifactError as error:  # the stage that needs the damaged part says so, and how to go on
                logger.warning("%s", error)
                return wanted
        return self._num_clusters[key]

    @property
    def _wanted_num_clusters(self) -> int:
        if isinstance(self.config.num_clusters, int):
            return self.config.num_clusters
        manifest = self.manifest(CHOICE_OF_K)
        if manifest is None:
            raise InputError(
                f"num_clusters is auto, and {self.run_dir.uri} has no {CHOICE_OF_K}; run dxmc suggest-k "
                f"{self.run_dir.uri} first"
            )
        return manifest.metrics["num_clusters"]

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of this run, in the order they run."""
        first, *others = (name for name in STAGES if name != SEMANTIC_SPACE or self.text_stages)
        return (first, *self.choice_of_k, *others)

    def check_place(self) -> None:
        """Check that the run directory is new, empty or this configuration's, before anything is written into it.

        One in which no image has been embedded or rejected yet is whoever's comes next: a mistyped source can be
        mended, and another encoder taken when the first one did not load.

        Raises:
            InputError: it holds files of somebody else or generations, or is a generation that is published; or it, or
                the run that this one takes over from, is over another source or with another encoder.
        """
        storage, is_own = self.run_dir.storage, self.run_dir.is_own()
        if storage.exists(CURRENT_NAME):
            raise InputError(
                f"{self.run_dir.uri} holds generations, which dxmc recluster adds to; choose another --run-dir"
            )
        if storage.exists(RECORD_NAME):
            raise InputError(
                f"{self.run_dir.uri} is a published generation and stays as it is; choose another --run-dir"
            )
        if not is_own:
            self.run_dir.require_empty()
        record, found = record_of(self.config), self.run_dir.record()
        if self.base is not None and (base := self.base.record()) is not None:
            _require_same(base, record, self.base.uri)
        if found is not None and self._holds_results():
            _require_same(found, record, self.run_dir.uri)

    def _holds_results(self) -> bool:
        """Whether a stage has made something of the images; the catalog alone, which is made first, is nothing yet."""
        first = self.run_dir.folder(STAGES[0])
        if set(self.run_dir.storage.list_folders()) - {STAGES[0], EDITS_FOLDER} or first.exists(MANIFEST_NAME):
            return True
        return any(first.child(table).names(1) for table in (*self.config.encoder_of_table, "rejects"))

    def claim(self) -> None:
        """Check the run directory, see `check_place`, and write down what it is about."""
        self.check_place()
        record = record_of(self.config)
        if self.run_dir.record() != record:
            self.run_dir.write_record(record)


def describing_of(context: RunContext) -> str:
    """A hash of what decides how the clusters of a run are shown, edits included."""
    return describing_settings(context.config.model_dump(mode="json"), [edit.essence for edit in context.edits])


def record_of(config: PipelineConfig) -> dict[str, Any]:
    """What `run.json` says of a run with this configuration."""
    identity = source_identity(config.source, config.encoder, config.further_encoders)
    return {**identity, "config": config.model_dump(mode="json")}


def _require_same(found: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    for part in ("source", "encoder"):
        if found.get(part) != wanted[part]:
            raise InputError(
                f"{where} holds a run with {_difference(part, found.get(part), wanted[part])}; "
                "choose another --run-dir, or delete this one"
            )


def _difference(part: str, found: dict | None, wanted: dict | None) -> str:
    found, wanted = found or {}, wanted or {}
    key = next((key for key in {**found, **wanted} if found.get(key) != wanted.get(key)), "kind")
    return f"{part}.{key} = {found.get(key)!r}, the configuration says {wanted.get(key)!r}"
