"""`dxmc preflight` as a person calls it; no Ray starts."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from dxmc_core.artifacts.matrices import embedding_column
from dxmc_core.config import load_config
from dxmc_core.method.nouns.vocabulary import Vocabulary
from dxmc_core.stages.build_semantic_space import NounCache, noun_table
from ray_jobs.cli import main


def preflight(capsys, *arguments, measure=False):
    """What it prints; rates are assumed unless they are what is tested."""
    with pytest.raises(SystemExit, match="0"):
        main(["preflight", *arguments, *([] if measure else ["--no-measure"])])
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
    assert [stage["stage"] for stage in document["stages"]] == [
        "start of Ray",
        "embed_images",
        "build_semantic_space",
        "mine_neighbors",
        "train_heads",
        "assign_clusters",
        "write_report",
    ]
    assert document["warnings"] == []
    assert not (tmp_path / "run").exists()


def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (640, 480), (80 * number, 0, 0)).save(folder / f"{number}.jpg")
    return {"uri": str(folder)}


def files_under(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_rates_of_this_machine_are_measured_and_told_from_assumptions(tmp_path, capsys):
    config = config_over(tmp_path, photos(tmp_path))
    before = files_under(tmp_path)
    text = preflight(capsys, "--config", config, measure=True)
    assert files_under(tmp_path) == before
    assert text.startswith("3 images of width ")
    measured = next(line for line in text.splitlines() if line.startswith("measured here: "))
    for said in (
        "GFLOP/s",
        "in 8 bits",
        "in memory",
        "decoding an image",
        "a process gets",
        "listed",
        "written",
        "start",
    ):
        assert said in measured
    assert "assumed" not in text


def test_what_is_not_measured_is_named_as_an_assumption(tmp_path, capsys):
    config = config_over(tmp_path, photos(tmp_path))
    document = json.loads(preflight(capsys, "--config", config, "--json"))
    assert document["machine"]["rates"]["measured"] == ["listed_per_s"]
    text = preflight(capsys, "--config", config, "--num-images", "100", "--gpus", "1", "--set", "num_clusters=auto")
    assert "measured here" not in text
    assumed = next(line for line in text.splitlines() if line.startswith("assumed: "))
    for said in ("GFLOP/s", "decoding an image", "a GPU does 20 TFLOP/s at $1.00 an hour", "suggest_k will choose"):
        assert said in assumed
    assert "suggest_k " in text


def test_each_model_has_a_cost_of_its_own(tmp_path, capsys):
    config = config_over(tmp_path, photos(tmp_path))
    small, large = (
        json.loads(preflight(capsys, "--config", config, "--json", "--set", f"encoder.model={model}"))
        for model in ("ViT-B-32-quickgelu", "ViT-L-14-quickgelu")
    )
    flops = [document["workload"]["encoder_work"]["image"]["flops"] for document in (small, large)]
    assert flops[0] == pytest.approx(8.8e9, rel=0.05)
    assert flops[1] / flops[0] == pytest.approx(18, rel=0.1)


def test_nouns_that_an_earlier_run_has_encoded_cost_nothing(tmp_path, capsys):
    (tmp_path / "nouns.txt").write_text("cat\ndog\nhouse\n")
    vocabulary = {"kind": "file", "uri": str(tmp_path / "nouns.txt")}
    path = tmp_path / "config.yaml"
    values = {"run_dir": str(tmp_path / "run"), "source": photos(tmp_path), "vocabulary": vocabulary}
    cache = {"noun_cache_uri": str(tmp_path / "cache")}
    path.write_text(yaml.safe_dump({**values, "encoder": {"kind": "offline"}, "build_semantic_space": cache}))
    document = json.loads(preflight(capsys, "--config", str(path), "--json"))
    assert document["workload"]["nouns_to_encode"] == 3
    config = load_config(str(path))
    cached = NounCache.of(config.build_semantic_space, config.vocabulary, config.encoder, config.run_dir)
    cached.save(noun_table(Vocabulary(["cat", "dog", "house"], [None] * 3), np.eye(3, 8, dtype=np.float32)))
    document = json.loads(preflight(capsys, "--config", str(path), "--json"))
    assert document["workload"]["nouns_to_encode"] == 0


def test_what_runs_out_is_a_warning(tmp_path, capsys):
    config = config_over(tmp_path, photos(tmp_path))
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
        ({"name": "best"}, "looks at all images, up to 4 times; no epochs"),
        (
            {"name": "best", "num_epochs": 3, "use_text": False},
            "looks at all images, up to 4 times; 3 epochs of 1 cluster heads",
        ),
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
    [training] = [stage for stage in document["stages"] if stage["stage"] == "train_heads"]
    assert training["note"].startswith(told)
