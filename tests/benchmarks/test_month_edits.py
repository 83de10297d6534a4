"""Whether a correction holds, judged from assignments and names."""

import month_edits as module
import pytest

from dxmc_core.edits.model import Edit

REFERENCE = {"id": 0, "images": ["a", "b", "c"]}
OTHER = {"id": 1, "images": ["d", "e"]}
HOLDING = {"a": 0, "b": 0, "c": 0, "d": 1, "e": 1, "f": 2}


def edit(**action):
    return Edit.model_validate({"id": "0" * 8, "author": "ann", "at": "2026-11-30T12:00:00Z", **action})


@pytest.mark.parametrize(
    ("action", "moved"),
    [
        ({"split": {"cluster": REFERENCE, "examples": [["a", "b"], ["d"]]}}, {"d": 0}),
        ({"split": {"cluster": REFERENCE, "examples": [["a", "b"], ["d"]]}}, {"b": 2}),
        ({"move": {"images": ["c"], "to": REFERENCE}}, {"c": 1}),
        ({"pin": {"cluster": REFERENCE, "images": ["a", "b", "c"]}}, {"f": 0}),
        ({"pin": {"cluster": REFERENCE, "images": ["a", "b", "c"]}}, {"c": 1}),
        ({"examples": {"of": "two", "images": ["f"]}}, {"f": 1}),
        ({"merge": {"clusters": [REFERENCE, {"id": 5, "images": ["a"]}]}}, {"a": 2}),
        ({"rename": {"cluster": OTHER, "name": "one"}}, {"d": 0, "e": 0}),
        ({"hide": {"cluster": OTHER}}, {"d": 0, "e": 0}),
    ],
)
def test_what_does_not_hold_is_found(action, moved):
    names = {0: "zero", 1: "one", 2: "two"}
    edits = [edit(**action)]
    assert module.broken(edits, module.Seen(HOLDING, names, {1})) == []
    assert len(module.broken(edits, module.Seen({**HOLDING, **moved}, names, {1}))) == 1


def test_images_that_are_gone_break_nothing():
    edits = [edit(pin={"cluster": OTHER, "images": ["d", "e"]}), edit(move={"images": ["c"], "to": OTHER})]
    assert module.broken(edits, module.Seen({"a": 0, "b": 0}, {0: "zero"}, frozenset())) == []


def test_five_times_of_clusters_that_nothing_was_said_of():
    seen = module.Seen({f"{label}{number}": label for label in range(8) for number in range(label + 6)}, {}, set())
    assert module.corrections(0, seen, []) == [["merge", "0", "6", "--name", "one thing"]]
    assert module.corrections(1, seen, [edit(rename={"cluster": {"id": 7, "images": ["70"]}, "name": "x"})]) == [
        ["split", "6", "--into", "2"]
    ]
    kinds = [typed[0] for turn in (2, 3, 4) for typed in module.corrections(turn, seen, [])]
    assert kinds == ["move", "rename", "pin", "hide", "examples"]
