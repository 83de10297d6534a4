"""Settings of assign_clusters, and what lies outside of the run that it depends on."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from dxmc_core.artifacts.generations import open_run_dir
from dxmc_core.artifacts.manifest import Manifest, fingerprint_of
from dxmc_core.errors import InputError, named, on_one_line
from dxmc_core.settings import Settings
from dxmc_core.stages.settings.naming import LlmNaming, NounNaming

#: The manifest's metric that holds `Identities.ids_given`.
IDS_GIVEN = "ids_given"


class AssignClustersConfig(Settings):
    """How clusters are described."""

    num_exemplars: int = Field(24, ge=1)
    """Images nearest to the centre that are listed for each cluster."""
    num_border: int = Field(8, ge=0)
    """Images with the smallest margin that are listed for each cluster."""
    max_described_images: int = Field(500_000, ge=1)
    """Names, centres and exemplars are worked out on a seeded sample of at most this many images."""
    min_cluster_size: int | None = Field(None, ge=2)
    """Set images apart that belong nowhere: those of clusters with fewer images than this, and those twice as far from
    their centre as images typically are. `assignments` gets a column `inlier_cluster_id`, -1 for them; all else stays.
    By default off."""
    keep_ids_from: str | None = None
    """Run directory of an earlier run over the same source: clusters that are still there keep their ids and names, and
    the table `lineage` tells what became of the others. This run's own directory means what it held before, if
    anything. By default ids are 0..K-1."""
    renames: str | None = None
    """A .yaml, .csv or .parquet file of names that a person gives to cluster ids. They count as edits that come
    before those of edits.yaml."""


def fingerprint(
    config: AssignClustersConfig,
    *,
    naming: NounNaming | LlmNaming,
    inputs: dict[str, str],
    edits: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Of the settings and inputs.

    Args:
        naming: what clusters are named by; how a model is asked does not matter.
        inputs: fingerprints of the stages read, that of an earlier run's assignments included.
        edits: what people say, those of the file `config.renames` included (`Edit.essence`); neither the file's place
            matters nor that of the earlier run.
    """
    settings = config.model_dump(mode="json", exclude={"keep_ids_from", "renames"})
    settings["naming"] = naming.model_dump(mode="json", exclude={"api_key_env", "timeout_s", "attempts"})
    if edits:
        settings["edits"] = list(edits)
    return fingerprint_of("assign_clusters", settings, inputs)


def previous_manifest(run_dir_uri: str) -> Manifest | None:
    """The manifest of the assignments in an earlier run, or None when there are none (any more).

    Raises:
        ArtifactError: there is one that cannot be read.
        InputError: the place may not be read, or the manifest does not say how many ids were given.
    """
    with named("assign_clusters.keep_ids_from"):
        run_dir = open_run_dir(run_dir_uri)
        folder = run_dir.folder("assign_clusters")
        try:
            manifest = run_dir.manifest("assign_clusters")
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {folder.uri}: {on_one_line(error)}") from error
    if manifest is not None and IDS_GIVEN not in manifest.metrics:
        raise InputError(
            f"{folder.uri} was written by an older dxmc, which did not record {IDS_GIVEN}; delete its "
            "_manifest.json and run it again, or take another run for assign_clusters.keep_ids_from"
        )
    return manifest
