"""Searching a finished run: what a query is taken for, and that the nearest come first whatever parts they lie in."""

import numpy as np
import pytest
from PIL import Image

from dxmc_core import search
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.errors import ArtifactError, InputError
from dxmc_core.search import QueryKind, search_run


@pytest.fixture
def run(make_color_run, color_encoder, monkeypatch):
    monkeypatch.setattr(search, "load_encoder", lambda config, **_: color_encoder)
    return make_color_run()


@pytest.fixture
def bare_run(make_color_run, monkeypatch):
    """A run over embeddings, without an encoder."""
    monkeypatch.setattr(search, "load_encoder", lambda *_, **__: pytest.fail("there is no encoder to load"))
    return make_color_run(files=False)


def find(run, text, **kwargs):
    return search_run(run.run_dir, run.config, text, **kwargs)


def nearest(run, embedding):
    """Image ids by cosine, by brute force over what is stored."""
    cosines = run.embeddings.astype(np.float16).astype(np.float32) @ embedding
    return [run.image_ids[row] for row in np.argsort(-cosines, kind="stable")]


def test_words_that_the_encoder_reads(run, color_encoder):
    result = find(run, "a bluegreen thing", top=12)
    assert result.query.kind is QueryKind.WORDS
    assert [hit.image_id for hit in result.images] == nearest(run, color_encoder.encode_nouns(["bluegreen"])[0])
    assert result.clusters[-1].name == "red"
    assert {hit.name for hit in result.clusters} == {"red", "green", "blue"}
    similarities = [hit.similarity for hit in result.images]
    assert similarities == sorted(similarities, reverse=True)
    expected = (
        color_encoder.encode_nouns(["bluegreen"])[0] @ run.embeddings[run.image_ids.index(result.images[0].image_id)]
    )
    assert similarities[0] == pytest.approx(expected, abs=2e-3)


def test_a_noun_of_the_run_needs_no_encoder(bare_run):
    result = find(bare_run, "  lemon TREE ", top=3)
    assert result.query.kind is QueryKind.WORDS
    assert len(result.images) == 3
    assert result.clusters[-1].name == "blue"
    assert {(hit.cluster_id, hit.size) for hit in result.clusters} == {(0, 4), (1, 4), (2, 4)}


def test_image_file(run, tmp_path):
    Image.new("RGB", (60, 60), (40, 250, 40)).save(tmp_path / "query.png")
    result = find(run, str(tmp_path / "query.png"), top=2)
    assert result.query.kind is QueryKind.IMAGE
    assert [hit.cluster for hit in result.images] == ["green", "green"]
    assert result.clusters[0].name == "green"


@pytest.mark.parametrize("image_id", ["red/2.png", "blue/3.png"])
def test_image_of_the_run_is_not_its_own_neighbour(bare_run, image_id):
    result = find(bare_run, image_id, top=12)
    row = bare_run.image_ids.index(image_id)
    assert result.query.kind is QueryKind.IMAGE_ID
    assert result.query.row_id == row
    others = [found for found in nearest(bare_run, bare_run.embeddings[row]) if found != image_id]
    assert [hit.image_id for hit in result.images] == others


def test_row_of_an_embedding_file(bare_run, tmp_path):
    np.save(tmp_path / "many.npy", np.array([[0.0, 0.0, 7.0], [5.0, 0.0, 0.0]]))
    np.save(tmp_path / "one.npy", np.array([0.0, 2.0, 0.0], dtype=np.float32))
    assert find(bare_run, f"{tmp_path}/many.npy#1").clusters[0].name == "red"
    assert find(bare_run, f"{tmp_path}/many.npy#0").clusters[0].name == "blue"
    result = find(bare_run, f"{tmp_path}/one.npy")
    assert (result.query.kind, result.clusters[0].name) == (QueryKind.EMBEDDING, "green")


def test_kind_decides_where_a_query_could_be_two_things(make_color_run):
    ids = ["blue", *(f"{row}" for row in range(11))]
    run = make_color_run(files=False, image_ids=ids)
    assert find(run, "blue").clusters[0].name == "blue"
    assert find(run, "blue", kind=QueryKind.IMAGE_ID).clusters[0].name == "red"
    assert find(run, "7", kind=QueryKind.IMAGE_ID).images[0].image_id != "7"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "lemon",
            None,
            r"'lemon' is not among the 4 nouns of this run \(such as .*An image_id.*'red/0.png'.*FILE.npy#ROW",
        ),
        (" ", None, "the query is empty"),
        (
            "holiday/9.jpg",
            None,
            "no file holiday/9.jpg, and no image of the run has that id; an id here is 'red/0.png'",
        ),
        ("holiday", QueryKind.IMAGE_ID, "no image of the run has the id 'holiday'"),
        ("{photo}", None, "this run has no encoder"),
        ("red", QueryKind.EMBEDDING, "expected FILE.npy"),
        ("{folder}/none.npy", None, "cannot read an embedding"),
        ("{folder}/wide.npy", None, "width 5, the images' have 3"),
        ("{folder}/many.npy", None, r"shape \(2, 3\).*many.npy#0"),
        ("{folder}/many.npy#2", None, r"shape \(2, 3\)"),
        ("{folder}/words.npy", None, "cannot read an embedding"),
        ("{folder}/zero.npy", None, "is all zeros"),
    ],
)
def test_queries_of_which_nothing_can_be_made(bare_run, tmp_path, text, kind, message):
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.png")
    np.save(tmp_path / "wide.npy", np.ones(5))
    np.save(tmp_path / "many.npy", np.ones((2, 3)))
    np.save(tmp_path / "zero.npy", np.zeros(3))
    np.save(tmp_path / "words.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=message):
        find(bare_run, text.format(photo=tmp_path / "photo.png", folder=tmp_path), kind=kind)


def test_a_damaged_image_is_a_clear_error(run, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image at all")
    with pytest.raises(InputError, match=r"broken.jpg cannot be searched for: .*no image format"):
        find(run, str(tmp_path / "broken.jpg"))


def test_run_in_object_storage(make_color_run, s3_bucket):
    run = make_color_run(files=False, uri=f"{s3_bucket.uri}/runs/one")
    assert [hit.cluster for hit in find(run, "green", top=4).images] == ["green"] * 4


def test_unfinished_run(tmp_path, run):
    with pytest.raises(ArtifactError, match="run assign_clusters first"):
        search_run(RunDir.at(str(tmp_path / "nothing")), run.config, "red")
