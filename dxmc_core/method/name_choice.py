"""Which cluster gets which name: from evidence for each cluster by itself to names of which no two are alike."""

import heapq
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dxmc_core.method.hypernyms import HypernymEvidence

#: A noun that is near to half of the members names them; below that a specific hypernym is better, if there is one.
_AGREED_SHARE = 0.5
#: A noun near to fewer members than this is weak evidence. On CLIP embeddings of actions and textures, names of a share
#: below 0.2 were never right, of 0.2 to 0.3 a third of the time, from 0.7 on four times in five.
_MIN_SHARE = 0.25
#: A hypernym is specific when its share of the cluster is so much larger than of the mean cluster.
_MIN_HYPERNYM_LIFT = 0.25
#: When another cluster has the best noun, the next one stands in if its score is at least this part of the best.
_SUBSTITUTE = 0.7


@dataclass(frozen=True)
class NounEvidence:
    """What speaks for a noun as the name of a cluster; see `naming.ClusterName`. Higher scores are better."""

    noun: str
    synset_id: str | None
    share: float
    margin: float
    score: float


@dataclass(frozen=True)
class ChosenName:
    """A name and where it comes from."""

    name: str
    source: Literal["noun", "hypernym", "unnamed"]


def choose_names(
    nouns: Sequence[Sequence[NounEvidence]], hypernyms: Sequence["HypernymEvidence | None"]
) -> list[ChosenName]:
    """One name a cluster, in the order of preference that `naming.name_clusters` states.

    The cluster with the best score has a noun to itself. The others take their next noun when it is nearly as good, or
    else are told apart by a second noun in brackets, or by a number where there is none.

    Args:
        nouns: for each cluster its nouns, best first, of distinct `spelling_key`.
        hypernyms: for each cluster the best concept above its nouns, or None.
    """
    evidence = list(zip(nouns, hypernyms, strict=True))
    by_noun = {cluster: own for cluster, (own, above) in enumerate(evidence) if _noun_is_best(own, above)}
    chosen = {cluster: ChosenName(noun, "noun") for cluster, noun in _distribute(by_noun).items()}
    taken = {key for name in chosen.values() for key in (name.name.casefold(), spelling_key(name.name))}
    for cluster in sorted(set(range(len(evidence))) - set(chosen), key=lambda cluster: _rank(*evidence[cluster])):
        own, above = evidence[cluster]
        others = [evidence.noun for evidence in own if evidence.share >= _MIN_SHARE]
        if cluster in by_noun:
            chosen[cluster] = ChosenName(told_apart(without_gloss(own[0].noun), others, taken), "noun")
        elif above is not None:
            chosen[cluster] = ChosenName(told_apart(above.noun, others, taken), "hypernym")
        else:
            chosen[cluster] = ChosenName(told_apart(numbered(cluster), (), taken), "unnamed")
        taken.add(chosen[cluster].name.casefold())
    return [chosen[cluster] for cluster in range(len(evidence))]


def numbered(cluster_id: int) -> str:
    """What a cluster is called that has no name."""
    return f"cluster {cluster_id}"


def spelling_key(noun: str) -> str:
    """What makes two nouns one name to a reader: neither case nor a gloss, as in "drum (musical instrument)"."""
    return without_gloss(noun).casefold()


def without_gloss(noun: str) -> str:
    return noun.partition(" (")[0] or noun


def _noun_is_best(own: Sequence[NounEvidence], above: "HypernymEvidence | None") -> bool:
    if not own or own[0].share < _MIN_SHARE:
        return False
    has_specific_hypernym = above is not None and above.lift >= _MIN_HYPERNYM_LIFT
    return own[0].share >= _AGREED_SHARE or not has_specific_hypernym


def _rank(own: Sequence[NounEvidence], above: "HypernymEvidence | None") -> tuple[float, float]:
    """Sorts the clusters with the strongest evidence first."""
    return -(above.share if above is not None else 0.0), -(own[0].score if own else 0.0)


def _distribute(by_noun: Mapping[int, Sequence[NounEvidence]]) -> dict[int, str]:
    """Nouns that clusters have to themselves; the best score chooses first, then the best of what is left."""
    given: dict[int, str] = {}
    taken: set[str] = set()
    wishes = [(-own[0].score, cluster, 0) for cluster, own in by_noun.items()]
    heapq.heapify(wishes)
    while wishes:
        _, cluster, place = heapq.heappop(wishes)
        own = by_noun[cluster]
        if spelling_key(own[place].noun) not in taken:
            given[cluster] = own[place].noun
            taken.add(spelling_key(own[place].noun))
        elif place + 1 < len(own):
            following = own[place + 1]
            if following.score >= _SUBSTITUTE * own[0].score and following.share >= _MIN_SHARE:
                heapq.heappush(wishes, (-following.score, cluster, place + 1))
    return given


def told_apart(name: str, others: Sequence[str], taken: Container[str]) -> str:
    """The name if it is free, else with another noun of the cluster behind it, else with the first free number.

    Args:
        others: further nouns of the cluster, best first.
        taken: names of other clusters, casefolded.
    """
    nouns = [without_gloss(other) for other in others]
    qualified = [f"{name} ({noun})" for noun in nouns if noun.casefold() != name.casefold()]
    for candidate in [name, *qualified]:
        if candidate.casefold() not in taken:
            return candidate
    return next(candidate for number in count(2) if (candidate := f"{name} {number}").casefold() not in taken)
