"""The planted mixture is what its description says, and the comparisons count what they say."""

from pathlib import Path

import numpy as np
import planted
import pytest
import semantic_space

from dxmc_core.artifacts.matrices import load_matrix

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_smaller_mixture_is_the_beginning_of_a_larger_one():
    small, large = (np.concatenate(list(planted.planted_parts(count))) for count in (300, 9000))
    assert (small.shape, large.shape) == ((300, 512), (9000, 512))
    assert np.array_equal(large[:300], small)
    np.testing.assert_allclose(np.linalg.norm(large.astype(np.float32), axis=1), 1, atol=1e-2)


def test_mixture_lies_in_a_cone_and_holds_copies():
    rows = next(planted.planted_parts(8192)).astype(np.float32)
    sample = rows[:1000] @ rows[1000:2000].T
    assert 0.5 < sample.mean() < 0.7
    assert len(np.unique(rows, axis=0)) == pytest.approx(8192 * 0.995, abs=15)
    cosines = rows[:2000] @ rows.T
    cosines[np.arange(2000), np.arange(2000)] = 0
    assert 0.01 < (cosines.max(axis=1) > 0.98).mean() < 0.04


def test_planted_run_is_a_finished_stage_and_written_once(tmp_path):
    run_dir = planted.planted_run(tmp_path, 500)
    stage = run_dir.stage("embed_images")
    assert load_matrix(stage, "images").values.shape == (500, 512)
    finished = stage.require_manifest().finished_at
    assert planted.planted_run(tmp_path, 500).stage("embed_images").require_manifest().finished_at == finished


def test_comparison_of_semantic_spaces():
    ours = {"noun_ids": [1, 2, 3], "centers_and_nouns_seconds": 8.0, "counterparts_seconds": 2.0, "objective": 0.808}
    theirs = {
        "noun_ids": [2, 3, 4],
        "kmeans_seconds_of_10_restarts": 95.0,
        "nouns_seconds": 3.0,
        "counterparts_seconds": 2.0,
        "objective": 0.8,
    }
    assert semantic_space.compare(ours, theirs) == {
        "speedup": 10.0,
        "objective_difference": 0.01,
        "nouns": [3, 3],
        "nouns_overlap": 0.5,
    }
