"""Stage 2 before it runs, and after."""

from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.artifacts.storage import Storage
from dxmc_core.errors import InputError
from dxmc_core.stages.settings import build_semantic_space as settings
from dxmc_core.vocabulary import VocabularyConfig
from ray_jobs.context import RunContext

NAME = "build_semantic_space"


def reads(context: RunContext) -> tuple[str, ...]:
    return ("embed_images", *context.choice_of_k)


def inputs(context: RunContext) -> dict[str, str]:
    """K, which it takes from suggest_k too, is one of its settings."""
    return context.inputs_of("embed_images") or {}


def fingerprint(context: RunContext) -> str:
    config = context.config
    return settings.fingerprint(
        config.build_semantic_space,
        vocabulary_of(context),
        config.encoder if config.needs_encoder else None,
        num_clusters=context.num_clusters,
        seed=config.seed,
        inputs=inputs(context),
    )


def vocabulary_of(context: RunContext) -> VocabularyConfig:
    """The nouns that there are to be.

    Raises:
        InputError: there is to be no vocabulary.
    """
    if context.config.vocabulary is None:
        raise InputError(f"vocabulary is null: there are no nouns for {NAME}; run the stages after it")
    return context.config.vocabulary


def check(context: RunContext) -> None:
    """Look at the vocabulary, and ask for the weights where its nouns have to be embedded.

    Raises:
        InputError: one of them cannot be had.
    """
    config, manifest, vocabulary = context.config, context.manifest(NAME), vocabulary_of(context)
    is_known = all(context.manifest(name) for name in reads(context))
    if manifest is not None and is_known and manifest.fingerprint == fingerprint(context):
        return
    name = settings.cache_name(vocabulary, config.encoder)
    cache = Storage(settings.cache_uri(config.build_semantic_space, context.run_dir.uri))
    if vocabulary.kind != "embeddings" and not cache.exists(name):
        config.encoder.require_weights()


def run(context: RunContext, fingerprint: str) -> StageResult:
    from ray_jobs import build_semantic_space  # with Ray and PyTorch, which only a stage that runs needs

    return build_semantic_space.run(context, fingerprint)


def summary(context: RunContext) -> str:
    metrics = context.run_dir.require_manifest(NAME).metrics
    return (
        f"{metrics['selected_nouns']} of {metrics['vocabulary_nouns']} nouns selected by {metrics['image_centers']} "
        "image centers"
    )
