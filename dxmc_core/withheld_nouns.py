"""Nouns that no cluster is called by unless a run asks for it: people that no picture shows, slurs, vulgar words.

The list is data, vocabulary/withheld_nouns.tsv; scripts/build_withheld_nouns.py writes it and says by which rules.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import resources

import numpy as np

from dxmc_core.method.clusters.cluster_sample import ClusterSample
from dxmc_core.method.nouns.naming import ClusterName, name_clusters, unnamed
from dxmc_core.method.nouns.taxonomy import Taxonomy


def is_shown(nouns: Sequence[str], synset_ids: Sequence[str | None]) -> np.ndarray:
    """Which nouns may name a cluster, (M,) bool.

    A noun goes by its synset; without one by its commonest meaning. Slurs and vulgar words go by their spelling.

    Args:
        nouns: M, in any case; a gloss in brackets is left out of account.
        synset_ids: M, None where unknown.
    """
    by_meaning, by_spelling, synsets = _withheld()
    words = [noun.partition(" (")[0].casefold() for noun in nouns]
    return np.array(
        [
            word not in by_spelling and (word not in by_meaning if synset_id is None else synset_id not in synsets)
            for word, synset_id in zip(words, synset_ids, strict=True)
        ],
        dtype=bool,
    )


def concepts_that_name(taxonomy: Taxonomy, *, judging: bool) -> Taxonomy:
    """The taxonomy, in which only synsets that may name a cluster have a noun."""
    if judging:
        return taxonomy
    synset_ids, nouns = list(taxonomy.nouns), list(taxonomy.nouns.values())
    shown = np.flatnonzero(is_shown(nouns, synset_ids)).tolist()
    return replace(taxonomy, nouns={synset_ids[position]: nouns[position] for position in shown})


def names_by_shown_nouns(
    sample: ClusterSample,
    noun_embeddings: np.ndarray,
    nouns: Sequence[str],
    synset_ids: Sequence[str | None],
    *,
    kinds: Sequence[str | None],
    taxonomy: Taxonomy,
    judging: bool,
) -> list[ClusterName]:
    """Names of the clusters of a sample by the nouns that may name one; numbers where none may.

    Args:
        noun_embeddings: (M, D); nouns, synset_ids, kinds: M each; see `name_clusters`, also for the taxonomy.
        judging: whether nouns that are withheld may name a cluster, too.
    """
    num_clusters = len(sample.centers)
    shown = list(range(len(nouns))) if judging else np.flatnonzero(is_shown(nouns, synset_ids)).tolist()
    if not shown:
        return unnamed(num_clusters)
    return name_clusters(
        sample.embeddings,
        sample.labels,
        noun_embeddings[shown],
        [nouns[noun] for noun in shown],
        [synset_ids[noun] for noun in shown],
        num_clusters=num_clusters,
        kinds=[kinds[noun] for noun in shown],
        taxonomy=concepts_that_name(taxonomy, judging=judging),
        confidences=sample.confidences,
    )


@cache
def _withheld() -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Spellings whose commonest meaning is withheld, spellings that always are, and synsets."""
    text = resources.files("dxmc_core").joinpath("vocabulary/withheld_nouns.tsv").read_text("utf-8")
    pairs = [line.split("\t") for line in text.splitlines()]
    return (
        frozenset(noun for noun, synset_id in pairs if noun and synset_id),
        frozenset(noun for noun, synset_id in pairs if noun and not synset_id),
        frozenset(synset_id for _, synset_id in pairs if synset_id),
    )
