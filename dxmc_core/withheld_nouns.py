"""Nouns that no cluster is called by unless a run asks for it: people that no picture shows, slurs, vulgar words.

The list is data, vocabulary/withheld_nouns.tsv; scripts/build_withheld_nouns.py writes it and says by which rules.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import resources

import numpy as np

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


def nouns_that_name(nouns: Sequence[str], synset_ids: Sequence[str | None], *, judging: bool) -> np.ndarray:
    """Ascending positions of those that may name a cluster: all where `judging` ones may, too."""
    return np.arange(len(nouns)) if judging else np.flatnonzero(is_shown(nouns, synset_ids))


def concepts_that_name(taxonomy: Taxonomy, *, judging: bool) -> Taxonomy:
    """The taxonomy, in which only synsets that may name a cluster have a noun."""
    synset_ids, nouns = list(taxonomy.nouns), list(taxonomy.nouns.values())
    shown = nouns_that_name(nouns, synset_ids, judging=judging)
    return replace(taxonomy, nouns={synset_ids[position]: nouns[position] for position in shown})


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
