"""Edits applied to a clustering, one after the other: arrays in, arrays out.

A clustering gives every image a label; an edit moves images to other labels, joins labels or makes new ones. What the
clustering itself says is left as it is, so that without an edit all is as if it had never been there.
"""

from collections.abc import Callable, Mapping, Sequence, Set, Sized
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from dxmc_core.edits.model import (
    MAX_REFERENCE_IMAGES,
    Apart,
    ClusterRef,
    Edit,
    Examples,
    Hide,
    Merge,
    Move,
    Pin,
    Rename,
    Split,
    Together,
)
from dxmc_core.method.clusters.kmeans import spherical_kmeans
from dxmc_core.method.clusters.nearest_center import nearest_centers

#: What became of an edit: it holds; nothing that it names is here now; or later edits say otherwise of all its images.
State = Literal["applied", "waiting", "overruled"]
_SPLIT_EXAMPLES = 10
#: Cosine below which the examples of a part are none of the embeddings that its centre was made of. The mean of half of
#: them is at 0.7 or more to the mean of all, where no two are opposed; between two encoders it is near 0.
_MIN_COSINE = 0.5


@dataclass(frozen=True)
class SplitParts:
    """Where the border of a split lies: images go to the nearest centre, also when examples have left the source.

    Attributes:
        examples: of each part, as they stand in the edit; with others the centres are not its own.
        centers: (parts, D) float32, unit norm: the mean of the examples when the edit was first applied.
    """

    examples: tuple[tuple[str, ...], ...]
    centers: np.ndarray


@dataclass(frozen=True)
class Clustering:
    """What is known of N images and K clusters before any edit.

    Attributes:
        labels, runner_up: (N,) int32, of each image its cluster and the next best one.
        centers: (K, D) unit rows, zero for a cluster without images.
        cluster_ids: (K,) by label; None where ids are given after the edits.
        names: of clusters, by label.
        positions: of those images that edits name, 0..N-1 by image_id.
        embeddings_of: unit rows (n, D) float32 of images by position (n,), in any order.
        image_ids_of: of images by position (n,), ascending.
        learned: ids of edits whose images the clustering has learned from.
        splits: how splits have divided clusters before, by the ids of their edits.
    """

    labels: np.ndarray
    runner_up: np.ndarray
    centers: np.ndarray
    cluster_ids: np.ndarray | None
    names: Mapping[int, str]
    positions: Mapping[str, int]
    embeddings_of: Callable[[np.ndarray], np.ndarray]
    image_ids_of: Callable[[np.ndarray], Sequence[str]]
    learned: Set[str] = frozenset()
    splits: Mapping[str, SplitParts] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of an edit.

    Attributes:
        label: of the cluster that it is about; None where there is none.
        num_images: that it names itself, or that its cluster held where it names none.
        num_missing: of those that it names, how many are not among the images.
        num_elsewhere: how many the clustering by itself puts into another cluster than the edit.
        num_overruled: how many later edits put elsewhere.
    """

    edit: Edit
    state: State
    label: int | None
    num_images: int = 0
    num_missing: int = 0
    num_elsewhere: int = 0
    num_overruled: int = 0
    note: str = ""

    @property
    def message(self) -> str:
        """What a person should know of it; empty where all is as it was meant."""
        told = [self.note] if self.note else []
        counts = (
            (self.num_missing, "not among the images"),
            (self.num_elsewhere, "in another cluster by the data alone"),
            (self.num_overruled, "elsewhere by a later edit"),
        )
        told += [
            f"{count:,} of {self.num_images:,} {'is' if count == 1 else 'are'} {what}"
            for count, what in counts
            if count
        ]
        return "; ".join(told)


@dataclass(frozen=True)
class Edited:
    """A clustering after all edits.

    Attributes:
        labels: (N,) int32 in 0..K'-1; K.. are clusters that edits made.
        origins: for each label the one that its cluster was, or mostly came from: itself for 0..K-1.
        names: given by a person, by label; `names_by_id` where an edit has nothing but an id.
        hidden, hidden_ids: clusters that are left out of the report.
        placed: (N,) bool, images whose cluster a person chose.
        edits: as they were given, with the images of pins and the examples of splits filled in, and other images for
            those that stand for a cluster, or a part of one, where half of them or more are gone.
        splits: how splits divide clusters from now on, by the ids of their edits.
    """

    labels: np.ndarray
    origins: np.ndarray
    names: dict[int, str]
    names_by_id: dict[int, str]
    hidden: frozenset[int]
    hidden_ids: frozenset[int]
    placed: np.ndarray
    outcomes: tuple[Outcome, ...]
    edits: tuple[Edit, ...]
    splits: dict[str, SplitParts]

    @property
    def num_labels(self) -> int:
        """K'."""
        return len(self.origins)


def apply_edits(found: Clustering, edits: Sequence[Edit], *, seed: int = 0) -> Edited:
    """All edits in their order; same input, same result."""
    return _Application(found, seed).run(edits)


@dataclass
class _Placement:
    """Images that an edit put somewhere, for what is said of it in the end."""

    positions: np.ndarray
    targets: np.ndarray


@dataclass
class _Application:
    """The state between two edits. Labels of images are looked up through `alias`, so that a merge moves no image."""

    found: Clustering
    seed: int
    labels: np.ndarray = field(init=False)
    alias: np.ndarray = field(init=False)
    origins: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.labels = self.found.labels.astype(np.int32)
        self.alias = np.arange(len(self.found.centers))
        self.origins = list(range(len(self.found.centers)))
        self.names: dict[int, str] = {}
        self.names_by_id: dict[int, str] = {}
        self.classes: dict[str, int] = {}
        self.hidden: set[int] = set()
        self.hidden_ids: set[int] = set()
        self.placed = np.zeros(len(self.labels), dtype=bool)
        self.found_for: dict[str, list[np.ndarray]] = {}
        self.standing_in: dict[ClusterRef, np.ndarray] = {}
        self.split_centers: dict[str, np.ndarray] = {}
        self.label_of_name = {name.casefold(): label for label, name in self.found.names.items()}

    def run(self, edits: Sequence[Edit]) -> Edited:
        told = [self._apply(edit) for edit in edits]
        outcomes = [self._told(outcome, placement) for outcome, placement in told]
        filled = self._filled(edits)
        return Edited(
            self.alias[self.labels].astype(np.int32),
            np.array(self.origins),
            {int(self.alias[label]): name for label, name in self.names.items()},
            self.names_by_id,
            frozenset(int(self.alias[label]) for label in self.hidden),
            frozenset(self.hidden_ids),
            self.placed,
            tuple(outcomes),
            filled,
            {
                edit.id: SplitParts(edit.action.examples, self.split_centers[edit.id])
                for edit in filled
                if isinstance(edit.action, Split) and edit.action.examples and edit.id in self.split_centers
            },
        )

    def _apply(self, edit: Edit) -> tuple[Outcome, _Placement | None]:
        match edit.action:
            case Rename() | Hide():
                return self._describe(edit, edit.action), None
            case Merge():
                return self._merge(edit, edit.action), None
            case Split():
                return self._split(edit, edit.action)
            case Pin():
                return self._pin(edit, edit.action)
            case Apart():
                return self._part(edit, edit.action), None
            case Move() | Together() | Examples():
                return self._place(edit, edit.action)

    def _filled(self, edits: Sequence[Edit]) -> tuple[Edit, ...]:
        """The edits with the images that were found for them, whose ids are read all at a time."""
        found = [part for parts in self.found_for.values() for part in parts] + list(self.standing_in.values())
        if not found:
            return tuple(edits)
        positions = np.unique(np.concatenate(found))
        ids = dict(zip(positions.tolist(), self.found.image_ids_of(positions), strict=True))

        def named(part: np.ndarray) -> tuple[str, ...]:
            return tuple(ids[position] for position in part.tolist())

        def renewed(ref: ClusterRef) -> ClusterRef:
            part = self.standing_in.get(ref)
            return ref if part is None else ref.model_copy(update={"images": named(part)})

        filled = []
        for edit in edits:
            edit = edit.with_references(renewed)
            parts = [named(part) for part in self.found_for.get(edit.id, ())]
            if parts and isinstance(edit.action, Split):
                action = Split(cluster=edit.action.cluster, examples=tuple(parts))
                edit = edit.model_copy(update={"action": action})
            elif parts and isinstance(edit.action, Pin):
                edit = edit.model_copy(update={"action": edit.action.model_copy(update={"images": parts[0]})})
            filled.append(edit)
        return tuple(filled)

    def current(self, positions: np.ndarray) -> np.ndarray:
        return self.alias[self.labels[positions]]

    def members(self, label: int) -> np.ndarray:
        return np.flatnonzero((self.alias == label)[self.labels])

    def known(self, images: Sequence[str]) -> np.ndarray:
        found = self.found.positions
        return np.array([found[image] for image in images if image in found], dtype=np.int64)

    def resolve(self, reference: ClusterRef) -> int | None:
        """The label that holds most of the reference's images, or that has its id where it has none."""
        own = self._label_of_id(reference.id)
        if not reference.images:
            return own
        positions = self.known(reference.images)
        if not len(positions):
            return None
        label = self._majority(positions, own)
        if _is_used_up(positions, reference.images):
            self.standing_in[reference] = self._central(self.members(label), MAX_REFERENCE_IMAGES)
        return label

    def _central(self, positions: np.ndarray, count: int) -> np.ndarray:
        """Those of images that are nearest to their mean."""
        rows = self.found.embeddings_of(positions)
        return positions[np.argsort(-(rows @ rows.mean(axis=0)), kind="stable")[:count]]

    def _label_of_id(self, cluster_id: int) -> int | None:
        ids = self.found.cluster_ids
        if ids is None:  # of a first clustering, whose ids are its labels
            return int(self.alias[cluster_id]) if cluster_id < len(self.found.centers) else None
        (places,) = np.nonzero(ids == cluster_id)
        return int(self.alias[places[0]]) if len(places) else None

    def _majority(self, positions: np.ndarray, preferred: int | None = None) -> int:
        values, counts = np.unique(self.current(positions), return_counts=True)
        most = values[counts == counts.max()]
        return preferred if preferred is not None and preferred in most else int(most[0])

    def new_label(self, origin: int) -> int:
        label = len(self.alias)
        self.alias = np.append(self.alias, label)
        self.origins.append(self.origins[origin])
        return label

    def _describe(self, edit: Edit, action: Rename | Hide) -> Outcome:
        """A name or a mark. Those of nothing but an id are looked up once ids are given."""
        if not action.cluster.images:
            if isinstance(action, Rename):
                self.names_by_id[action.cluster.id] = action.name
            else:
                self.hidden_ids.add(action.cluster.id)
            return Outcome(edit, "applied", None)
        label = self.resolve(action.cluster)
        if label is None:
            return _waiting(edit)
        if isinstance(action, Rename):
            self._name(label, action.name)
        else:
            self.hidden.add(label)
        return Outcome(edit, "applied", label)

    def _name(self, label: int, name: str) -> None:
        self.names[label] = name
        self.label_of_name[name.casefold()] = label

    def _merge(self, edit: Edit, action: Merge) -> Outcome:
        resolved = [label for ref in action.clusters if (label := self.resolve(ref)) is not None]
        if not resolved:
            return _waiting(edit)
        target, *others = dict.fromkeys(resolved)
        for other in others:
            self.alias[self.alias == other] = target
            name = self.names.pop(other, None)
            if name is not None and target not in self.names:
                self._name(target, name)
            self.hidden.discard(other)
        if action.name is not None:
            self._name(target, action.name)
        missing = len(action.clusters) - len(resolved)
        note = f"{missing} of {len(action.clusters)} clusters are gone" if missing else ""
        if not others:
            note = note or "the clusters are one already"
        return Outcome(edit, "applied", target, note=note)

    def _split(self, edit: Edit, action: Split) -> tuple[Outcome, _Placement | None]:
        if action.examples is not None:
            parts = [self.known(images) for images in action.examples]
            num_named = len(edit.images)
        else:
            label = self.resolve(action.cluster)
            if label is None:
                return _waiting(edit), None
            assert action.into is not None
            members = self.members(label)
            rows = self.found.embeddings_of(members)
            parts = [members[np.sort(group)] for group in _central_rows(rows, action.into, seed=self.seed)]
            num_named = sum(map(len, parts))
            if len(parts) < 2:
                note = "waiting: its images are too few or too much alike"
                return Outcome(edit, "waiting", label, len(members), note=note), None
            self.found_for[edit.id] = parts
        centers = self._centers_of_parts(edit, parts)
        is_here = np.array([len(part) > 0 for part in parts])
        if not is_here.any():
            return _waiting(edit, num_missing=num_named), None
        parts = [part for part in parts if len(part)]
        targets = self._divide(parts, centers[is_here])
        for positions, target in zip(parts, targets, strict=True):
            self.labels[positions] = target
        if centers.any(axis=1).all():
            self.split_centers[edit.id] = centers
        if is_here.all() and any(map(_is_used_up, parts, action.examples or parts)):
            self.found_for[edit.id] = [self._central(self.members(target), _SPLIT_EXAMPLES) for target in targets]
        held = np.concatenate(parts)
        placement = _Placement(held, np.repeat(targets, [len(part) for part in parts]))
        return Outcome(edit, "applied", targets[0], num_named, num_named - len(held)), placement

    def _centers_of_parts(self, edit: Edit, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Unit rows (parts, D) by which a split divides: those that it has divided by before, else of its examples.

        Zero for a part of which neither is known.
        """
        width = self.found.centers.shape[1]
        rows = [self.found.embeddings_of(part) if len(part) else np.zeros((1, width)) for part in parts]
        own = np.stack([part.mean(axis=0, dtype=np.float32) for part in rows])
        own /= np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-12)
        before = self.found.splits.get(edit.id)
        if before is None or not isinstance(edit.action, Split) or before.examples != edit.action.examples:
            return own
        if before.centers.shape != own.shape:
            return own
        is_like = (before.centers * own).sum(axis=1) >= _MIN_COSINE
        return before.centers if is_like[own.any(axis=1)].all() else own

    def _divide(self, parts: Sequence[np.ndarray], centers: np.ndarray) -> list[int]:
        """A label for each part: those that are in one cluster by now share it out among them by their centres.

        The first keeps the label, whichever is larger tonight: the parts would change their ids otherwise.
        """
        targets = [self._majority(part) for part in parts]
        for label in sorted(set(targets)):
            sharing = [index for index, target in enumerate(targets) if target == label]
            if len(sharing) < 2:
                continue
            members = self.members(label)
            nearest = nearest_centers(self.found.embeddings_of(members), centers[sharing])
            for place, index in enumerate(sharing):
                if place:
                    targets[index] = self.new_label(label)
                self.labels[members[nearest == place]] = targets[index]
        return targets

    def _pin(self, edit: Edit, action: Pin) -> tuple[Outcome, _Placement | None]:
        if action.images is None:
            label = self.resolve(action.cluster)
            members = np.empty(0, dtype=np.int64) if label is None else self.members(label)
            if not len(members):
                return _waiting(edit), None
            self.found_for[edit.id] = [members]
            return Outcome(edit, "applied", label, len(members)), None
        positions = self.known(action.images)
        if not len(positions):
            return _waiting(edit, num_missing=len(action.images)), None
        label = self._majority(positions, self._label_of_id(action.cluster.id))
        outcome = Outcome(edit, "applied", label, len(action.images), len(action.images) - len(positions))
        others = np.setdiff1d(self.members(label), positions)
        self.labels[positions] = label
        self._send_away(others, {label})
        return outcome, _Placement(positions, np.full(len(positions), label))

    def _send_away(self, positions: np.ndarray, forbidden: Set[int]) -> None:
        """Put images into the next best cluster that is not forbidden."""
        barred = list(forbidden)
        second = self.alias[self.found.runner_up[positions]]
        is_free = ~np.isin(second, barred)
        self.labels[positions[is_free]] = second[is_free]
        rest = positions[~is_free]
        if not len(rest):
            return
        centers = self.found.centers
        is_open = np.flatnonzero(centers.any(axis=1) & ~np.isin(self.alias[: len(centers)], barred))
        if not len(is_open):
            self.labels[rest] = self.new_label(barred[0])
            return
        nearest = nearest_centers(self.found.embeddings_of(rest), centers[is_open])
        self.labels[rest] = self.alias[is_open[nearest]]

    def _part(self, edit: Edit, action: Apart) -> Outcome:
        parts = [self.known(part) for part in action.parts]
        count = sum(map(len, parts))
        missing = len(edit.images) - count
        if sum(len(part) > 0 for part in parts) < 2:
            return _waiting(edit, num_missing=missing)
        taken: set[int] = set()
        num_moved = 0
        for part in parts:
            clashing = part[np.isin(self.current(part), list(taken))]
            if len(clashing):
                self._send_away(clashing, taken)
                self.placed[clashing] = True
                num_moved += len(clashing)
            taken |= set(self.current(part).tolist())
        return Outcome(edit, "applied", None, len(edit.images), missing, num_moved)

    def _place(self, edit: Edit, action: Move | Together | Examples) -> tuple[Outcome, _Placement | None]:
        positions = self.known(action.images)
        missing = len(action.images) - len(positions)
        if not len(positions):
            return _waiting(edit, num_missing=missing), None
        match action:
            case Move():
                label = self.resolve(action.to)
            case Together():
                label = self._majority(positions)
            case Examples():
                label = self._label_of_class(edit, action, positions)
        if label is None:
            return _waiting(edit), None
        self.labels[positions] = label
        self.placed[positions] = True
        outcome = Outcome(edit, "applied", label, len(action.images), missing)
        return outcome, _Placement(positions, np.full(len(positions), label))

    def _label_of_class(self, edit: Edit, action: Examples, positions: np.ndarray) -> int | None:
        """The cluster of a class: the one with its name, the one that has learned it, or a new one."""
        if isinstance(action.of, ClusterRef):
            return self.resolve(action.of)
        key = action.of.casefold()
        label = self.classes.get(key)
        if label is None and edit.id in self.found.learned:
            most = self._majority(positions)
            label = None if most in {int(self.alias[taken]) for taken in self.classes.values()} else most
        if label is None:
            label = self.label_of_name.get(key)
        if label is None:
            label = self.new_label(self._majority(positions))
        label = int(self.alias[label])
        self.classes[key] = label
        self._name(label, action.of)
        return label

    def _told(self, outcome: Outcome, placement: _Placement | None) -> Outcome:
        """The outcome with what became of it by the edits behind it."""
        label = None if outcome.label is None else int(self.alias[outcome.label])
        if placement is None:
            return replace(outcome, label=label)
        targets = self.alias[placement.targets]
        overruled = int((self.current(placement.positions) != targets).sum())
        by_data = self.alias[self.found.labels[placement.positions]]
        elsewhere = 0 if isinstance(outcome.edit.action, Split) else int((by_data != targets).sum())
        state: State = "overruled" if overruled == len(targets) else outcome.state
        return replace(outcome, label=label, state=state, num_elsewhere=elsewhere, num_overruled=overruled)


def _waiting(edit: Edit, *, num_missing: int = 0) -> Outcome:
    what = "too few of its images are" if num_missing else "a cluster that it names is not"
    return Outcome(edit, "waiting", None, len(edit.images), num_missing, note=f"waiting: {what} here now")


def _is_used_up(positions: np.ndarray, images: Sized) -> bool:
    """Whether so many of the images that stand for a cluster are gone that others should do so from now on."""
    return 2 * len(positions) <= len(images)


def _central_rows(rows: np.ndarray, num_parts: int, *, seed: int) -> list[np.ndarray]:
    """Rows (n, D) cut into parts by k-means: of each the few nearest to its centre, the largest part first."""
    if len(rows) < num_parts:
        return []
    labels = spherical_kmeans(rows, num_parts, num_restarts=2, num_iterations=30, seed=seed).labels
    parts = [np.flatnonzero(labels == part) for part in range(num_parts)]
    found = []
    for members in sorted((part for part in parts if len(part)), key=len, reverse=True):
        center = rows[members].mean(axis=0)
        found.append(members[np.argsort(-(rows[members] @ center), kind="stable")[:_SPLIT_EXAMPLES]])
    return found
