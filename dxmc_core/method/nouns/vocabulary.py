"""What every kind of vocabulary ends in: nouns without repetitions, each with its synset and embedding if known."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dxmc_core.errors import InputError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vocabulary:
    """M nouns in a fixed order.

    Attributes:
        nouns: M distinct words or phrases, none blank.
        synset_ids: M WordNet 3.0 names such as "dog.n.01", None where unknown.
        embeddings: (M, D) floats as they were stored, finite and not zero, or None when nobody has embedded them.
    """

    nouns: list[str]
    synset_ids: list[str | None]
    embeddings: np.ndarray | None = None


def distinct_nouns(
    nouns: Sequence[str],
    *,
    synset_ids: Sequence[str | None] | None = None,
    embeddings: np.ndarray | None = None,
    where: str,
) -> Vocabulary:
    """A vocabulary of the nouns given, surplus white space removed; the first of repeated nouns is kept.

    Raises:
        InputError: no noun is left.
    """
    rows: dict[str, int] = {}
    num_blank = 0
    for row, text in enumerate(nouns):
        noun = " ".join(text.split())
        if noun:
            rows.setdefault(noun, row)
        else:
            num_blank += 1
    if not rows:
        raise InputError(f"{where} holds no noun, expected at least one")
    num_repeated = len(nouns) - num_blank - len(rows)
    if num_blank or num_repeated:
        _log.info("%s: %d nouns; dropped %d blank and %d repeated ones", where, len(rows), num_blank, num_repeated)
    kept = list(rows.values())
    return Vocabulary(
        nouns=list(rows),
        synset_ids=[None] * len(kept) if synset_ids is None else [synset_ids[row] or None for row in kept],
        embeddings=None if embeddings is None else embeddings[kept],
    )
