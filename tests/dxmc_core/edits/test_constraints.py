"""What a full clustering is told of edits."""

import numpy as np

from dxmc_core.edits.constraints import constraints_of
from dxmc_core.edits.model import Edit
from dxmc_core.method.best.constraints import Constraints

POSITIONS = {image: position for position, image in enumerate("abcdefgh")}


def found(*actions: dict) -> Constraints | None:
    head = {"author": "ann", "at": "2026-11-30T12:00:00Z"}
    edits = [Edit.model_validate({"id": f"{n:08x}", **head, **action}) for n, action in enumerate(actions)]
    return constraints_of(edits, POSITIONS)


def told(constraints: Constraints | None) -> tuple[set[str], set[tuple[str, str]]]:
    """Groups as letters, and which are apart."""
    assert constraints is not None
    letters = ["".join("abcdefgh"[row] for row in constraints.rows[constraints.groups == group]) for group in
               range(len(constraints.apart))]  # fmt: skip
    pairs = {tuple(sorted((letters[i], letters[j]))) for i, j in zip(*np.nonzero(constraints.apart), strict=True)}
    return set(letters), pairs  # type: ignore[return-value]


def test_every_kind() -> None:
    assert told(found({"together": {"images": ["a", "b"]}}, {"together": {"images": ["b", "c", "gone"]}})) == (
        {"abc"},
        set(),
    )
    assert told(found({"apart": {"images": ["a", "b"]}})) == ({"a", "b"}, {("a", "b")})
    assert told(found({"apart": {"groups": [["a", "b"], ["c"]]}})) == ({"a", "b", "c"}, {("a", "c"), ("b", "c")})
    assert told(found({"merge": {"clusters": [{"id": 1, "images": ["a", "b"]}, {"id": 2, "images": ["c"]}]}})) == (
        {"abc"}, set(),
    )  # fmt: skip
    assert told(found({"move": {"images": ["a"], "to": {"id": 1, "images": ["b", "c"]}}})) == ({"abc"}, set())
    assert told(found({"split": {"cluster": 1, "examples": [["a", "b"], ["c"]]}})) == ({"ab", "c"}, {("ab", "c")})
    assert told(found({"pin": {"cluster": 1, "images": ["a", "b"]}})) == ({"ab"}, set())


def test_examples_of_different_classes_are_apart() -> None:
    actions = [
        {"examples": {"of": "cats", "images": ["a"]}},
        {"examples": {"of": "Cats", "images": ["b"]}},
        {"examples": {"of": "dogs", "images": ["c"]}},
        {"examples": {"of": "cars", "images": ["d", "gone"]}},
    ]
    assert told(found(*actions)) == ({"ab", "c", "d"}, {("ab", "c"), ("ab", "d"), ("c", "d")})


def test_the_later_of_two_that_contradict_one_another_counts() -> None:
    merge = {"merge": {"clusters": [{"id": 1, "images": ["a", "b"]}, {"id": 2, "images": ["c", "d"]}]}}
    apart = {"apart": {"images": ["a", "c"]}}
    groups, pairs = told(found(merge, apart))
    assert ("c" in next(group for group in groups if "a" in group)) is False
    assert len(pairs) == 1
    assert told(found(apart, merge)) == ({"abcd"}, set())


def test_names_and_what_is_gone_say_nothing() -> None:
    assert found({"rename": {"cluster": {"id": 1, "images": ["a", "b"]}, "name": "x"}}) is None
    assert found({"together": {"images": ["x", "y"]}}, {"examples": {"of": "x", "images": ["a"]}}) is None
