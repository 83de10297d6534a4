"""The configuration of a run: one YAML file, one section a stage, every value with a default but source and run_dir."""

import difflib
import json
import logging
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from dxmc_core.artifacts.run_dir import RUN_NAME, RunDir
from dxmc_core.artifacts.storage import read_user_file
from dxmc_core.artifacts.table_names import IMAGES_NAME, further_images_name
from dxmc_core.encoders import EmbeddedConfig, EncoderConfig, FurtherEncoderConfig
from dxmc_core.encoders.open_clip import OpenClipConfig
from dxmc_core.errors import InputError, named
from dxmc_core.images.sources import SourceConfig
from dxmc_core.method.hyperparameters import METHODS, TEXT_MATRICES, method_reads
from dxmc_core.settings import Settings
from dxmc_core.stages.settings.assign_clusters import AssignClustersConfig
from dxmc_core.stages.settings.build_semantic_space import BuildSemanticSpaceConfig
from dxmc_core.stages.settings.mine_neighbors import MineNeighborsConfig
from dxmc_core.stages.settings.naming import NamingConfig, NounNaming
from dxmc_core.stages.settings.recluster import ReclusterConfig
from dxmc_core.stages.settings.suggest_k import SuggestKConfig
from dxmc_core.stages.settings.train_heads import MethodConfig, TrainHeadsConfig, setting_types
from dxmc_core.stages.settings.write_report import WriteReportConfig
from dxmc_core.vocabulary import VocabularyConfig, WordNetConfig

logger = logging.getLogger(__name__)

#: `num_clusters: auto`: the stage suggest_k chooses. `train_workers: auto`: the hosts that there are.
AUTO: Literal["auto"] = "auto"


def _check_num_clusters(value: Any) -> Any:
    if value != AUTO and (not isinstance(value, int) or isinstance(value, bool) or value < 2):
        raise ValueError("expected a whole number of at least 2, or auto")
    return value


def _check_train_workers(value: Any) -> Any:
    """A number, the least and the most of them, or auto."""
    if value == AUTO:
        return value
    bounds = list(value) if isinstance(value, list | tuple) and len(value) == 2 else [value, value]
    if (
        any(not isinstance(bound, int) or isinstance(bound, bool) for bound in bounds)
        or not 1 <= bounds[0] <= bounds[1]
    ):
        raise ValueError("expected a whole number of at least 1, a range such as [2, 8], or auto")
    return value


class ResourcesConfig(Settings):
    """How much of the machine or cluster to use. It changes nothing that is computed, so nothing is rebuilt for it."""

    num_cpus: int | None = Field(None, ge=1)
    """Cores of the Ray that `dxmc run` starts on this machine; by default all. Without effect on a cluster."""
    use_gpu: bool | None = None
    """By default GPUs are used when the cluster has any."""
    num_gpus: int | None = Field(None, ge=1)
    """GPUs to use; by default all that are there when a stage starts. Those that are missing are asked for, so that a
    cluster that scales by itself starts them."""
    gpu_timeout_s: float = Field(1800, gt=0)
    """How long to wait for them. A stage then goes on with what is there, and fails when there is none."""
    embed_workers: int | None = Field(None, ge=1)
    """Processes that run the encoder; by default one per GPU, or one per core."""
    decode_workers: int | None = Field(None, ge=0)
    """Processes that only fetch, decode and resize images for the GPUs; by default the cores that the GPUs' own
    processes leave. With 0, and without GPUs by default, each process that runs the encoder decodes for itself."""
    embed_batch_size: int | None = Field(None, ge=1)
    """Images a forward pass; by default 32 on CPU, and on a GPU what is found to be best when the model is loaded."""
    train_workers: Annotated[int | tuple[int, int] | Literal["auto"], BeforeValidator(_check_train_workers)] = AUTO
    """Processes that train the heads together; the global batch is the same for any number of them. A range [2, 8]
    starts with as many as there is room for, and goes on with fewer or more when machines go or come. auto: one, and on
    several hosts a range up to one per host where there are many images (docs/TRAINING.md)."""


class PipelineConfig(Settings):
    """Everything a run depends on."""

    run_dir: str
    """Where artifacts go: a local path or s3://bucket/prefix."""
    source: SourceConfig
    """Where the images are, or their embeddings; docs/SOURCES.md has more."""
    encoder: EncoderConfig = Field(default_factory=lambda: OpenClipConfig(kind="open_clip"))
    """What makes vectors of pictures and of words. A run directory holds one source and one (first) encoder."""
    encoders: tuple[FurtherEncoderConfig, ...] = Field((), max_length=7)
    """Several, in place of `encoder`: each sees every image, and `best` joins what they see. The first is the one that
    reads words, that names are given by, and that is searched. A further one may be a file of embeddings, {kind:
    embeddings, uri: ...}; docs/EMBEDDING.md has more."""
    vocabulary: VocabularyConfig | None = Field(default_factory=lambda: WordNetConfig(kind="wordnet"))
    """The nouns that clusters are described and named with; null for none: clusters have numbers, and the method reads
    images alone."""
    num_clusters: Annotated[int | Literal["auto"], BeforeValidator(_check_num_clusters)] = 10
    """K, or auto: three numbers of clusters are suggested without labels, and the best of them is taken."""
    naming: NamingConfig = Field(default_factory=NounNaming)
    """What clusters are named by."""
    method: MethodConfig = Field(default_factory=lambda: MethodConfig(name="best"))
    suggest_k: SuggestKConfig = Field(default_factory=SuggestKConfig)
    build_semantic_space: BuildSemanticSpaceConfig = Field(default_factory=BuildSemanticSpaceConfig)
    mine_neighbors: MineNeighborsConfig = Field(default_factory=MineNeighborsConfig)
    train_heads: TrainHeadsConfig = Field(default_factory=TrainHeadsConfig)
    assign_clusters: AssignClustersConfig = Field(default_factory=AssignClustersConfig)
    write_report: WriteReportConfig = Field(default_factory=WriteReportConfig)
    recluster: ReclusterConfig = Field(default_factory=ReclusterConfig)
    seed: int = Field(0, ge=0)
    """Of everything that draws lots: the same seed gives the same clusters on the same machine."""
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig)

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, values: Any) -> Any:
        """`source: {uri: ...}` means images, `encoder: {model: ...}` open_clip, `vocabulary: {subset: ...}` wordnet."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if values.get("encoders"):
            values |= _first_of_several(values)
        for path, kind in _KINDS.items():
            section, key = path.split(".")
            if kind is not None and isinstance(values.get(section), dict):
                values[section] = {key: kind, **values[section]}
        if values.get("vocabulary", 0) is None:
            values["method"] = _without_text(values.get("method") or {"name": "best"})
        return values

    @model_validator(mode="after")
    def _check_text(self) -> "PipelineConfig":
        if self.vocabulary is None and TEXT_MATRICES.intersection(
            method_reads(self.method.name, **self.method.settings)
        ):
            raise ValueError(
                f"vocabulary is null, and method {self.method.name} with these settings reads text; choose a "
                "vocabulary, or a method that needs none, such as best or kmeans"
            )
        if self.vocabulary is None and self.mine_neighbors.text_search_index:
            raise ValueError(
                "vocabulary is null, and mine_neighbors.text_search_index asks for an index of the text counterparts, "
                "which a run without a vocabulary has none of; choose a vocabulary, or leave the index out"
            )
        return self

    @model_validator(mode="after")
    def _check_encoders(self) -> "PipelineConfig":
        if self.vocabulary_needs_encoder and not self.encoder.reads_text:
            raise ValueError(
                f"encoder of kind {self.encoder.kind} reads no text, and the nouns of the vocabulary are to be "
                "embedded; set vocabulary to null, or take one of kind open_clip, alone or first among encoders"
            )
        if self.source.kind == "embeddings" and not all(
            isinstance(encoder, EmbeddedConfig) for encoder in self.encoders[1:]
        ):
            raise ValueError(
                "encoders: the source holds embeddings and no images for further encoders to see; give theirs as "
                "{kind: embeddings, uri: ...}"
            )
        names = [encoder.table_name for encoder in self.encoders[1:]]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"encoders: two are called {twice!r}; give each a name of its own (`name: ...`)")
        return self

    @property
    def further_encoders(self) -> dict[str, FurtherEncoderConfig]:
        """The encoders beside the first, by the tables of their embeddings."""
        return {further_images_name(encoder.table_name): encoder for encoder in self.encoders[1:]}

    @property
    def encoder_of_table(self) -> dict[str, FurtherEncoderConfig]:
        """All encoders by the tables of their embeddings, the first one first."""
        return {IMAGES_NAME: self.encoder, **self.further_encoders}

    @property
    def needs_encoder(self) -> bool:
        """False when images and nouns both come as embeddings."""
        return self.source.kind != "embeddings" or self.vocabulary_needs_encoder

    @property
    def vocabulary_needs_encoder(self) -> bool:
        """True when there are nouns that are still to be embedded."""
        return self.vocabulary is not None and self.vocabulary.kind != "embeddings"


def _first_of_several(values: dict) -> dict:
    """The sections `encoder` and `encoders` where the latter is given: the first of several is the encoder."""
    given = values["encoders"]
    if not isinstance(given, list | tuple) or not all(isinstance(encoder, dict) for encoder in given):
        return {}
    encoders = [{"kind": "open_clip", **encoder} for encoder in given]
    alone = values.get("encoder")
    if alone is not None and (not isinstance(alone, dict) or {"kind": "open_clip", **alone} != encoders[0]):
        raise ValueError("encoder and encoders are both given; the first of `encoders` takes the place of `encoder`")
    return {"encoder": encoders[0], "encoders": encoders}


def _without_text(method: Any) -> Any:
    """The section `method` where there is no text: `best` goes by the images alone, unless it is told otherwise."""
    return {"use_text": False, **method} if isinstance(method, dict) and method.get("name") == "best" else method


#: Keys that say of which kind their section is, and the kind where they are left out.
_KINDS = {
    "source.kind": "images",
    "encoder.kind": "open_clip",
    "vocabulary.kind": "wordnet",
    "naming.kind": "nouns",
    "method.name": None,
}

#: user:password@ in an address, and what a signed one has in its query.
_CREDENTIALS = re.compile(r"://[^/@]*:[^/@]*@|[?&](?:X-Amz-Signature|X-Goog-Signature|Signature|sig)=", re.IGNORECASE)

#: The parser also raises ValueError (no UTF-8, the 45th of a month) and runs out of stack on deep nesting.
_YAML_ERRORS = (yaml.YAMLError, ValueError, RecursionError)


def load_config(uri: str, overrides: Sequence[str] = (), *, run_dir: str | None = None) -> PipelineConfig:
    """Read a YAML file, apply `section.key=value` overrides in their order, and check the whole.

    An override that changes the kind of a section (`encoder.kind`, `method.name`) takes out the keys that only the
    kind before knows; a line in the log says which.

    Raises:
        InputError: one line naming the file and every key that is wrong.
    """
    values = _read_yaml(uri)
    for override in overrides:
        _apply_override(values, override)
    if run_dir is not None:
        values["run_dir"] = run_dir
    return parse_config(values, where=uri)


def parse_config(values: dict, *, where: str) -> PipelineConfig:
    """Check a configuration that is a dictionary already; see `load_config`."""
    _refuse_credentials(values, where=where)
    try:
        return PipelineConfig.model_validate(values)
    except ValidationError as error:
        # The first of several encoders is checked in both places.
        places = {detail["loc"][:1] for detail in error.errors()}
        hidden = {("encoder",)} if ("encoders",) in places else set()
        details = [detail for detail in error.errors() if detail["loc"][:1] not in hidden]
        raise InputError(f"{where}: " + "; ".join(map(_explain, details))) from error


def _refuse_credentials(values: Any, *, where: str, key: str = "") -> None:
    """A configuration is written into the run directory and into the report, where no secret may be."""
    if isinstance(values, dict):
        for name, value in values.items():
            _refuse_credentials(value, where=where, key=f"{key}.{name}" if key else str(name))
    elif isinstance(values, list):
        for value in values:
            _refuse_credentials(value, where=where, key=key)
    elif isinstance(values, str) and _CREDENTIALS.search(values):
        raise InputError(
            f"{where}: {key} holds a password or a signature; give the address without it, credentials are taken from "
            "the environment, from ~/.aws or from the role of the machine"
        )


def read_run_config(run_dir: RunDir) -> PipelineConfig:
    """The configuration that a run directory was last run with.

    Raises:
        InputError: it is no run directory, or its record is damaged or of another version.
    """
    where = f"{run_dir.uri}/{RUN_NAME}"
    try:
        values = json.loads(run_dir.storage.read_bytes(RUN_NAME))["config"]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{run_dir.uri} is not a run directory: it has no {RUN_NAME}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{where} is damaged: {error}") from error
    return parse_config({**values, "run_dir": run_dir.uri}, where=where)


def _read_yaml(uri: str) -> dict:
    with named(f"cannot use the configuration {uri}"):
        data = read_user_file(uri)
    try:
        values = yaml.safe_load(data)
    except _YAML_ERRORS as error:
        raise InputError(f"{uri} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise InputError(f"{uri} holds {found}, expected keys and values such as `run_dir: runs/demo`")
    return values


def _apply_override(values: dict, override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path.strip():
        raise InputError(f"--set {override!r}: expected section.key=value, such as --set method.name=kmeans")
    try:
        value = yaml.safe_load(text)
    except _YAML_ERRORS as error:
        raise InputError(f"--set {override!r}: {text!r} is not a YAML value") from error
    path = path.strip()
    *sections, key = path.split(".")
    for section in sections:
        if values.get(section) is None:
            values[section] = {}
        inner = values[section]
        if not isinstance(inner, dict):
            raise InputError(f"--set {override!r}: {section} is a value, not a section")
        values = inner
    if path in _KINDS:
        _leave_out_old_kind(values, path, value)
    values[key] = value


def _leave_out_old_kind(values: dict, path: str, kind: Any) -> None:
    """Remove from a section whose kind is about to change what only the kind before it knows, and say so."""
    section, key = path.split(".")
    before, after = _keys_of(section, values.get(key, _KINDS[path])), _keys_of(section, kind)
    gone = [name for name in values if name in before - after] if after else []
    for name in gone:
        del values[name]
    if gone:
        logger.info("%s is %s now, which has no %s: left out", path, kind, ", ".join(gone))


def _keys_of(section: str, kind: Any) -> set[str]:
    """The keys of a section of this kind; none when there is no such kind."""
    if section == "method":
        return {"name", *setting_types(kind)} if kind in METHODS else set()
    models = _models_in(PipelineConfig.model_fields[section].annotation)
    return next((set(model.model_fields) for model in models if _kind_of(model) == kind), set())


def _explain(detail: ErrorDetails) -> str:
    """One pydantic error as a person would say it."""
    location = [part for part in detail["loc"] if isinstance(part, str)]
    model, names = _follow(location)
    if detail["type"] == "extra_forbidden":
        valid = sorted(model.model_fields) if model is not None else []
        close = difflib.get_close_matches(location[-1], valid, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"valid keys: {', '.join(valid)}"
        return f"unknown key {'.'.join(names)!r}; {hint}"
    if detail["type"] == "union_tag_invalid":
        context = detail["ctx"]
        expected = context["expected_tags"].replace("'", "")
        return f"{'.'.join(names)}.kind: unknown kind {context['tag']!r}; expected one of {expected}"
    if detail["type"] == "missing":
        return f"{'.'.join(names)!r} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    found = detail["input"]
    shown = f", found {found!r}" if isinstance(found, str | int | float | bool) or found is None else ""
    where = f"{'.'.join(names)}: " if names else ""
    return f"{where}{message[0].lower()}{message[1:]}{shown}"


def _follow(location: list[str]) -> tuple[type[BaseModel] | None, list[str]]:
    """The model that a pydantic error location ends in, and the location as the user wrote it (without union tags)."""
    model: type[BaseModel] | None = PipelineConfig
    names = []
    candidates: list[type[BaseModel]] = []
    for part in location:
        tagged = [candidate for candidate in candidates if _kind_of(candidate) == part]
        if tagged:
            model, candidates = tagged[0], []
            continue
        names.append(part)
        field = model.model_fields.get(part) if model is not None else None
        if field is not None:
            candidates = list(_models_in(field.annotation))
            if len(candidates) == 1:
                model, candidates = candidates[0], []
    return model, names


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _kind_of(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    if field is None or typing.get_origin(field.annotation) is not Literal:
        return None
    return typing.get_args(field.annotation)[0]
