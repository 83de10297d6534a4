"""Settings of train_heads: the method, and how training is kept safe."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from dxmc_core.artifacts.manifest import fingerprint_of
from dxmc_core.errors import InputError
from dxmc_core.method.hyperparameters import TEXT_MATRICES, method_reads, method_settings, settings_of
from dxmc_core.settings import Settings
from dxmc_core.stages.training_log import LogTarget


class MethodConfig(Settings):
    """A method by name, and any of its settings; what is left out has the method's published value."""

    model_config = ConfigDict(extra="allow")

    name: str
    """One of those below, `best` where the section is left out; docs/METHODS.md says what each does."""

    @model_validator(mode="after")
    def _check(self) -> "MethodConfig":
        kinds = setting_types(self.name)
        for key, value in self.settings.items():
            if key in kinds:
                _check_type(key, value, kinds[key])
        method_settings(self.name, num_clusters=2, num_images=2, **self.settings)
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that were given, without the name."""
        return dict(self.model_extra or {})


def setting_types(method: str) -> dict[str, Any]:
    """The settings of a method with their types."""
    return {field.name: field.type for field in fields(settings_of(method))}


def _check_type(key: str, value: Any, kind: Any) -> None:
    try:
        TypeAdapter(kind | None).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{key} = {value!r}: {error.errors()[0]['msg'].lower()}") from error


class TrainHeadsConfig(Settings):
    """How training is kept safe; what is learned is the business of `method`."""

    checkpoint_every_s: float = Field(10.0, ge=0)
    """A checkpoint is written after an epoch when the last one is this old; 0 writes one after every epoch."""
    count_near_duplicates_once: bool = False
    """Train on one image of each group of near duplicates (table `near_duplicates`); all are assigned."""
    log_to: LogTarget | None = None
    """tensorboard (into the run directory) or mlflow (where MLFLOW_TRACKING_URI says): losses and figures an epoch."""


def fingerprint(
    method: MethodConfig,
    *,
    num_clusters: int,
    num_images: int,
    seed: int,
    inputs: dict[str, str],
    count_near_duplicates_once: bool = False,
    edits: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Of the resolved settings, so that writing a default out changes nothing, and of what the method reads.

    Args:
        edits: what people say and the method learns from (`Edit.essence`).
    """
    resolved = asdict(method_settings(method.name, num_clusters=num_clusters, num_images=num_images, **method.settings))
    settings = {"name": method.name, "settings": resolved, "num_clusters": num_clusters, "seed": seed}
    if count_near_duplicates_once:
        settings["count_near_duplicates_once"] = True
    if edits:
        settings["edits"] = list(edits)
    return fingerprint_of("train_heads", settings, inputs)


def stages_read(method: MethodConfig, *, count_near_duplicates_once: bool = False) -> tuple[str, ...]:
    """The stages whose artifacts a method trains on."""
    reads = method_reads(method.name, **method.settings)
    stages = ["embed_images"]
    if TEXT_MATRICES.intersection(reads):
        stages.append("build_semantic_space")
    if "image_neighbors" in reads or "text_neighbors" in reads or count_near_duplicates_once:
        stages.append("mine_neighbors")
    return tuple(stages)


def check_num_clusters(num_clusters: int, num_images: int) -> None:
    """Raises InputError when there are fewer images than clusters."""
    if num_images < num_clusters:
        raise InputError(
            f"num_clusters is {num_clusters}, but only {num_images} images could be embedded; "
            f"set num_clusters to {num_images} or less"
        )
