"""The quality benchmark on tiny planted data: protocols, honesty about labels, tables, data sets by name and layout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import quality
import quality_data
import quality_peers
from PIL import Image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NUM_CLASSES = 4


@pytest.fixture
def data(tmp_path) -> Path:
    """A data directory with the sets `planted` and `parted` (which has a test part) and nouns beside them."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "data" / "embedded"
    folder.mkdir(parents=True)
    centers = np.linalg.qr(generator.normal(size=(12, 12)))[0][:NUM_CLASSES]
    labels = np.repeat(np.arange(NUM_CLASSES), 30)
    embeddings = (centers[labels] + 0.1 * generator.normal(size=(len(labels), 12))).astype(np.float16)
    np.savez(folder / "planted.npz", embeddings=embeddings, labels=labels)
    np.savez(folder / "parted.npz", embeddings=embeddings, labels=labels, is_test=np.arange(len(labels)) % 3 == 0)
    np.savez(folder / "nouns.npz", embeddings=centers, nouns=np.array(["ant", "bee", "cat", "dog"]))
    return tmp_path / "data"


def run(data, *arguments, output="results.json"):
    path = data.parent / output
    code = quality.main(["--data", str(data), "--output", str(path), *arguments])
    return code, json.loads(path.read_text()) if path.exists() else None


def test_all_rows_as_a_user_runs_it(data, tmp_path):
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "quality.py"), "--datasets", "planted", "--methods", "kmeans",
         "concat_kmeans", "--seeds", "2", "--protocol", "all_rows", "--output", str(tmp_path / "out/results.json"),
         "--markdown", str(tmp_path / "table.md")],
        env={**os.environ, "DXMC_EVALUATION_DATA": str(data)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out/results.json").read_text())
    assert report["protocol"]["name"] == "all_rows"
    assert [(entry["method"], len(entry["runs"])) for entry in report["results"]] == [
        ("kmeans", 2),
        ("concat_kmeans", 2),
    ]
    summary = report["results"][0]["summary"]
    assert summary["acc"] == {"mean": 1.0, "std": 0.0, "min": 1.0}
    assert {"nmi", "ari", "silhouette", "neighbor_agreement", "turtle_score", "balance", "seconds"} <= set(summary)
    assert report["datasets"]["planted"]["rows"] == 120
    page = (tmp_path / "table.md").read_text()
    assert page.strip() == done.stdout.strip()
    assert "Protocol `all_rows`: trained on all rows, scored on the same rows. Last epoch" in page
    assert "| kmeans | 100.0 ± 0.0 (100.0) | 100.0 ± 0.0 (100.0) | 100.0 ± 0.0 (100.0) |" in page
    assert str(tmp_path) not in page


def test_held_out_rows_are_scored_by_the_matching_of_the_trained_ones(data):
    code, report = run(data, "--datasets", "planted", "--methods", "kmeans", "dxmc", "--seeds", "1",
                       "--protocol", "held_out", "--set", "dxmc.num_epochs=30", "--set", "dxmc.learning_rate=0.02",
                       "--num-neighbors", "10")  # fmt: skip
    assert code == 0
    for entry in report["results"]:
        assert entry["summary"]["held_out_acc"]["mean"] > 0.95
        assert entry["summary"]["acc"]["std"] is None
    assert report["results"][1]["settings"] == {"num_epochs": 30, "learning_rate": 0.02}
    assert "drawn by the seed" in report["protocol"]["description"]


def test_one_matching_for_both_parts():
    truth = np.array(["a", "a", "b", "b", "c"])
    matching = quality.class_of_cluster(truth, np.array([2, 2, 0, 0, 0]))
    assert matching == {2: "a", 0: "b"}
    # The unseen rows swap the two clusters: a matching of their own would call all of them right.
    assert quality.is_right(np.array(["a", "b", "c"]), np.array([0, 2, 1]), matching).tolist() == [False] * 3
    assert quality.is_right(np.array(["a", "b", "c"]), np.array([2, 0, 1]), matching).tolist() == [True, True, False]


def test_train_test_uses_the_parts_of_the_data_set(data):
    code, report = run(data, "--datasets", "parted", "--methods", "kmeans", "--seeds", "1",
                       "--protocol", "train_test")  # fmt: skip
    assert code == 0
    assert sum(part["rows"] for part in report["results"][0]["runs"][0]["reliability"]) == 40
    options = quality_data.DataOptions(data, None, None, None, data)
    split = quality.split_rows(quality_data.load_dataset("parted", options), "train_test", seed=0)
    assert len(split.train) == 80
    assert (split.unseen % 3 == 0).all()


def test_held_out_splits_cover_all_rows_once_and_differ_by_seed(data):
    dataset = quality_data.load_dataset("planted", quality_data.DataOptions(data, None, None, None, data))
    splits = [quality.split_rows(dataset, "held_out", seed=seed) for seed in (0, 1, 0)]
    for split in splits:
        assert len(split.unseen) == 24
        assert np.array_equal(np.sort(np.concatenate([split.train, split.unseen])), np.arange(120))
    assert np.array_equal(splits[0].unseen, splits[2].unseen)
    assert not np.array_equal(splits[0].unseen, splits[1].unseen)


def test_imbalanced_resamples_keep_shares_from_all_to_a_tenth(data):
    dataset = quality_data.load_dataset("planted", quality_data.DataOptions(data, None, None, None, data))
    kept = [quality.split_rows(dataset, "imbalanced", seed=seed).train for seed in (0, 1, 0)]
    assert sorted(np.unique(dataset.labels[kept[0]], return_counts=True)[1]) == [3, 6, 14, 30]
    assert len(np.unique(kept[0])) == len(kept[0])
    assert np.array_equal(kept[0], kept[2])
    assert not np.array_equal(kept[0], kept[1])


def test_a_method_of_others_beside_ours(data, monkeypatch):
    found = np.array([-1, -7, *np.repeat(np.arange(4), 30)[2:]])  # two rows that it left without a cluster
    monkeypatch.setitem(quality.PEERS, "spectral", quality_peers.Peer(
        lambda rows, num_clusters, seed, nouns: found, "sklearn"))  # fmt: skip
    code, report = run(data, "--datasets", "planted", "--methods", "kmeans", "spectral", "--seeds", "2",
                       "--protocol", "all_rows", "--reliability", str(data / "diagram.svg"))  # fmt: skip
    assert code == 0
    kmeans, spectral = (entry["summary"] for entry in report["results"])
    assert spectral["noise"]["mean"] == pytest.approx(2 / 120)
    assert spectral["clusters_with_rows"]["mean"] == 5
    assert spectral["acc"]["mean"] == pytest.approx(118 / 120)
    assert "calibration_error" in kmeans
    assert "calibration_error" not in spectral
    assert (data / "diagram.svg").exists()


def test_apart_and_resumed(data):
    arguments = ["--datasets", "planted", "--seeds", "1", "--protocol", "all_rows", "--resume",
                 "--markdown", str(data / "table.md")]  # fmt: skip
    _, first = run(data, *arguments, "--methods", "kmeans", "--apart")
    [entry] = first["results"]
    assert 0.05 < entry["summary"]["peak_gib"]["mean"] < 8
    _, second = run(data, *arguments, "--methods", "kmeans", "spectral")
    assert second["results"][0] == entry  # its seconds too: it was not measured again
    assert [other["method"] for other in second["results"]] == ["kmeans", "spectral"]
    assert "| clusters | seconds | peak GiB |" in (data / "table.md").read_text()


def test_resuming_with_other_seeds_is_refused(data, capsys):
    arguments = ["--datasets", "planted", "--methods", "kmeans", "--protocol", "all_rows", "--resume"]
    run(data, *arguments, "--seeds", "1")
    code, _ = run(data, *arguments, "--seeds", "2")
    assert code == 2
    assert "has another num_seeds than this command" in capsys.readouterr().err


def test_methods_of_others_cannot_assign_unseen_rows(data, capsys):
    with pytest.raises(SystemExit):
        run(data, "--datasets", "planted", "--methods", "spectral", "--protocol", "held_out")
    assert "cannot assign rows that were not trained on" in capsys.readouterr().err


def test_labels_change_scores_and_nothing_else(data):
    with np.load(data / "embedded/planted.npz") as archive:
        arrays = dict(archive)
    arrays["labels"] = np.random.default_rng(1).permutation(arrays["labels"])
    np.savez(data / "embedded/shuffled.npz", **arrays)
    _, report = run(data, "--datasets", "planted", "shuffled", "--methods", "kmeans", "temi", "--seeds", "1",
                    "--protocol", "all_rows", "--set", "temi.num_epochs=1", "--pick", "silhouette")  # fmt: skip
    for method in range(2):
        first, second = (report["results"][method + 2 * dataset]["runs"][0] for dataset in range(2))
        for name in quality.LABEL_FREE_SCORES:
            assert first[name] == second[name]
    assert report["results"][0]["summary"]["acc"]["mean"] == 1.0
    assert report["results"][2]["summary"]["acc"]["mean"] < 0.5


@pytest.mark.parametrize("score", ["acc", "nmi", "ari", "held_out_acc", "calibration_error"])
def test_picking_by_labels_is_refused(data, capsys, score):
    with pytest.raises(SystemExit) as exit_info:
        run(data, "--datasets", "planted", "--protocol", "all_rows", "--pick", score)
    assert exit_info.value.code == 2
    assert f"--pick {score}: refused, labels may score a run but never choose one" in capsys.readouterr().err


def test_picking_by_a_label_free_score():
    runs = [{"seed": 0, "silhouette": 0.2, "largest_share": 0.1}, {"seed": 1, "silhouette": 0.3, "largest_share": 0.4}]
    assert quality.pick(runs, "silhouette")["seed"] == 1
    assert quality.pick(runs, "largest_share")["seed"] == 0


def test_summary_is_mean_and_sample_deviation():
    runs = [{"seed": seed, "acc": acc, "reliability": []} for seed, acc in enumerate([0.5, 0.7, 0.9])]
    summary = quality.summarize(runs)
    assert set(summary) == {"acc"}
    assert summary["acc"]["mean"] == pytest.approx(0.7)
    assert summary["acc"]["std"] == pytest.approx(0.2)
    assert summary["acc"]["min"] == 0.5


def test_accuracy_by_tenth_begins_with_the_least_sure():
    confidences = np.linspace(1, 0, 20)
    assert quality.accuracy_by_tenth(confidences, np.arange(20) < 13) == [0, 0, 0, 0.5, 1, 1, 1, 1, 1, 1]


def test_reliability_of_known_confidences():
    confidences = np.array([0.95, 0.95, 0.55, 0.55, 1.0])
    error, bins = quality.reliability(confidences, np.array([True, False, True, False, True]))
    assert [(part["from"], part["rows"]) for part in bins] == [(0.5, 2), (0.9, 3)]
    assert error == pytest.approx((2 * 0.05 + 3 * (2.9 / 3 - 2 / 3)) / 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--datasets", "missing", "--protocol", "all_rows"], "data set 'missing' is not in"),
        (["--datasets", "nowhere/x.npz", "--protocol", "all_rows"], "nowhere/x.npz: no such file"),
        (["--datasets", "planted", "--protocol", "train_test"], "planted has no test part"),
        (["--datasets", "planted", "--protocol", "all_rows", "--set", "kmeans.nope=1"], "kmeans has no setting"),
        (["--datasets", "planted", "--protocol", "all_rows", "--set", "nope"], "expected METHOD.KEY=VALUE"),
        (["--datasets", "unlabelled", "--protocol", "all_rows"], "has no array 'labels'"),
        (["--datasets", "zero", "--protocol", "all_rows"], "row 1 is all zeros"),
    ],
)
def test_unusable_input_is_one_line_and_code_2(data, capsys, arguments, message):
    np.savez(data / "unlabelled.npz", embeddings=np.eye(8, dtype=np.float32))
    rows = np.eye(8, dtype=np.float32)
    rows[1] = 0
    np.savez(data / "zero.npz", embeddings=rows, labels=np.arange(8))
    code, report = run(data, *arguments, "--methods", "kmeans", "--seeds", "1")
    assert (code, report) == (2, None)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_methods_that_read_text_need_nouns(data, capsys):
    (data / "embedded/nouns.npz").unlink()
    code, _ = run(data, "--datasets", "planted", "--methods", "concat_kmeans", "--protocol", "all_rows")
    assert code == 2
    assert "planted comes without nouns; give a file of embedded ones with --nouns" in capsys.readouterr().err


class MeanColor:
    """An encoder that embeds a picture by its mean colour, and a noun by its first letter."""

    embedding_width = 3
    image_size = 8
    retrieval_temperature = 0.03

    def preprocess(self, image):
        return np.asarray(image.resize((8, 8)), dtype=np.uint8)

    def encode_images(self, pixels):
        means = pixels.reshape(len(pixels), -1, 3).mean(axis=1) + 1
        return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)

    def encode_nouns(self, nouns):
        return np.eye(3, dtype=np.float32)[[ord(noun[0]) % 3 for noun in nouns]]


def make_photos(folder: Path, classes: list[str]) -> None:
    generator = np.random.default_rng(0)
    for number, name in enumerate(classes):
        for part in ("train", "test"):
            (folder / part / name).mkdir(parents=True)
            for index in range(4):
                color = 40 + 60 * np.eye(3)[number % 3] * (1 + number // 3) + generator.integers(0, 9, 3)
                Image.new("RGB", (12, 12), tuple(int(value) for value in color)).save(
                    folder / part / name / f"{index}.png"
                )


def test_paper_set_from_images_beside_published_numbers(data, monkeypatch, capsys):
    loads = []
    monkeypatch.setattr(quality_data, "load_encoder", lambda config: loads.append(config) or MeanColor())
    make_photos(data / "STL-10", [f"class{number}" for number in range(10)])
    arguments = ["--datasets", "stl10", "--methods", "kmeans", "--seeds", "1", "--protocol", "train_test",
                 "--encoder", "offline", "--wordnet-subset", "frequent", "--cache", str(data / "cache")]  # fmt: skip
    code, report = run(data, *arguments)
    assert code == 0
    assert report["datasets"]["stl10"]["title"] == "STL-10"
    assert report["datasets"]["stl10"]["rows"] == 80
    assert report["datasets"]["stl10"]["retrieval_temperature"] == MeanColor.retrieval_temperature
    assert report["published_percent"]["stl10"]["dxmc"] == "98.3/95.8/96.7"
    page = capsys.readouterr().out
    assert "| dxmc | - | 98.3 / 95.8 / 96.7 |" in page
    assert "| 94.3 / 91.7 / 89.1 |" in page
    run(data, *arguments)
    assert len(loads) == 1  # the second run reads the cache


def test_paper_set_with_other_classes_is_refused(data, capsys):
    make_photos(data / "cifar10", ["cat", "dog"])
    code, _ = run(data, "--datasets", "cifar10", "--methods", "kmeans", "--protocol", "all_rows")
    assert code == 2
    assert "CIFAR-10 has 10 classes, found 2" in capsys.readouterr().err


def test_layouts_of_the_papers_sets(tmp_path):
    coarse = quality_data.PAPER_SETS["cifar20"].class_of
    assert len(coarse) == 100
    assert len(set(coarse.values())) == 20
    make_photos(tmp_path / "cifar100", sorted(coarse))
    _, labels, is_test = quality_data.labelled_images(tmp_path / "cifar100", quality_data.PAPER_SETS["cifar20"])
    assert set(labels) == set(coarse.values())
    assert is_test.sum() == len(labels) / 2

    dogs = quality_data.PAPER_SETS["imagenetdogs"]
    assert len(dogs.only_classes) == 15
    assert len(quality_data.PAPER_SETS["imagenet10"].only_classes) == 10
    make_photos(tmp_path / "imagenet", [*dogs.only_classes, "n01440764"])
    _, labels, _ = quality_data.labelled_images(tmp_path / "imagenet", dogs)
    assert set(labels) == set(dogs.only_classes)

    make_photos(tmp_path / "flat", ["a", "b"])
    _, labels, is_test = quality_data.labelled_images(tmp_path / "flat" / "train", None)
    assert (sorted(set(labels)), is_test) == (["a", "b"], None)


@pytest.mark.data
def test_kmeans_on_real_embeddings(evaluation_data, tmp_path):
    code = quality.main(["--datasets", "dtd", "--methods", "kmeans", "--seeds", "1", "--protocol", "all_rows",
                         "--data", str(evaluation_data), "--output", str(tmp_path / "r.json"),
                         "--set", "kmeans.num_restarts=2"])  # fmt: skip
    report = json.loads((tmp_path / "r.json").read_text())
    assert code == 0
    assert 0.38 < report["results"][0]["summary"]["acc"]["mean"] < 0.48
