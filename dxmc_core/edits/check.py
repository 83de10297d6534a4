"""Contradictions among edits that show without looking at any image or cluster."""

from collections.abc import Iterator, Sequence

from dxmc_core.edits.model import Apart, ClusterRef, Edit, Examples, Together


def contradictions(edits: Sequence[Edit]) -> Iterator[tuple[int, str]]:
    """What contradicts an earlier edit: the number of the edit, from 1, and what to tell a person of it."""
    numbers: dict[str, int] = {}
    links = _Links()
    for number, edit in enumerate(edits, start=1):
        other = numbers.setdefault(edit.id, number)
        if other != number:
            yield number, f"has the id {edit.id} of edit {other}; every edit needs its own"
        action = edit.action
        if isinstance(action, Together):
            links.join(action.images)
        elif isinstance(action, Examples):
            links.join((f"\0{_class_of(action)}", *action.images))
    yield from _classes(edits, links)
    yield from _parted(edits, links)


def _class_of(action: Examples) -> str | int:
    """What tells a class from others: the id of a cluster, or a name."""
    return action.of.id if isinstance(action.of, ClusterRef) else action.of.casefold()


class _Links:
    """Images that belong into one cluster by what was said (disjoint sets)."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def root_of(self, image: str) -> str:
        root = image
        while (parent := self._parents.get(root, root)) != root:
            root = parent
        while image != root:  # the way is shorter next time
            self._parents[image], image = root, self._parents[image]
        return root

    def join(self, images: Sequence[str]) -> None:
        first = self.root_of(images[0])
        self._parents.setdefault(first, first)
        for image in images[1:]:
            self._parents[self.root_of(image)] = first


def _classes(edits: Sequence[Edit], links: _Links) -> Iterator[tuple[int, str]]:
    known: dict[str, tuple[object, int]] = {}
    for number, edit in enumerate(edits, start=1):
        if not isinstance(edit.action, Examples):
            continue
        key = _class_of(edit.action)
        for image in edit.action.images:
            before, other = known.setdefault(links.root_of(image), (key, number))
            if before != key:
                yield number, f"examples: {image!r} is of {key!r} here, and of {before!r} by edit {other}; undo one"
                break


def _parted(edits: Sequence[Edit], links: _Links) -> Iterator[tuple[int, str]]:
    for number, edit in enumerate(edits, start=1):
        if not isinstance(edit.action, Apart):
            continue
        seen: dict[str, tuple[int, str]] = {}
        for part, images in enumerate(edit.action.parts):
            for image in images:
                other, first = seen.setdefault(links.root_of(image), (part, image))
                if other != part:
                    yield number, f"apart: {first!r} and {image!r} belong together by other edits; undo one of them"
                    break
