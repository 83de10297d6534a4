"""Batches are drawn by position: every image once an epoch, real neighbours, reproducible from (seed, epoch)."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from dxmc_core.method.training_data import Batch, TrainingData, draw_batches

NUM_IMAGES = 23


def numbered_data() -> TrainingData:
    """Row i holds i (image) and 100 + i (text); image neighbours i+1 and i+2, text neighbours i+3 and i+4."""
    rows = torch.arange(NUM_IMAGES)
    neighbors = torch.stack([(rows + step) % NUM_IMAGES for step in (1, 2, 3, 4)], dim=1)
    images = rows[:, None].half()
    return TrainingData(images, images + 100, neighbors[:, :2], neighbors[:, 2:].int())


def epoch_of(data: TrainingData, *, seed: int = 0, epoch: int = 0) -> list[Batch]:
    batches = draw_batches(
        data,
        batch_size=5,
        seed=seed,
        epoch=epoch,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    return list(batches)


def test_batches_hold_the_rows_they_name() -> None:
    steps = set()
    for batch in epoch_of(numbered_data()):
        assert batch.images.dtype == torch.float32
        assert batch.texts is not None
        assert batch.image_neighbors is not None
        assert batch.text_neighbors is not None
        assert torch.equal(batch.images[:, 0], batch.rows.float())
        assert torch.equal(batch.texts[:, 0], batch.rows.float() + 100)
        image_steps = (batch.image_neighbors[:, 0].long() - batch.rows) % NUM_IMAGES
        text_steps = (batch.text_neighbors[:, 0].long() - 100 - batch.rows) % NUM_IMAGES
        steps |= {*image_steps.tolist()} | {*text_steps.tolist()}
        assert ((image_steps == 1) | (image_steps == 2)).all()
        assert ((text_steps == 3) | (text_steps == 4)).all()
    assert steps == {1, 2, 3, 4}


def test_an_epoch_takes_every_image_at_most_once() -> None:
    batches = [batch.rows.tolist() for batch in epoch_of(numbered_data())]
    assert [len(rows) for rows in batches] == [5, 5, 5, 5]
    assert len(set(chain.from_iterable(batches))) == 20


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat([batch.rows for batch in epoch_of(numbered_data(), seed=seed, epoch=epoch)]).tolist()

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_an_epoch_of_many_passes_reshuffles_each() -> None:
    def rows() -> list[list[int]]:
        batches = draw_batches(
            numbered_data(),
            batch_size=10,
            seed=0,
            epoch=0,
            device=torch.device("cpu"),
            dtype=torch.float32,
            num_batches=7,
        )
        return [batch.rows.tolist() for batch in batches]

    found = rows()
    assert [len(batch) for batch in found] == [10] * 7
    assert len(set(chain.from_iterable(found[:2]))) == 20
    assert found[0] != found[2]
    assert found == rows()


def test_no_batch_fits_whatever_the_number_asked_for() -> None:
    batches = draw_batches(
        numbered_data(),
        batch_size=NUM_IMAGES + 1,
        seed=0,
        epoch=0,
        device=torch.device("cpu"),
        dtype=torch.float32,
        num_batches=5,
    )
    assert list(batches) == []


def test_nearest_neighbors_alone_are_drawn() -> None:
    for batch in epoch_of(numbered_data().nearest(1)):
        assert batch.image_neighbors is not None
        assert (((batch.image_neighbors[:, 0].long() - batch.rows) % NUM_IMAGES) == 1).all()
    assert numbered_data().nearest(None).image_neighbors is not None


def test_hierarchy_goes_with_the_nouns() -> None:
    data = TrainingData(
        torch.zeros(4, 2), noun_embeddings=torch.ones(3, 2), noun_hypernyms=torch.tensor([[0, 1], [1, 2]])
    )
    assert data.only([]).noun_hypernyms is None
    assert data.only(["noun_embeddings"]).noun_hypernyms is not None


def test_memory_mapped_rows_are_not_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(NUM_IMAGES, 4)).astype(np.float16))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    data = TrainingData.from_arrays(mapped)
    assert data.image_embeddings.data_ptr() == mapped.ctypes.data
    assert data.image_embeddings.dtype == torch.float16
    assert data.size_bytes == mapped.nbytes
    assert sum(len(batch.rows) for batch in epoch_of(data)) == 20


def test_only_keeps_what_is_named() -> None:
    data = numbered_data().only(["image_neighbors"])
    assert data.image_neighbors is not None
    assert data.text_counterparts is None
    assert data.text_neighbors is None
    with pytest.raises(ValueError, match="found no text_counterparts"):
        data.only(["text_counterparts"])


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        ({"image_embeddings": torch.zeros(4)}, r"expected image_embeddings \(N, D\), found shape \(4,\)"),
        ({"text_counterparts": torch.zeros(4, 3)}, r"expected text_counterparts of shape \(4, 2\)"),
        ({"image_neighbors": torch.zeros(3, 2, dtype=torch.int64)}, r"expected image_neighbors \(4, k\)"),
        ({"image_neighbors": torch.full((4, 2), 4)}, r"expected image_neighbors in 0..3, found 4..4"),
        ({"text_neighbors": torch.full((4, 2), -1)}, r"expected text_neighbors in 0..3, found -1..-1"),
        ({"text_neighbors": torch.zeros(4, 2)}, "expected text_neighbors as int32 or int64 positions"),
        ({"noun_embeddings": torch.ones(3, 5)}, r"expected noun_embeddings \(M, 2\) of the images' encoder"),
        ({"noun_hypernyms": torch.zeros(1, 2, dtype=torch.int64)}, "along with noun_embeddings, found no noun_embedd"),
        (
            {"noun_embeddings": torch.ones(3, 2), "noun_hypernyms": torch.tensor([[0, 3]])},
            "expected noun_hypernyms in 0..2, found 0..3",
        ),
    ],
)
def test_matrices_that_do_not_fit_are_refused(matrices: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingData(**({"image_embeddings": torch.zeros(4, 2)} | matrices))
