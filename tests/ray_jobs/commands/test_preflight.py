"""`dxmc preflight` as a person calls it; no Ray starts."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from dxmc_core.artifacts.matrices import embedding_column
from ray_jobs.cli import main


def preflight(capsys, *arguments):
    with pytest.raises(SystemExit, match="0"):
        main(["preflight", *arguments])
    return capsys.readouterr().out


def config_over(tmp_path, source):
    np.savez(tmp_path / "nouns.npz", nouns=np.array(["a", "b"]), embeddings=np.eye(2, 16, dtype=np.float32))
    vocabulary = {"kind": "embeddings", "uri": str(tmp_path / "nouns.npz")}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"run_dir": str(tmp_path / "run"), "source": source, "vocabulary": vocabulary}))
    return str(path)


@pytest.mark.parametrize("suffix", ["parquet", "npy"])
def test_embeddings_are_counted_in_their_file(tmp_path, capsys, suffix):
    rows = np.ones((70, 16), dtype=np.float16)
    path = tmp_path / f"images.{suffix}"
    if suffix == "npy":
        np.save(path, rows)
    else:
        pq.write_table(pa.table({"embedding": embedding_column(rows)}), path)
    config = config_over(tmp_path, {"kind": "embeddings", "uri": str(path)})
    document = json.loads(preflight(capsys, "--config", config, "--json"))
    assert (document["workload"]["num_images"], document["workload"]["width"]) == (70, 16)
    assert document["workload"]["num_nouns"] == 2
    assert document["stages"][0]["stage"] == "embed_images"
    assert document["warnings"] == []
    assert not (tmp_path / "run").exists()


def test_images_are_counted_by_listing_and_what_runs_out_is_a_warning(tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        (photos / f"{number}.jpg").write_bytes(b"not read")
    config = config_over(tmp_path, {"uri": str(photos)})
    assert preflight(capsys, "--config", config).startswith("3 images of width ")
    text = preflight(capsys, "--config", config, "--num-images", "50000000", "--memory-gib", "2", "--nodes", "2")
    assert "50,000,000 images" in text
    assert "warning: build_semantic_space needs about" in text


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--num-images", "-5"),
        ("--num-images", "0"),
        ("--num-images", "many"),
        ("--nodes", "0"),
        ("--cores", "-1"),
        ("--gpus", "-1"),
        ("--memory-gib", "0"),
        ("--memory-gib", "nan"),
        ("--disk-gib", "-1"),
        ("--gpu-tflops", "0"),
        ("--gpu-dollars-per-hour", "inf"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(capsys, option, value):
    with pytest.raises(SystemExit) as stop:
        main(["preflight", "--config", "unread.yaml", f"{option}={value}"])
    assert stop.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"argument {option}: expected a" in last
    assert last.endswith(f"found {value}")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"name": "best"}, "looks at all images; no epochs"),
        ({"name": "best", "num_epochs": 3, "use_text": False}, "looks at all images; 3 epochs of 1 cluster heads"),
        ({"name": "kmeans"}, "k-means of all rows, 20 restarts"),
        ({"name": "tac", "num_epochs": 7}, "7 epochs of 2 cluster heads"),
    ],
)
def test_training_is_that_of_the_method(tmp_path, capsys, settings, told):
    np.save(tmp_path / "images.npy", np.ones((70, 16), dtype=np.float16))
    config = config_over(tmp_path, {"kind": "embeddings", "uri": str(tmp_path / "images.npy")})
    overrides = [word for key, value in settings.items() for word in ("--set", f"method.{key}={value}")]
    document = json.loads(preflight(capsys, "--config", config, "--json", *overrides))
    assert document["workload"]["method"] == settings["name"]
    assert document["stages"][-1]["note"].startswith(told)
