"""Whether the clusters' names are right: what each is in WordNet to the class that most members of its cluster have."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from dxmc_core.vocabulary import WordNetConfig, load_vocabulary
from dxmc_core.vocabulary.wordnet import spellings, wordnet_taxonomy

#: What a name is to a class: "unnamed" has no name, "unknown" no class that is a noun of WordNet.
Relation = Literal["equal", "synonym", "hypernym", "hyponym", "sibling", "other", "unnamed", "unknown"]

#: A class that is a number is the number of a class: that WordNet has 7 as a noun says nothing about it.
_NUMBER = re.compile(r"\s*[+-]?\d[\d.,_]*\s*")


def name_agreement(
    labels: np.ndarray, clusters: np.ndarray, names: Mapping[int, str], sources: Mapping[int, str]
) -> dict[str, int]:
    """The number of clusters by the relation of their name to their commonest class.

    Args:
        labels, clusters: (N,) of the labelled images.
        names, sources: by cluster id, `name` and `name_source` of the table `clusters`. What a name has in brackets
            only tells it from another cluster's and is left out.
    """
    senses = NounSenses()
    counts = dict.fromkeys(get_args(Relation), 0)
    for cluster_id in np.unique(clusters).tolist():
        (label, _), *_ = Counter(labels[clusters == cluster_id].tolist()).most_common(1)
        relation = senses.relation(names[cluster_id].partition(" (")[0], str(label))
        counts["unnamed" if sources[cluster_id] == "unnamed" and relation != "unknown" else relation] += 1
    return counts


class NounSenses:
    """The synsets a noun can mean: those that it heads, and its commonest one."""

    def __init__(self) -> None:
        self._taxonomy = wordnet_taxonomy()
        vocabulary = load_vocabulary(WordNetConfig())
        self._synsets: dict[str, set[str]] = {}
        for synset, noun in [*self._taxonomy.nouns.items(), *zip(vocabulary.synset_ids, vocabulary.nouns, strict=True)]:
            if synset is not None:
                self._synsets.setdefault(noun.lower(), set()).add(synset)

    def of(self, noun: str) -> frozenset[str]:
        """Synsets of a noun in singular or plural, with spaces, underscores or hyphens; empty when it is unknown."""
        return frozenset().union(*(self._synsets.get(text, ()) for text in spellings(noun)))

    def relation(self, name: str, label: str) -> Relation:
        """What `name` is to `label` in the nearest of their meanings.

        The same word (spelled differently, or in the plural), another word for it, above it, below it, directly below
        the same concept, or another thing.
        """
        own, wanted = self.of(name), self.of(label)
        if not wanted or _NUMBER.fullmatch(label):
            return "unknown"
        if own & wanted:
            return "equal" if set(spellings(name)) & set(spellings(label)) else "synonym"
        if own & self._with_all_above(wanted):
            return "hypernym"
        if wanted & self._with_all_above(own):
            return "hyponym"
        return "sibling" if self._directly_above(own) & self._directly_above(wanted) else "other"

    def _directly_above(self, synsets: frozenset[str]) -> set[str]:
        return {above for synset in synsets for above in self._taxonomy.hypernyms.get(synset, ())}

    def _with_all_above(self, synsets: frozenset[str]) -> set[str]:
        return set().union(*map(self._taxonomy.above, synsets))
