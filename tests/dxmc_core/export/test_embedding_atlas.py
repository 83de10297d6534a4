"""The Parquet file for Embedding Atlas: a row for each image, with a place, its cluster and a picture."""

import io

import numpy as np
import pandas as pd
from PIL import Image

from dxmc_core.export import embedding_atlas, export_run


def export(run, folder):
    exported = export_run(run.run_dir, run.config, format="embedding-atlas", output=str(folder))
    return exported, pd.read_parquet(folder / "images.parquet")


def test_places_clusters_and_thumbnails(make_color_run, tmp_path):
    run = make_color_run()
    (run.photos / "03.png").unlink()
    exported, table = export(run, tmp_path / "out")
    assert (exported.images, exported.skipped, len(table)) == (12, 0, 12)
    assert table["image_id"].tolist() == run.image_ids
    assert table["cluster"].tolist() == ["red"] * 4 + ["green"] * 4 + ["blue"] * 4
    places = table[["x", "y"]].to_numpy()
    assert np.isfinite(places).all()
    assert len(np.unique(places.round(6), axis=0)) > 3
    assert Image.open(io.BytesIO(table["thumbnail"][5])).getpixel((3, 3))[1] > 200
    assert table["thumbnail"].isna().tolist() == [row == 3 for row in range(12)]


def test_of_many_images_every_cluster_has_a_part(make_color_run, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_atlas, "MAX_IMAGES", 6)
    exported, table = export(make_color_run(files=False, rejected=[1]), tmp_path / "out")
    assert exported.images == len(table) == 6
    assert set(table["cluster"]) == {"red", "green", "blue"}
    assert table["thumbnail"].isna().all()
    assert 1 not in table["row_id"].tolist()
