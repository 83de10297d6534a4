"""clip-retrieval's layout, read back as clip-retrieval 2.44 reads it: ids are places in the metadata."""

import faiss
import numpy as np
import pandas as pd
import pytest

from dxmc_core.errors import InputError
from dxmc_core.export import export_run


def export(run, folder):
    return export_run(run.run_dir, run.config, format="clip-retrieval", output=str(folder))


def read_back(folder, **options):
    """The three as its server and its notebooks load them."""
    index = faiss.read_index(str(folder / "image.index"), *options.values())
    metadata = pd.concat(pd.read_parquet(path) for path in sorted((folder / "metadata").glob("*.parquet")))
    embeddings = np.concatenate([np.load(path) for path in sorted((folder / "img_emb").glob("*.npy"))])
    return index, metadata, embeddings


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_index_metadata_and_embeddings_are_in_one_order(make_color_run, index_run, tmp_path, kind):
    run = make_color_run()
    index_run(run, kind)
    exported = export(run, tmp_path / "out")
    assert (exported.images, exported.skipped) == (12, 0)
    mapped = {"io_flags": faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY}
    for options in ({}, mapped):
        index, metadata, embeddings = read_back(tmp_path / "out", **options)
        assert (index.ntotal, len(metadata), embeddings.shape) == (12, 12, (12, 3))
        for color, query in enumerate(np.eye(3, dtype=np.float32)):
            scores, places, rows = index.search_and_reconstruct(query[None], 4)
            np.testing.assert_allclose(embeddings[places[0]].astype(np.float32) @ query, scores[0], atol=1e-5)
            np.testing.assert_allclose(rows[0], embeddings[places[0]], atol=1e-6)
            found = [metadata[place : place + 1].to_dict(orient="records")[0] for place in places[0]]
            name = ["red", "green", "blue"][color]
            assert [row["caption"] for row in found] == [name] * 4
            assert {row["image_id"] for row in found} == {f"{name}/{number}.png" for number in range(4)}
            assert all(row["image_path"].startswith(str(run.photos)) and pd.isna(row["url"]) for row in found)
            assert {row["label"] for row in found} == {name}


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_rows_that_were_rejected_leave_no_gap(make_color_run, index_run, tmp_path, kind):
    run = make_color_run(files=False, rejected=[0, 6])
    index_run(run, kind)
    assert export(run, tmp_path / "out").images == 10
    index, metadata, embeddings = read_back(tmp_path / "out")
    assert metadata["row_id"].tolist() == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    assert index.search(np.eye(3, dtype=np.float32), 10)[1].max() == 9
    scores, places = index.search(np.eye(3, dtype=np.float32), 3)
    for query, found, found_scores in zip(np.eye(3), places, scores, strict=True):
        np.testing.assert_allclose(embeddings[found].astype(np.float32) @ query, found_scores, atol=1e-5)
    assert metadata["image_path"].isna().all()


def test_a_run_without_an_index_cannot_be_served(make_color_run, tmp_path):
    with pytest.raises(InputError, match=r"has no index.faiss; set mine_neighbors.search_index to auto"):
        export(make_color_run(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
