"""Which cluster gets which name: from evidence for each cluster by itself to names of which no two are alike."""

import itertools
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

#: A second word holds for this part of the members at least, and in no cluster of the same name for more than half of
#: the part it holds for here.
_MIN_SECOND_SHARE = 0.25
_MAX_SHARE_ELSEWHERE = 0.5


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


@dataclass(frozen=True)
class OwnName:
    """The name a cluster would have if it were alone; of several that want it the one of most strength has it."""

    name: str
    source: Literal["noun", "hypernym"]
    strength: float


def choose_names(
    own_names: Sequence[OwnName | None], nouns: Sequence[Sequence[NounEvidence]], shares: Sequence[Mapping[str, float]]
) -> list[ChosenName]:
    """One name per cluster, no two alike.

    Of clusters that want one name the strongest has it to itself. Behind the name of each other stands, in brackets, a
    noun that is true of it and not of those it is to be told from. Where there is none it is called by its number, with
    the name in brackets.

    Args:
        own_names: for each cluster its own name, None where it has none.
        nouns: for each cluster the nouns that describe it, of distinct `spelling_key`.
        shares: for each cluster the share of its members that a noun is near to, by `spelling_key`; 0 where missing.
    """
    chosen: dict[int, ChosenName] = {}
    taken: set[str] = set()
    rivals: dict[str, list[tuple[int, str | None]]] = {}  # by name: clusters that have it, with their second word
    ranked = _strongest_first(own_names)
    wanted: dict[str, list[int]] = {}
    for cluster, own in ranked:
        wanted.setdefault(spelling_key(own.name), []).append(cluster)
    for cluster, own in ranked:
        before = rivals.setdefault(spelling_key(own.name), [])
        found = ChosenName(own.name, own.source)
        second = None
        if before or own.name.casefold() in taken:
            alike = [
                shares[rival]
                for rival, word in before
                if word is None or not _tells(word, shares[rival], [shares[cluster]])
            ]
            everyone = [shares[rival] for rival in wanted[spelling_key(own.name)] if rival != cluster]
            seconds = _second_words(nouns[cluster], shares[cluster], alike, everyone)
            name = told_apart(without_gloss(own.name), seconds, taken | {spelling_key(own.name)}, cluster_id=cluster)
            second = next((word for word in seconds if name.endswith(f"({without_gloss(word)})")), None)
            found = ChosenName(name, own.source if second is not None else "unnamed")
        before.append((cluster, second))
        chosen[cluster] = found
        taken |= {found.name.casefold(), spelling_key(own.name)}
    for cluster in range(len(own_names)):
        if cluster not in chosen:
            chosen[cluster] = ChosenName(told_apart(numbered(cluster), (), taken, cluster_id=cluster), "unnamed")
            taken.add(chosen[cluster].name.casefold())
    return [chosen[cluster] for cluster in range(len(own_names))]


def _strongest_first(own_names: Sequence[OwnName | None]) -> list[tuple[int, OwnName]]:
    named = [(cluster, own) for cluster, own in enumerate(own_names) if own is not None]
    return sorted(named, key=lambda entry: (-entry[1].strength, entry[0]))


def _second_words(
    nouns: Sequence[NounEvidence],
    shares: Mapping[str, float],
    others: Sequence[Mapping[str, float]],
    everyone: Sequence[Mapping[str, float]],
) -> list[str]:
    """Nouns that hold for a cluster and not for the others, the one that tells most from everyone of the name first."""
    found = []
    for noun in nouns:
        if _tells(noun.noun, shares, others):
            key = spelling_key(noun.noun)
            elsewhere = max((other.get(key, 0.0) for other in everyone), default=0.0)
            found.append((elsewhere - shares[key], noun.noun))
    return [noun for _, noun in sorted(found, key=lambda entry: entry[0])]


def _tells(noun: str, shares: Mapping[str, float], others: Sequence[Mapping[str, float]]) -> bool:
    """Whether a noun is true of a cluster and of none of the others."""
    key = spelling_key(noun)
    share = shares.get(key, 0.0)
    most = _MAX_SHARE_ELSEWHERE * share
    return share >= _MIN_SECOND_SHARE and all(other.get(key, 0.0) <= most for other in others)


def numbered(cluster_id: int) -> str:
    """What a cluster is called that has no name."""
    return f"cluster {cluster_id}"


def spelling_key(noun: str) -> str:
    """What makes two nouns one name to a reader: neither case nor a gloss, as in "drum (musical instrument)"."""
    return without_gloss(noun).casefold()


def without_gloss(noun: str) -> str:
    return noun.partition(" (")[0] or noun


def told_apart(name: str, others: Sequence[str], taken: Container[str], *, cluster_id: int) -> str:
    """The name if it is free, else with another noun of the cluster behind it, else the cluster's number with the name.

    Args:
        others: further nouns of the cluster, best first.
        taken: names of other clusters, casefolded.
    """
    nouns = [without_gloss(other) for other in others]
    qualified = [f"{name} ({noun})" for noun in nouns if noun.casefold() != name.casefold()]
    number = numbered(cluster_id)
    for candidate in [name, *qualified, number if name == number else f"{number} ({name})"]:
        if candidate.casefold() not in taken:
            return candidate
    return next(candidate for count in itertools.count(2) if (candidate := f"{number} {count}").casefold() not in taken)
