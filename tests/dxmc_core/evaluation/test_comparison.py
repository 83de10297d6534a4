"""Two runs over the same images: agreement by image_id, whatever the clusters are called."""

import pytest

from dxmc_core.errors import ArtifactError, InputError
from dxmc_core.evaluation.comparison import compare_runs

SAME_OTHER_NUMBERS = (2,) * 4 + (0,) * 4 + (1,) * 4
THREE_MOVED = (1, 1, 0, 0) + (1,) * 4 + (2,) * 3 + (1,)


def test_the_same_clusters_under_other_numbers_agree_fully(make_color_run):
    first, second = make_color_run("a", files=False), make_color_run("b", files=False, clusters=SAME_OTHER_NUMBERS)
    result = compare_runs(first.run_dir, second.run_dir)
    assert result["agreement"] == {"matched_share": 1.0, "nmi": pytest.approx(1), "ari": 1.0}
    assert (result["common_images"], result["only_in"]) == (12, [0, 0])
    assert [row["moved"] for row in result["changed_clusters"]] == [0, 0, 0]
    assert [run["external"]["acc"] for run in result["scores"]] == [1.0, 1.0]


def test_clusters_that_changed_come_first_with_where_images_went(make_color_run):
    first, second = make_color_run("a", files=False), make_color_run("b", files=False, clusters=THREE_MOVED)
    result = compare_runs(first.run_dir, second.run_dir)
    assert result["agreement"]["matched_share"] == pytest.approx(9 / 12)
    assert [(row["name"], row["moved"]) for row in result["changed_clusters"]] == [
        ("red", 2),
        ("blue", 1),
        ("green", 0),
    ]
    red = result["changed_clusters"][0]
    assert red["matched"] == {"cluster_id": 0, "name": "red", "images": 2}
    assert red["moved_to"] == [{"cluster_id": 1, "name": "green", "images": 2}]


def test_only_images_of_both_are_compared_and_order_does_not_matter(make_color_run):
    ids = [f"{row}.png" for row in range(12)]
    first = make_color_run("a", files=False, image_ids=ids)
    second = make_color_run("b", files=False, image_ids=[*ids[:9], "x", "y", "z"])
    result = compare_runs(first.run_dir, second.run_dir)
    assert (result["common_images"], result["only_in"]) == (9, [3, 3])
    assert result["agreement"]["matched_share"] == 1.0
    turned = make_color_run("c", files=False, image_ids=ids[::-1])
    assert compare_runs(first.run_dir, turned.run_dir)["agreement"]["matched_share"] == 1.0


def test_clusters_without_a_partner(make_color_run):
    first, second = make_color_run("a", files=False), make_color_run("b", files=False, clusters=(0,) * 8 + (2,) * 4)
    changed = compare_runs(first.run_dir, second.run_dir)["changed_clusters"]
    assert [row["matched"] is None for row in changed] == [True, False, False]
    assert changed[0]["moved"] == 4


def test_runs_without_a_common_image(make_color_run, tmp_path):
    first = make_color_run("a", files=False)
    other = make_color_run("b", files=False, image_ids=[str(row) for row in range(12)])
    with pytest.raises(InputError, match=r"no image_id in common: red/0.png is one of the first, 0 one of the second"):
        compare_runs(first.run_dir, other.run_dir)
    with pytest.raises(ArtifactError, match="run assign_clusters first"):
        compare_runs(first.run_dir, type(first.run_dir).at(str(tmp_path / "none")))
