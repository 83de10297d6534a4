"""Scores of a run: labels from the catalog, from a file, or none."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.errors import ArtifactError, InputError
from dxmc_core.evaluation.scores import evaluate_run, without_unlabelled

#: The first green image went to the red ones.
ONE_MOVED = (0,) * 4 + (0, 1, 1, 1) + (2,) * 4


def test_labels_of_the_source(make_color_run):
    result = evaluate_run(make_color_run(files=False, clusters=ONE_MOVED).run_dir, with_names=True)
    assert (result["images"], result["clusters"], result["labelled_images"]) == (12, 3, 12)
    assert result["external"]["acc"] == pytest.approx(11 / 12)
    assert 0 < result["external"]["ari"] < result["external"]["acc"]
    assert {relation: count for relation, count in result["names"].items() if count} == {"equal": 3}


def test_without_labels_there_are_label_free_scores_only(make_color_run):
    result = evaluate_run(make_color_run(files=False, labels=False).run_dir)
    assert "external" not in result
    assert -1 <= result["label_free"]["silhouette"] <= 1


def test_labels_of_a_file_may_cover_a_part(make_color_run, tmp_path):
    run = make_color_run(files=False, labels=False)
    labels = {run.image_ids[0]: "q1", run.image_ids[1]: "q1", run.image_ids[8]: "q2", "elsewhere": "q3"}
    (tmp_path / "labels.csv").write_text("image_id,label\n" + "".join(f"{i},{label}\n" for i, label in labels.items()))
    result = evaluate_run(run.run_dir, labels_uri=str(tmp_path / "labels.csv"), with_names=True)
    assert result["labelled_images"] == 3
    assert result["external"] == {"acc": 1.0, "nmi": 1.0, "ari": 1.0}
    assert "names" not in result  # no label is a noun of WordNet


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["0", "-1", "2", None], ["0", None, "2", None]),
        (["-1", "1", "1"], ["-1", "1", "1"]),
        (["-1", "cat", "dog"], ["-1", "cat", "dog"]),
        (["-1", "-2", "0", "1"], ["-1", "-2", "0", "1"]),
        ([None, None], [None, None]),
    ],
)
def test_minus_one_among_classes_from_zero_on_is_no_class(labels, expected):
    assert without_unlabelled(labels) == expected


def test_images_without_a_label_are_left_out_of_the_scores(make_color_run, tmp_path):
    run = make_color_run(files=False, labels=False)
    for name, missing in {"null": None, "nan": float("nan"), "minus": -1}.items():
        labels = [0] * 4 + [1] * 4 + [missing] * 4
        pq.write_table(pa.table({"image_id": list(run.image_ids), "label": labels}), tmp_path / f"{name}.parquet")
        result = evaluate_run(run.run_dir, labels_uri=str(tmp_path / f"{name}.parquet"))
        assert result["labelled_images"] == 8
        assert result["external"] == {"acc": 1.0, "nmi": 1.0, "ari": 1.0}
        assert [row["label"] for row in result["classes"]] == ["0", "1"]


def test_two_labels_for_an_image_are_refused_and_one_twice_is_not(make_color_run, tmp_path):
    run, path = make_color_run(files=False, labels=False), tmp_path / "labels.csv"
    path.write_text(f"image_id,label\n{run.image_ids[0]},a\n{run.image_ids[0]},a\n{run.image_ids[1]},b\n")
    assert evaluate_run(run.run_dir, labels_uri=str(path))["labelled_images"] == 2
    path.write_text(f"image_id,label\n{run.image_ids[0]},a\n{run.image_ids[0]},b\n")
    with pytest.raises(InputError, match=r"two labels for .*, 'a' and 'b'"):
        evaluate_run(run.run_dir, labels_uri=str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image_id,label\nzzz,a\n", "no image_id"),
        ("id,label\n0,a\n", "expected the columns"),
        (None, "the labels: there is no file"),
    ],
)
def test_unusable_label_files(make_color_run, tmp_path, content, message):
    run_dir = make_color_run(files=False, labels=False).run_dir
    path = tmp_path / "labels.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        evaluate_run(run_dir, labels_uri=str(path))


def test_unfinished_run(tmp_path):
    with pytest.raises(ArtifactError, match="run assign_clusters first"):
        evaluate_run(RunDir.at(str(tmp_path)))


def test_classes_say_where_the_images_of_each_went(make_color_run):
    run = make_color_run(files=False, clusters=(1, 1, 0, 0, 1, 1, 1, 1, 2, 2, 2, 1))
    rows = {row["label"]: row for row in evaluate_run(run.run_dir)["classes"]}
    assert list(rows) == ["blue", "green", "red"]
    assert rows["red"] == {
        "label": "red",
        "images": 4,
        "matched_cluster": 0,
        "matched_name": "red",
        "recall": 0.5,
        "precision": 1.0,
        "clusters": [
            {"cluster_id": 0, "name": "red", "images": 2},
            {"cluster_id": 1, "name": "green", "images": 2},
        ],
    }
    assert (rows["green"]["recall"], rows["green"]["precision"]) == (1.0, pytest.approx(4 / 7))
    total = sum(cluster["images"] for row in rows.values() for cluster in row["clusters"])
    assert total == 12


def test_more_classes_than_clusters(make_color_run):
    run = make_color_run(files=False, clusters=(0,) * 8 + (2,) * 4)
    matched = {row["label"]: row["matched_cluster"] for row in evaluate_run(run.run_dir)["classes"]}
    assert matched["blue"] == 2
    assert sorted([matched["red"], matched["green"]], key=str) == [0, None]


def test_labels_of_folders(make_color_run):
    ids = [f"deep/{folder}/{row}.png" for row, folder in enumerate(["x"] * 6 + ["y"] * 6)]
    result = evaluate_run(make_color_run(files=False, image_ids=ids).run_dir, labels_uri="parent_folder")
    assert [row["label"] for row in result["classes"]] == ["x", "y"]
    assert result["external"]["acc"] == pytest.approx(8 / 12)
    flat = make_color_run("flat", files=False, image_ids=[f"{row}.png" for row in range(12)])
    with pytest.raises(InputError, match=r"names a folder to take labels from; an id here is 0.png"):
        evaluate_run(flat.run_dir, labels_uri="parent_folder")
