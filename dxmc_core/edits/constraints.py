"""What edits say of images for a full clustering: groups that belong together, and groups that belong apart."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dxmc_core.edits.model import Apart, ClusterRef, Edit, Examples, Merge, Move, Pin, Split, Together
from dxmc_core.method.best.constraints import Constraints


def constraints_of(edits: Sequence[Edit], positions: Mapping[str, int]) -> Constraints | None:
    """What edits say of images that there are; None where that is nothing.

    Later edits come first: what an earlier one says against them is left out.

    Args:
        positions: 0..N-1 of images by image_id; of those that edits name, at least those that there are.
    """
    groups = _Groups(positions)
    for edit in reversed(edits):
        action = edit.action
        match action:
            case Together():
                groups.join(action.images)
            case Examples():
                of = action.of
                named = of.images if isinstance(of, ClusterRef) else (_class_token(of),)
                groups.join((*named, *action.images))
            case Move():
                groups.join((*action.to.images, *action.images))
            case Merge():
                groups.join([image for ref in action.clusters for image in ref.images])
            case Pin():
                groups.join(action.images or action.cluster.images)
            case Split():
                for part in action.examples or ():
                    groups.join(part)
                groups.part_all(action.examples or ())
            case Apart():
                groups.part_all(action.parts)
    actions = [edit.action for edit in edits]
    classes = {_class_token(act.of) for act in actions if isinstance(act, Examples) and isinstance(act.of, str)}
    groups.part(sorted(classes))
    return groups.constraints()


def _class_token(name: object) -> str:
    """Stands for a class among the images."""
    return f"\0{str(name).casefold()}"


class _Groups:
    """Disjoint sets of images, and which of them are apart."""

    def __init__(self, positions: Mapping[str, int]) -> None:
        self._positions = positions
        self._parents: dict[str, str] = {}
        self._apart: dict[str, set[str]] = {}

    def _root_of(self, image: str) -> str:
        self._parents.setdefault(image, image)
        root = image
        while self._parents[root] != root:
            root = self._parents[root]
        while image != root:
            self._parents[image], image = root, self._parents[image]
        return root

    def _are_there(self, images: Iterable[str]) -> list[str]:
        return [image for image in images if image in self._positions or image.startswith("\0")]

    def join(self, images: Iterable[str]) -> None:
        """Put images into one group, but for those that are known to be apart from the first ones."""
        present = self._are_there(images)
        for image in present:
            kept, gone = self._root_of(present[0]), self._root_of(image)
            if kept == gone or gone in self._apart.get(kept, ()):
                continue
            self._parents[gone] = kept
            for enemy in self._apart.pop(gone, set()):
                self._apart[enemy].discard(gone)
                self._set_apart(kept, enemy)

    def part(self, images: Iterable[str]) -> None:
        """Set the groups of images apart, each from all others, but for those that are one."""
        self.part_all([(image,) for image in images])

    def part_all(self, parts: Iterable[Iterable[str]]) -> None:
        roots = [{self._root_of(image) for image in self._are_there(part)} for part in parts]
        for place, part in enumerate(roots):
            for other in roots[:place]:
                for first in part:
                    for second in other:
                        if first != second:
                            self._set_apart(first, second)

    def _set_apart(self, first: str, second: str) -> None:
        self._apart.setdefault(first, set()).add(second)
        self._apart.setdefault(second, set()).add(first)

    def constraints(self) -> Constraints | None:
        members: dict[str, list[int]] = {}
        for image in self._parents:
            found = members.setdefault(self._root_of(image), [])
            if image in self._positions:
                found.append(self._positions[image])
        telling = [root for root, rows in members.items() if len(rows) > 1 or (rows and self._apart.get(root))]
        if not telling:
            return None
        numbers = {root: number for number, root in enumerate(telling)}
        rows = np.array([row for root in telling for row in members[root]], dtype=np.int64)
        groups = np.repeat(np.arange(len(telling)), [len(members[root]) for root in telling])
        apart = np.zeros((len(telling), len(telling)), dtype=bool)
        for root, number in numbers.items():
            for other in self._apart.get(root, ()):
                if other in numbers:
                    apart[number, numbers[other]] = apart[numbers[other], number] = True
        order = np.argsort(rows)
        return Constraints(rows[order], groups[order], apart)
