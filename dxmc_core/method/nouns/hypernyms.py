"""What the nouns of a cluster have in common: the WordNet concept above them that says most."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

#: Concepts that say less (intrinsic information content, 0 for the root and 1 for a leaf) are no names: "animal" (0.27)
#: and "plant" (0.25) are, "person" (0.21), "artifact" (0.19) and "object" (0.09) are not.
_MIN_INFORMATION = 0.25

#: Votes are float32: half of them may add up to a little less than a half.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class HypernymEvidence:
    """A concept that covers a cluster.

    Attributes:
        noun: what it is called.
        synset_id: its synset.
        share: part of the cluster's votes that lie below it or on it, in 0..1.
    """

    noun: str
    synset_id: str
    share: float


def lowest_common_hypernyms(
    votes: csr_array,
    synset_ids: Sequence[str | None],
    hypernyms: Mapping[str, Sequence[str]],
    synset_nouns: Mapping[str, str],
    *,
    min_share: float,
) -> list[HypernymEvidence | None]:
    """The most specific concept above `min_share` of the votes in every row, None where there is none that says much.

    What other rows vote for does not matter: a node of a tree and the node above it may have the same concept in
    common. Concepts compete by their intrinsic information content (Seco, Veale and Hayes 2004): 1 - ln(concepts below,
    itself included) / ln(all concepts). Of equally specific ones that wins which covers more.

    Args:
        votes: (K, S) share of each noun in the votes of each cluster; rows sum to at most 1.
        synset_ids: S; nouns without a synset, or one that is not in `hypernyms`, count for no concept.
        hypernyms: synset to its direct hypernyms.
        synset_nouns: synset to the noun it is called by; a synset without one cannot be a name.
        min_share: least share of a cluster's votes.
    """
    return [
        max(found, key=lambda best: (best[1], best[0].share, best[0].synset_id), default=(None, 0.0))[0]
        for found in _covering_concepts(votes, synset_ids, hypernyms, synset_nouns, min_share=min_share)
    ]


def _covering_concepts(
    votes: csr_array,
    synset_ids: Sequence[str | None],
    hypernyms: Mapping[str, Sequence[str]],
    synset_nouns: Mapping[str, str],
    *,
    min_share: float,
) -> Iterator[list[tuple[HypernymEvidence, float]]]:
    """For each row of votes the nameable concepts that cover `min_share` of it, each with its information content."""
    concepts, is_below = _concepts_above(synset_ids, hypernyms)
    shares = csr_array(votes @ is_below)
    bar = min_share - _ROUNDING
    enough = {int(concept) for concept in shares.indices[shares.data >= bar]}
    information = _information({concepts[concept] for concept in enough}, hypernyms)
    for row in range(votes.shape[0]):
        columns = slice(shares.indptr[row], shares.indptr[row + 1])
        yield [
            (
                HypernymEvidence(synset_nouns[synset_id], synset_id, float(share)),
                information[synset_id],
            )
            for concept, share in zip(shares.indices[columns], shares.data[columns], strict=True)
            if share >= bar
            and (synset_id := concepts[concept]) in synset_nouns
            and information[synset_id] >= _MIN_INFORMATION
        ]


def _concepts_above(
    synset_ids: Sequence[str | None], hypernyms: Mapping[str, Sequence[str]]
) -> tuple[list[str], csr_array]:
    """All concepts at or above the nouns' synsets, and which nouns (S) lie below which concepts (H), as 0 and 1."""
    concepts: dict[str, int] = {}
    nouns, columns = [], []
    for noun, synset_id in enumerate(synset_ids):
        if synset_id is not None and synset_id in hypernyms:
            for concept in closure(synset_id, hypernyms):
                nouns.append(noun)
                columns.append(concepts.setdefault(concept, len(concepts)))
    ones = np.ones(len(nouns), dtype=np.float32)
    return list(concepts), csr_array((ones, (nouns, columns)), shape=(len(synset_ids), len(concepts)))


def closure(synset_id: str, links: Mapping[str, Sequence[str]]) -> set[str]:
    """A synset and all that its links lead to."""
    found, pending = {synset_id}, [synset_id]
    while pending:
        for linked in links.get(pending.pop(), ()):
            if linked not in found:
                found.add(linked)
                pending.append(linked)
    return found


def _information(synset_ids: set[str], hypernyms: Mapping[str, Sequence[str]]) -> dict[str, float]:
    hyponyms: dict[str, list[str]] = defaultdict(list)
    for synset_id, above in hypernyms.items():
        for hypernym in above:
            hyponyms[hypernym].append(synset_id)
    all_concepts = max(len(hypernyms), 2)
    return {
        synset_id: 1 - math.log(len(closure(synset_id, hyponyms))) / math.log(all_concepts) for synset_id in synset_ids
    }
