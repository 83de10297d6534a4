"""Neighbours of every row, whatever the slices were."""

import numpy as np
import pyarrow as pa
import pytest

from dxmc_core.artifacts.manifest import Part
from dxmc_core.artifacts.matrices import embedding_column, load_matrix
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.stage_dir import parts_in_order
from dxmc_core.artifacts.tables import IMAGES, NEIGHBORS
from dxmc_core.errors import InputError
from dxmc_core.method.preparation import as_stored
from dxmc_core.stages import mine_neighbors
from dxmc_core.stages.mine_neighbors import (
    PlanSearch,
    SearchCells,
    SearchNeighbors,
    advice_on_copies,
    choose_index,
    group_near_duplicates,
    near_duplicate_metrics,
    usable_num_neighbors,
)
from dxmc_core.stages.settings.mine_neighbors import MineNeighborsConfig

SETTINGS = {"num_neighbors": 5, "near_duplicate_cosine": 0.98}


def stages_of(planted_run):
    *inputs, output = (
        planted_run.run_dir.stage(name) for name in ("embed_images", "build_semantic_space", "mine_neighbors")
    )
    return inputs, output


def test_neighbors_are_of_the_same_group_and_never_the_row_itself(planted_run):
    matrix = load_matrix(planted_run.run_dir.stage("mine_neighbors"), "neighbors", "image_neighbors")
    assert matrix.values.shape == (240, 5)
    assert (matrix.values != matrix.row_ids[:, None]).all()
    assert (planted_run.labels[matrix.values] == planted_run.labels[:, None]).all()


def test_result_does_not_depend_on_the_slices(planted_run):
    inputs, output = stages_of(planted_run)
    search = SearchNeighbors(inputs, output, fingerprint="c" * 32, **SETTINGS)
    whole = search(pa.table({"start": [0], "stop": [240]})).to_pylist()[0]
    (part,) = parts_in_order([whole])
    assert output.read_part(part).equals(output.read_table(NEIGHBORS).combine_chunks())


def test_approximate_search_of_all_cells_finds_what_exact_search_finds(planted_run, monkeypatch):
    monkeypatch.setattr("dxmc_core.method.neighbors.inverted_file._ROWS_PER_CELL", 20)
    inputs, output = stages_of(planted_run)
    plan = PlanSearch(inputs, output, num_neighbors=5, min_recall=1.0, seed=0)
    plans = plan(pa.table({"modality": list(mine_neighbors.MODALITIES)})).to_pylist()
    assert [row["recall"] for row in plans] == [1.0, 1.0]
    assert all(4 <= row["num_probes"] <= row["cells"] == 12 for row in plans)
    search = SearchCells(inputs, output, fingerprint="c" * 32, **SETTINGS)
    receipts = search(pa.table({"start": [0, 100], "stop": [100, 240]})).to_pylist()
    found = pa.concat_tables([output.read_part(part) for part in parts_in_order(receipts)])
    exact = output.read_table(NEIGHBORS)
    assert found["row_id"].equals(exact["row_id"])
    # Text counterparts of a group are so near one another that rounding decides; of them the recall above speaks.
    same = np.array(found["image_neighbors"].to_pylist()) == np.array(exact["image_neighbors"].to_pylist())
    assert same.mean() > 0.99


@pytest.mark.parametrize("index", ["exact", "ivf"])
def test_without_a_vocabulary_there_are_neighbors_of_images_alone(planted_run, tmp_path, monkeypatch, index):
    monkeypatch.setattr("dxmc_core.method.neighbors.inverted_file._ROWS_PER_CELL", 20)
    (images, _), _ = stages_of(planted_run)
    output = RunDir.at(str(tmp_path / "run")).stage("mine_neighbors")
    if index == "ivf":
        plan = PlanSearch([images], output, num_neighbors=5, min_recall=1.0, seed=0)
        plan(pa.table({"modality": list(mine_neighbors.modalities_of([images]))}))
    mapper = {"exact": SearchNeighbors, "ivf": SearchCells}[index]
    search = mapper([images], output, fingerprint="c" * 32, **SETTINGS)
    (part,) = parts_in_order(search(pa.table({"start": [0], "stop": [240]})).to_pylist())
    found = output.read_part(part)
    assert found.column_names == ["row_id", "image_neighbors"]
    exact = planted_run.run_dir.read_table(NEIGHBORS)
    same = np.array(found["image_neighbors"].to_pylist()) == np.array(exact["image_neighbors"].to_pylist())
    assert same.mean() > 0.99


def test_index_is_chosen_by_size_and_device_with_its_reason():
    config = MineNeighborsConfig()
    assert choose_index(config, 100_000, device="cpu").index == "exact"
    choice = choose_index(config, 100_001, device="cpu")
    assert choice.index == "ivf"
    assert choice.reason == "100,001 images are more than 100,000, up to which CPUs afford exact search"
    assert choose_index(config, 1_000_000, device="cuda").index == "exact"
    assert choose_index(MineNeighborsConfig(index="ivf"), 10, device="cuda:1").index == "ivf"


def test_near_duplicates_are_grouped_with_their_image_ids(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 16)).astype(np.float32)
    rows[[7, 30]] = rows[3]
    rows[50] = rows[20] + 0.01
    run_dir = RunDir.at(str(tmp_path / "run"))
    images, texts, output = (run_dir.stage(name) for name in ("embed_images", "build_semantic_space", "mine_neighbors"))
    values = as_stored(rows, name="rows")
    kept = np.delete(np.arange(60), 10)  # a row that was rejected leaves a gap in the ids
    columns = {"row_id": kept, "image_id": [f"{row}.jpg" for row in kept], "embedding": embedding_column(values[kept])}
    table = pa.table(columns).cast(IMAGES.schema(16))
    for stage, name in ((images, "images"), (texts, "text_counterparts")):
        part = stage.write_part(name, table, fingerprint="d" * 32)
        stage.publish(fingerprint="d" * 32, inputs={}, tables={name: [part]}, seconds=0)
    search = SearchNeighbors([images, texts], output, fingerprint="d" * 32, **SETTINGS)
    receipts = search(pa.table({"start": [0, 30], "stop": [30, 59]})).to_pylist()
    found = group_near_duplicates(images, output, [Part(**receipt["pairs"]) for receipt in receipts])
    rows_of = {row["image_id"]: (row["group_id"], row["group_size"], row["copy_of"]) for row in found.to_pylist()}
    assert rows_of == {
        "3.jpg": (3, 3, 3),
        "7.jpg": (3, 3, 3),
        "30.jpg": (3, 3, 3),
        "20.jpg": (20, 2, 20),
        "50.jpg": (20, 2, 50),
    }
    assert near_duplicate_metrics(found) == {
        "near_duplicate_groups": 2, "near_duplicate_images": 5, "exact_copies": 2,
    }  # fmt: skip


def test_many_copies_are_worth_a_word_and_few_are_not():
    metrics = {"near_duplicate_groups": 2, "near_duplicate_images": 5, "exact_copies": 2}
    assert advice_on_copies(metrics, 31) is None
    advice = advice_on_copies(metrics, 30)
    assert advice is not None
    assert advice.startswith("3 of 30 images are near duplicates of others")
    assert "train_heads.count_near_duplicates_once=true" in advice


@pytest.mark.parametrize(("images", "expected"), [(1000, 50), (30, 29), (2, 1)])
def test_small_sources_have_fewer_neighbors(images, expected):
    assert usable_num_neighbors(MineNeighborsConfig(), images) == expected


def test_one_image_cannot_be_clustered():
    with pytest.raises(InputError, match="at least 2 readable images"):
        usable_num_neighbors(MineNeighborsConfig(), 1)


def test_neighbors_are_row_ids_of_embedded_images(planted_run):
    neighbors = load_matrix(planted_run.run_dir.stage("mine_neighbors"), "neighbors", "text_neighbors")
    images = load_matrix(planted_run.run_dir.stage("embed_images"), "images")
    assert np.isin(neighbors.values, images.row_ids).all()
