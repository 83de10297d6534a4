"""Neighbours of every row, whatever the slices were."""

import numpy as np
import pyarrow as pa
import pytest

from dxmc_core.artifacts.matrices import load_matrix
from dxmc_core.artifacts.stage_dir import parts_in_order
from dxmc_core.errors import InputError
from dxmc_core.stages.mine_neighbors import MineNeighborsConfig, SearchNeighbors, usable_num_neighbors


def test_neighbors_are_of_the_same_group_and_never_the_row_itself(planted_run):
    matrix = load_matrix(planted_run.run_dir.stage("mine_neighbors"), "neighbors", "image_neighbors")
    assert matrix.values.shape == (240, 5)
    assert (matrix.values != matrix.row_ids[:, None]).all()
    assert (planted_run.labels[matrix.values] == planted_run.labels[:, None]).all()


def test_result_does_not_depend_on_the_slices(planted_run):
    stages = [planted_run.run_dir.stage(name) for name in ("embed_images", "build_semantic_space", "mine_neighbors")]
    search = SearchNeighbors(*stages, fingerprint="c" * 32, num_neighbors=5)
    whole = search(pa.table({"start": [0], "stop": [240]})).to_pylist()[0]
    (part,) = parts_in_order([whole])
    assert stages[2].read_part(part).equals(stages[2].read_table("neighbors").combine_chunks())


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
