"""A person who corrects clusters in a simulated month, and what must hold of each correction from then on.

What holds is judged from assignments and names alone, by code that shares nothing with what applies edits.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from dxmc_core.edits.model import ClusterRef, Edit, Examples, Hide, Merge, Move, Pin, Rename, Split

NAMES = ("one thing", "moved & <i>kept</i>", "a class of its own")
_FEW = 5


@dataclass(frozen=True)
class Seen:
    """What a person sees of a generation.

    Attributes:
        cluster_of: of every image_id.
        names: of clusters.
        hidden: clusters that the report leaves out.
    """

    cluster_of: Mapping[str, int]
    names: Mapping[int, str]
    hidden: Set[int]

    def members(self, cluster_id: int) -> list[str]:
        return sorted(image for image, found in self.cluster_of.items() if found == cluster_id)

    def here(self, images: Iterable[str]) -> list[str]:
        return [image for image in images if image in self.cluster_of]

    def of(self, images: Iterable[str]) -> set[int]:
        """The clusters of those images that are here."""
        return {self.cluster_of[image] for image in self.here(images)}

    def meant(self, reference: ClusterRef) -> int | None:
        """The cluster that holds most of a reference's images; None where all are gone."""
        counts = Counter(self.cluster_of[image] for image in self.here(reference.images))
        return counts.most_common(1)[0][0] if counts else None


def corrections(turn: int, seen: Seen, edits: Sequence[Edit]) -> list[list[str]]:
    """What is typed after `dxmc edit RUN_DIR` at the given time, 0 to 4; of clusters that no earlier edit names."""
    sizes = Counter(seen.cluster_of.values())
    touched = {seen.meant(reference) for edit in edits for reference in edit.clusters}
    touched |= {cluster for edit in edits for cluster in seen.of(edit.images)}
    free = [cluster for cluster, _ in sizes.most_common() if cluster not in touched]
    if len(free) < 2:
        raise SystemExit(f"only {len(free)} clusters are left that no edit names; ask for more clusters")
    largest, second, smallest = free[0], free[1], free[-1]
    match turn:
        case 0:
            return [["merge", str(smallest), str(second), "--name", NAMES[0]]]
        case 1:
            return [["split", str(largest), "--into", "2"]]
        case 2:
            strays = seen.members(largest)[:_FEW]
            return [["move", *strays, "--to", str(smallest)], ["rename", str(smallest), NAMES[1]]]
        case 3:
            return [["pin", str(smallest)], ["hide", str(smallest)]]
        case _:
            return [["examples", NAMES[2], *seen.members(largest)[:_FEW]]]


def broken(edits: Sequence[Edit], seen: Seen) -> list[str]:
    """Edits that do not hold, one line each."""
    return [f"{edit.kind} {edit.id}: {fault}" for edit in edits for fault in _faults(edit, seen)]


def _faults(edit: Edit, seen: Seen) -> Iterator[str]:
    match edit.action:
        case Merge(clusters=references, name=name):
            found = {seen.meant(reference) for reference in references} - {None}
            if len(found) != 1:
                yield f"its clusters are {sorted(map(str, found))}"
            elif name is not None:
                yield from _named(seen, found.pop(), name)
        case Split(examples=parts) if parts is not None:
            homes = [seen.of(part) for part in parts]
            if any(len(home) > 1 for home in homes) or len(set().union(*homes)) != sum(map(len, homes)):
                yield f"its parts are in the clusters {homes}"
        case Move(images=images, to=reference):
            # Where all images are gone that stood for the cluster, there is nothing to move to.
            if seen.meant(reference) is not None and not seen.of(images) <= {seen.meant(reference)}:
                yield f"its images are in {seen.of(images)}, the cluster is {seen.meant(reference)}"
        case Rename(cluster=reference, name=name):
            yield from _named(seen, seen.meant(reference), name)
        case Pin(images=images) if images is not None:
            home, *others = seen.of(images) or [None]
            if others or (home is not None and seen.members(home) != sorted(seen.here(images))):
                yield f"the clusters of its images are {[home, *others]}"
        case Hide(cluster=reference):
            if seen.meant(reference) is not None and seen.meant(reference) not in seen.hidden:
                yield f"cluster {seen.meant(reference)} is shown"
        case Examples(of=str() as name, images=images):
            home, *others = seen.of(images) or [None]
            if others:
                yield f"its images are in {[home, *others]}"
            yield from _named(seen, home, name)
        case _:
            yield "it is not what this person has asked for"


def _named(seen: Seen, cluster_id: int | None, name: str) -> Iterator[str]:
    if cluster_id is not None and seen.names[cluster_id] != name:
        yield f"cluster {cluster_id} is called {seen.names[cluster_id]!r}, not {name!r}"
