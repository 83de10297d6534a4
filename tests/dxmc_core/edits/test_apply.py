"""Edits on a small clustering in the plane, each kind by itself and against one another."""

from dataclasses import replace

import numpy as np
import pytest

from dxmc_core.edits.apply import Clustering, Edited, SplitParts, apply_edits
from dxmc_core.edits.model import Edit

#: Images of a circle by their angles, in three clusters of four.
ANGLES = {
    "a": 0, "b": 2, "c": 20, "d": 22,
    "e": 100, "f": 102, "g": 120, "h": 122,
    "i": 200, "j": 202, "k": 220, "l": 222,
}  # fmt: skip
IMAGES = list(ANGLES)
ROWS = np.stack([[np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))] for angle in ANGLES.values()])
LABELS = np.repeat([0, 1, 2], 4)
REF = {number: {"id": 10 + number, "images": IMAGES[4 * number : 4 * number + 4]} for number in range(3)}


def edit(number: int = 1, **action: object) -> Edit:
    head = {"id": f"{number:08x}", "author": "ann", "at": "2026-11-30T12:00:00Z"}
    return Edit.model_validate({**head, **action})


def clustering(labels: np.ndarray = LABELS, *, ids: bool = True, learned: frozenset[str] = frozenset()) -> Clustering:
    count = int(labels.max()) + 1
    sums = np.stack([ROWS[labels == label].sum(axis=0) for label in range(count)])
    centers = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    scores = ROWS @ centers.T
    scores[np.arange(len(labels)), labels] = -2
    return Clustering(
        labels.astype(np.int32),
        scores.argmax(axis=1).astype(np.int32),
        centers,
        np.arange(10, 10 + count) if ids else None,
        {0: "cats", 1: "dogs", 2: "cars"},
        {image: position for position, image in enumerate(IMAGES)},
        lambda positions: ROWS[positions].astype(np.float16),
        lambda positions: [IMAGES[position] for position in positions],
        learned,
    )


def groups(edited: Edited) -> set[str]:
    """The clusters as the letters of their images."""
    found: dict[int, str] = {}
    for image, label in zip(IMAGES, edited.labels.tolist(), strict=True):
        found[label] = found.get(label, "") + image
    return set(found.values())


def applied(*actions: dict, labels: np.ndarray = LABELS, **options: object) -> Edited:
    edits = [edit(number, **action) for number, action in enumerate(actions, start=1)]
    return apply_edits(clustering(labels, **options), edits)


def test_without_edits_nothing_changes() -> None:
    edited = applied()
    assert np.array_equal(edited.labels, LABELS)
    assert not edited.placed.any()


def test_rename_and_hide() -> None:
    edited = applied({"rename": {"cluster": REF[1], "name": "<b>wolves</b>"}}, {"hide": {"cluster": REF[2]}})
    assert edited.names == {1: "<b>wolves</b>"}
    assert edited.hidden == {2}
    assert np.array_equal(edited.labels, LABELS)


def test_a_name_for_an_id_alone_waits_for_ids() -> None:
    edited = applied({"rename": {"cluster": 99, "name": "x"}}, {"hide": {"cluster": 98}})
    assert (edited.names_by_id, edited.hidden_ids) == ({99: "x"}, {98})


def test_merge_keeps_the_first_and_its_name() -> None:
    edited = applied({"rename": {"cluster": REF[0], "name": "lions"}}, {"merge": {"clusters": [REF[2], REF[0]]}})
    assert groups(edited) == {"abcdijkl", "efgh"}
    assert edited.labels[0] == 2
    assert edited.names == {2: "lions"}


def test_split_by_number_becomes_examples_that_give_the_same_again() -> None:
    edited = applied({"split": {"cluster": REF[0], "into": 2}})
    assert groups(edited) == {"ab", "cd", "efgh", "ijkl"}
    assert edited.origins.tolist() == [0, 1, 2, 0]
    (filled,) = edited.edits
    assert filled.action.examples is not None  # type: ignore[union-attr]
    again = apply_edits(clustering(), [filled])
    assert np.array_equal(again.labels, edited.labels)


def test_split_by_examples_finds_the_parts_also_where_the_data_have_parted_them() -> None:
    split = {"split": {"cluster": REF[0], "examples": [["a"], ["c"]]}}
    assert groups(applied(split)) == {"ab", "cd", "efgh", "ijkl"}
    parted = np.array([0, 0, 3, 3, 1, 1, 1, 1, 2, 2, 2, 2])
    edited = applied(split, labels=parted)
    assert np.array_equal(edited.labels, parted)


def test_the_border_of_a_split_stays_when_examples_leave() -> None:
    """It lies at 36 degrees, between a and the mean of c and h; without h it would lie at 10, and d beyond it."""
    joined = clustering(np.array([0] * 8 + [1] * 4))
    split = edit(split={"cluster": REF[0], "examples": [["a"], ["c", "h"]]})
    first = apply_edits(joined, [split])
    assert groups(first) == {"abd", "cefgh", "ijkl"}
    left = {image: place for image, place in joined.positions.items() if image != "h"}
    assert groups(apply_edits(replace(joined, positions=left), [split])) == {"ab", "cdefgh", "ijkl"}
    kept = apply_edits(replace(joined, positions=left, splits=first.splits), [split])
    assert groups(kept) == groups(first)
    assert kept.edits != (split,)  # others stand in for those that are gone
    again = apply_edits(replace(joined, splits=kept.splits), kept.edits)
    assert groups(again) == groups(first)


def test_the_border_of_a_split_is_drawn_anew_for_other_examples_or_embeddings() -> None:
    split = edit(split={"cluster": REF[0], "examples": [["a"], ["d"]]})
    first = apply_edits(clustering(), [split])
    (kept,) = first.splits.values()
    turned = SplitParts(kept.examples, kept.centers @ np.array([[0, 1], [-1, 0]], np.float32))
    wider = SplitParts(kept.examples, np.eye(3, dtype=np.float32)[:2])
    others = SplitParts((("a",), ("b",)), kept.centers[::-1])
    for before in (turned, wider, others):
        assert groups(apply_edits(replace(clustering(), splits={split.id: before}), [split])) == groups(first)


def test_a_cluster_of_equal_images_cannot_be_split() -> None:
    alone = {"id": 10, "images": ["a"]}
    edited = applied({"move": {"images": ["b", "c", "d"], "to": REF[1]}}, {"split": {"cluster": alone, "into": 3}})
    outcome = edited.outcomes[1]
    assert outcome.state == "waiting"
    assert outcome.message == "waiting: its images are too few or too much alike"


def test_move_and_what_the_data_say() -> None:
    edited = applied({"move": {"images": ["a", "e"], "to": REF[1]}})
    assert groups(edited) == {"bcd", "aefgh", "ijkl"}
    (outcome,) = edited.outcomes
    assert outcome.message == "1 of 2 is in another cluster by the data alone"
    assert edited.placed.nonzero()[0].tolist() == [0, 4]


def test_the_later_of_two_moves_holds_and_the_first_is_said_to_be_overruled() -> None:
    edited = applied({"move": {"images": ["a"], "to": REF[1]}}, {"move": {"images": ["a"], "to": REF[2]}})
    assert groups(edited) == {"bcd", "efgh", "aijkl"}
    first, second = edited.outcomes
    assert (first.state, second.state) == ("overruled", "applied")
    assert "1 of 1 is elsewhere by a later edit" in first.message


def test_together_goes_where_most_are() -> None:
    assert groups(applied({"together": {"images": ["a", "e", "f"]}})) == {"bcd", "aefgh", "ijkl"}


def test_apart_sends_the_later_one_to_the_next_best_cluster() -> None:
    assert groups(applied({"apart": {"images": ["a", "d"]}})) == {"abc", "defgh", "ijkl"}
    edited = applied({"apart": {"groups": [["a"], ["c", "d"], ["e"]]}})
    assert {"a", "c", "e"} == {group[0] for group in groups(edited) if group[0] in "ace"}


def test_apart_in_a_single_cluster_makes_a_new_one() -> None:
    edited = applied({"merge": {"clusters": [REF[0], REF[1], REF[2]]}}, {"apart": {"images": ["a", "l"]}})
    assert groups(edited) == {"abcdefghijk", "l"}


def test_examples_go_to_the_cluster_of_that_name_or_to_a_new_one() -> None:
    edited = applied(
        {"examples": {"of": "Dogs", "images": ["a"]}},
        {"examples": {"of": "puppies", "images": ["e", "f"]}},
        {"examples": {"of": "puppies", "images": ["i"]}},
        {"examples": {"of": REF[2], "images": ["h"]}},
    )
    assert groups(edited) == {"bcd", "ag", "efi", "hjkl"}
    assert edited.names == {1: "Dogs", 3: "puppies"}
    assert edited.origins[3] == 1


def test_a_class_that_was_learned_has_the_cluster_of_its_examples() -> None:
    learned = frozenset({"00000001", "00000002"})
    edited = applied(
        {"examples": {"of": "lions", "images": ["a", "b", "e"]}},
        {"examples": {"of": "tigers", "images": ["c"]}},
        learned=learned,
    )
    assert groups(edited) == {"abde", "c", "fgh", "ijkl"}
    assert edited.names == {0: "lions", 3: "tigers"}
    assert edited.outcomes[0].num_elsewhere == 1


def test_pin_fills_in_its_images_and_keeps_them_through_another_clustering() -> None:
    edited = applied({"pin": {"cluster": REF[0]}})
    (filled,) = edited.edits
    assert filled.images == ("a", "b", "c", "d")
    other = np.array([0, 0, 0, 1, 0, 1, 1, 1, 2, 2, 2, 2])
    again = apply_edits(clustering(other), [filled])
    assert groups(again) == {"abcd", "efgh", "ijkl"}


def test_a_later_edit_changes_what_is_pinned() -> None:
    assert groups(applied({"pin": {"cluster": REF[0]}}, {"move": {"images": ["e"], "to": REF[0]}})) == {
        "abcde",
        "fgh",
        "ijkl",
    }


def test_references_follow_their_images_through_other_labels() -> None:
    other = np.array([2, 2, 2, 0, 0, 0, 0, 0, 1, 1, 1, 1])
    edited = applied(
        {"rename": {"cluster": REF[0], "name": "lions"}}, {"merge": {"clusters": [REF[0], REF[2]]}}, labels=other
    )
    assert groups(edited) == {"abcijkl", "defgh"}
    assert edited.names == {2: "lions"}


def test_other_images_stand_for_a_cluster_once_half_of_them_are_gone() -> None:
    gone = {"id": 10, "images": ["a", "gone", "went"]}
    edited = applied(
        {"merge": {"clusters": [REF[1], gone]}},
        {"rename": {"cluster": {"id": 12, "images": ["i", "j", "gone"]}, "name": "cars"}},
        {"split": {"cluster": REF[2], "examples": [["i", "gone"], ["k", "l"]]}},
    )
    assert groups(edited) == {"abcdefgh", "ij", "kl"}
    merge, rename, split = (one.action for one in edited.edits)
    assert sorted(merge.clusters[1].images) == ["a", "b", "c", "d"]  # as it was before it was merged
    assert (merge.clusters[0].images, rename.cluster.images) == (tuple(REF[1]["images"]), ("i", "j", "gone"))
    assert [sorted(part) for part in split.examples] == [["i", "j"], ["k", "l"]]
    assert [one.essence for one in edited.edits] == [
        edit(number, **action).essence
        for number, action in enumerate(
            (
                {"merge": {"clusters": [REF[1], gone]}},
                {"rename": {"cluster": {"id": 12, "images": ["i", "j", "gone"]}, "name": "cars"}},
                {"split": {"cluster": REF[2], "examples": [["i", "gone"], ["k", "l"]]}},
            ),
            start=1,
        )
    ]


def test_cycles_end() -> None:
    edited = applied({"merge": {"clusters": [REF[0], REF[1]]}}, {"merge": {"clusters": [REF[1], REF[0]]}})
    assert groups(edited) == {"abcdefgh", "ijkl"}
    assert edited.outcomes[1].message == "the clusters are one already"


@pytest.mark.parametrize(
    "action",
    [
        {"rename": {"cluster": {"id": 0, "images": ["x"]}, "name": "x"}},
        {"hide": {"cluster": {"id": 0, "images": ["x"]}}},
        {"pin": {"cluster": {"id": 0, "images": ["x"]}}},
        {"merge": {"clusters": [{"id": 0, "images": ["x"]}, {"id": 1, "images": ["y"]}]}},
        {"split": {"cluster": {"id": 0, "images": ["x"]}, "into": 2}},
        {"split": {"cluster": 50, "examples": [["x"], ["y"]]}},
        {"move": {"images": ["x"], "to": REF[0]}},
        {"move": {"images": ["a"], "to": {"id": 0, "images": ["x"]}}},
        {"together": {"images": ["x", "y"]}},
        {"apart": {"images": ["a", "y"]}},
        {"examples": {"of": "x", "images": ["x"]}},
    ],
)
@pytest.mark.parametrize("ids", [True, False])
def test_edits_of_another_run_change_nothing_and_say_why(action: dict, ids: bool) -> None:
    edited = applied(action, ids=ids)
    assert np.array_equal(edited.labels, LABELS)
    assert [edited.names, edited.names_by_id, edited.hidden, edited.hidden_ids] == [{}, {}, frozenset(), frozenset()]
    assert edited.outcomes[0].state == "waiting"
    assert edited.outcomes[0].message.startswith("waiting: ")
