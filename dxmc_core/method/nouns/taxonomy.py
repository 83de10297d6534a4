"""Concepts and those above them, as WordNet has them: what lies above a noun, and how much a concept says."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """Synsets, each below its hypernyms. It may have cycles.

    Attributes:
        hypernyms: synset to its direct hypernyms.
        nouns: synset to the noun that it is called by; a synset without one names nothing.
    """

    hypernyms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    nouns: Mapping[str, str] = field(default_factory=dict)

    def __contains__(self, synset_id: str | None) -> bool:
        return synset_id in self.hypernyms

    def joined_by(self, hypernyms: Mapping[str, Sequence[str]], nouns: Mapping[str, str]) -> "Taxonomy":
        """With further synsets, and nouns that come before its own."""
        return Taxonomy({**self.hypernyms, **hypernyms}, {**self.nouns, **nouns})

    def above(self, synset_id: str) -> set[str]:
        """A synset and all that lies above it."""
        return _closure(synset_id, self.hypernyms)

    def information(self, synset_ids: Iterable[str]) -> dict[str, float]:
        """How much each concept says, 0 for the root and 1 for a leaf (Seco, Veale and Hayes 2004).

        1 - ln(concepts below, itself included) / ln(all concepts).
        """
        all_concepts = max(len(self.hypernyms), 2)
        return {
            synset_id: 1 - math.log(len(_closure(synset_id, self._hyponyms))) / math.log(all_concepts)
            for synset_id in synset_ids
        }

    def pairs(self, synset_ids: Sequence[str | None]) -> np.ndarray | None:
        """Each noun with the nearest nouns above it, for `TrainingData.noun_hypernyms`.

        A concept that no noun stands for is passed through, so a vocabulary with gaps keeps its hierarchy. Nouns of one
        synset are all linked to all nouns of the synset above.

        Args:
            synset_ids: M, None where unknown.

        Returns:
            (E, 2) int64 pairs [noun, its hypernym] of positions 0..M-1, ordered; None where no two nouns are related.
        """
        nouns_of: dict[str, list[int]] = {}
        for position, synset_id in enumerate(synset_ids):
            if synset_id is not None:
                nouns_of.setdefault(synset_id, []).append(position)
        pairs = [
            (noun, above)
            for synset_id, nouns in nouns_of.items()
            for ancestor in self._nearest_above(synset_id, nouns_of)
            for noun in nouns
            for above in nouns_of[ancestor]
        ]
        return np.array(sorted(pairs), dtype=np.int64) if pairs else None

    def _nearest_above(self, synset_id: str, present: Collection[str]) -> frozenset[str]:
        """The first synsets among `present` on each way up."""
        found, seen = set(), {synset_id}
        pending = list(self.hypernyms.get(synset_id, ()))
        while pending:
            above = pending.pop()
            if above in seen:
                continue
            seen.add(above)
            if above in present:
                found.add(above)
            else:
                pending.extend(self.hypernyms.get(above, ()))
        return frozenset(found)

    @cached_property
    def _hyponyms(self) -> Mapping[str, Sequence[str]]:
        hyponyms: dict[str, list[str]] = defaultdict(list)
        for synset_id, above in self.hypernyms.items():
            for hypernym in above:
                hyponyms[hypernym].append(synset_id)
        return hyponyms


def _closure(synset_id: str, links: Mapping[str, Sequence[str]]) -> set[str]:
    """A synset and all that its links lead to."""
    found, pending = {synset_id}, [synset_id]
    while pending:
        for linked in links.get(pending.pop(), ()):
            if linked not in found:
                found.add(linked)
                pending.append(linked)
    return found


#: No concepts: every noun is one of its own.
NO_TAXONOMY = Taxonomy()
