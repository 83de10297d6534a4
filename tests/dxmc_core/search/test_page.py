"""The page of a search: what it shows, and that names cannot become markup."""

import re

import pytest
from PIL import Image

from dxmc_core.search import open_run
from dxmc_core.search import queries as search_queries
from dxmc_core.search.page import render_search

EVIL = "<script>alert(1)</script>\"'"


@pytest.fixture(autouse=True)
def encoder(color_encoder, monkeypatch):
    monkeypatch.setattr(search_queries, "load_encoder", lambda config, **_: color_encoder)


def page_of(run, text, **kwargs):
    return render_search(run.run_dir, run.config, open_run(run.run_dir).query(text, **kwargs))


def test_clusters_and_images_have_thumbnails(make_color_run):
    page = page_of(make_color_run(), "green", top=3)
    assert "<h1>green</h1>" in page
    assert "12 photographs in 3 clusters" in page
    clusters, images = page.split('id="images"')
    assert clusters.count('<img src="data:image/webp;base64,') == 12
    assert images.count('<img src="data:image/webp;base64,') == 3
    assert re.findall(r'alt="([^"]*)"', images)[0].startswith("green/")
    assert images.count("</b> green</p>") == 3


def test_the_picture_that_was_searched_for_is_shown(make_color_run, tmp_path):
    run = make_color_run()
    Image.new("RGB", (60, 60), (250, 20, 20)).save(tmp_path / "query.png")
    assert page_of(run, str(tmp_path / "query.png")).count('alt="What was searched for"') == 1
    assert page_of(run, "red/1.png").count('alt="What was searched for"') == 1
    assert 'alt="What was searched for"' not in page_of(run, "red")


def test_without_files_ids_take_the_place_of_pictures(make_color_run):
    page = page_of(make_color_run(files=False), "red", top=2)
    assert "<img" not in page
    assert "red/0.png" in page
    assert "12 rows in 3 clusters" in page


def test_a_file_that_has_gone_leaves_its_id(make_color_run):
    run = make_color_run()
    (run.photos / "00.png").unlink()
    assert '<span class="without id">red/0.png</span>' in page_of(run, "red")


def test_names_are_escaped_and_no_script_may_run(make_color_run):
    ids = [f"{EVIL}{row}" for row in range(12)]
    page = page_of(make_color_run(image_ids=ids), f"{EVIL} red")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
