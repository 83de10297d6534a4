"""The scores as a table, and the plot that goes with it."""

import re
import time

import numpy as np
import pytest

from dxmc_core.artifacts.tables import K_SCORES
from dxmc_core.errors import InputError
from dxmc_core.stages import embed_images
from dxmc_core.stages.settings.suggest_k import SuggestKConfig, fingerprint
from dxmc_core.stages.suggest_k import plot, score_table, suggest_k

FINGERPRINT = "c" * 32


@pytest.fixture
def choice(planted_run):
    return suggest_k(planted_run.run_dir.stage("embed_images"), SuggestKConfig(), seed=0)


def test_four_planted_groups_are_found(choice):
    assert choice.num_clusters in (4, 5)
    assert choice.num_rows == 240


def test_the_table_has_a_row_a_candidate_and_ranks_the_suggestions(choice):
    table = score_table(choice)
    assert table.schema.equals(K_SCORES.schema())
    rows = table.to_pylist()
    assert [row["num_clusters"] for row in rows] == [score.num_clusters for score in choice.scores]
    ranked = sorted((row for row in rows if row["rank"]), key=lambda row: row["rank"])
    assert [row["num_clusters"] for row in ranked] == [best.num_clusters for best in choice.suggestions]
    assert all((row["reason"] is None) == (row["rank"] is None) for row in rows)


def test_the_plot_marks_the_suggestions_and_needs_nothing_else(choice):
    page = plot(score_table(choice), title="K of <b>x</b>").decode()
    assert "K of &lt;b&gt;x" in page
    marks = [int(mark) for mark in re.findall(r'class="mark-value"[^>]*>(\d+)<', page)]
    assert marks == 4 * [best.num_clusters for best in choice.suggestions]
    assert all(best.reason in page for best in choice.suggestions)
    assert "http" not in page.replace("http-equiv", "")


def test_too_few_images_are_refused(planted_run, tmp_path):
    np.savez(tmp_path / "few.npz", embeddings=np.eye(19, dtype=np.float32))
    images = planted_run.run_dir.stage("few")
    source = embed_images.EmbeddingsSource(kind="embeddings", uri=str(tmp_path / "few.npz"))
    catalog, parts = embed_images.import_embeddings(source, images, fingerprint=FINGERPRINT)
    embed_images.all_embedded(catalog, parts, fingerprint=FINGERPRINT).publish(
        catalog.stage_dir, fingerprint=FINGERPRINT, inputs={}, started=time.perf_counter()
    )
    with pytest.raises(InputError, match="needs at least 20 images, found 19; set num_clusters"):
        suggest_k(images, SuggestKConfig(), seed=0)


def test_settings_and_seed_are_in_the_fingerprint():
    base = fingerprint(SuggestKConfig(), seed=0, inputs={"embed_images": "a"})
    others = [
        fingerprint(SuggestKConfig(max_images=100), seed=0, inputs={"embed_images": "a"}),
        fingerprint(SuggestKConfig(), seed=1, inputs={"embed_images": "a"}),
        fingerprint(SuggestKConfig(), seed=0, inputs={"embed_images": "b"}),
    ]
    assert len({base, *others}) == 4


def test_copies_of_one_image_are_refused(planted_run, tmp_path):
    np.savez(tmp_path / "alike.npz", embeddings=np.ones((40, 8), dtype=np.float32))
    images = planted_run.run_dir.stage("alike")
    source = embed_images.EmbeddingsSource(kind="embeddings", uri=str(tmp_path / "alike.npz"))
    catalog, done = embed_images.import_embeddings(source, images, fingerprint=FINGERPRINT)
    embed_images.all_embedded(catalog, done, fingerprint=FINGERPRINT).publish(
        catalog.stage_dir, fingerprint=FINGERPRINT, inputs={}, started=time.perf_counter()
    )
    with pytest.raises(InputError, match="the 40 found have the same embedding; set num_clusters"):
        suggest_k(images, SuggestKConfig(), seed=0)
