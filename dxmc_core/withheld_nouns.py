"""Nouns that no cluster is called by unless a run asks for it: people that no picture shows, slurs, vulgar words.

The list is data, vocabulary/withheld_nouns.tsv; scripts/build_withheld_nouns.py writes it and says by which rules.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

import numpy as np


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


def shown_synsets(synset_nouns: Mapping[str, str]) -> dict[str, str]:
    """The synsets that may name a cluster, with their nouns."""
    synset_ids = list(synset_nouns)
    kept = is_shown([synset_nouns[synset_id] for synset_id in synset_ids], synset_ids)
    return {synset_id: synset_nouns[synset_id] for synset_id, stays in zip(synset_ids, kept, strict=True) if stays}


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
