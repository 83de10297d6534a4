"""What the nouns of a cluster have in common: the WordNet concept above them that says most."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from dxmc_core.method.nouns.taxonomy import Taxonomy

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
    taxonomy: Taxonomy,
    *,
    min_share: float,
) -> list[HypernymEvidence | None]:
    """The most specific concept above `min_share` of the votes in every row, None where there is none that says much.

    What other rows vote for does not matter: a node of a tree and the node above it may have the same concept in
    common. Concepts compete by their information content (`Taxonomy.information`). Of equally specific ones that wins
    which covers more.

    Args:
        votes: (K, S) share of each noun in the votes of each cluster; rows sum to at most 1.
        synset_ids: S; nouns without a synset, or one that is not in the taxonomy, count for no concept.
        min_share: least share of a cluster's votes.
    """
    return [
        max(found, key=lambda best: (best[1], best[0].share, best[0].synset_id), default=(None, 0.0))[0]
        for found in _covering_concepts(votes, synset_ids, taxonomy, min_share=min_share)
    ]


def _covering_concepts(
    votes: csr_array,
    synset_ids: Sequence[str | None],
    taxonomy: Taxonomy,
    *,
    min_share: float,
) -> Iterator[list[tuple[HypernymEvidence, float]]]:
    """For each row of votes the nameable concepts that cover `min_share` of it, each with its information content."""
    concepts, is_below = _concepts_above(synset_ids, taxonomy)
    shares = csr_array(votes @ is_below)
    bar = min_share - _ROUNDING
    enough = {int(concept) for concept in shares.indices[shares.data >= bar]}
    information = taxonomy.information({concepts[concept] for concept in enough})
    for row in range(votes.shape[0]):
        columns = slice(shares.indptr[row], shares.indptr[row + 1])
        yield [
            (
                HypernymEvidence(taxonomy.nouns[synset_id], synset_id, float(share)),
                information[synset_id],
            )
            for concept, share in zip(shares.indices[columns], shares.data[columns], strict=True)
            if share >= bar
            and (synset_id := concepts[concept]) in taxonomy.nouns
            and information[synset_id] >= _MIN_INFORMATION
        ]


def _concepts_above(synset_ids: Sequence[str | None], taxonomy: Taxonomy) -> tuple[list[str], csr_array]:
    """All concepts at or above the nouns' synsets, and which nouns (S) lie below which concepts (H), as 0 and 1."""
    concepts: dict[str, int] = {}
    nouns, columns = [], []
    for noun, synset_id in enumerate(synset_ids):
        if synset_id is not None and synset_id in taxonomy:
            for concept in taxonomy.above(synset_id):
                nouns.append(noun)
                columns.append(concepts.setdefault(concept, len(concepts)))
    ones = np.ones(len(nouns), dtype=np.float32)
    return list(concepts), csr_array((ones, (nouns, columns)), shape=(len(synset_ids), len(concepts)))
