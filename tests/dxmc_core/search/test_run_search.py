"""Searching a finished run: what a query is taken for, and that the nearest come first whatever parts they lie in."""

import os
from pathlib import Path

import faiss
import numpy as np
import pytest
from PIL import Image

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.errors import ArtifactError, InputError
from dxmc_core.search import queries as search_queries
from dxmc_core.search import run_search as search
from dxmc_core.search.run_search import QueryKind, RunSearch, open_run


@pytest.fixture
def run(make_color_run, color_encoder, monkeypatch):
    monkeypatch.setattr(search_queries, "load_encoder", lambda config, **_: color_encoder)
    return make_color_run()


@pytest.fixture
def bare_run(make_color_run, monkeypatch):
    """A run over embeddings, without an encoder."""
    monkeypatch.setattr(search_queries, "load_encoder", lambda *_, **__: pytest.fail("there is no encoder to load"))
    return make_color_run(files=False)


def find(run, text, **kwargs):
    return open_run(run.run_dir).query(text, **kwargs)


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
        RunSearch(RunDir.at(str(tmp_path / "nothing")), run.config)


def test_queries_of_all_kinds_together_are_answered_as_one_by_one(run, color_encoder, tmp_path):
    Image.new("RGB", (60, 60), (40, 250, 40)).save(tmp_path / "query.png")
    texts = ["a bluegreen thing", "lemon tree", str(tmp_path / "query.png"), "blue/3.png", "blue"]
    search = open_run(run.run_dir.uri)
    together = search.query_all(texts, top=12)
    assert [result.query.kind for result in together] == ["words", "words", "image", "image_id", "words"]
    for text, result in zip(texts, together, strict=True):
        alone = find(run, text, top=12)
        assert {hit.image_id for hit in result.images} == {hit.image_id for hit in alone.images}
        for hits, expected in ((result.images, alone.images), (result.clusters, alone.clusters)):
            assert [hit.similarity for hit in hits] == pytest.approx([hit.similarity for hit in expected], abs=1e-5)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["label=green"], {"green/0.png", "green/1.png", "green/2.png", "green/3.png"}),
        (["cluster=blue", "confidence<0.55"], {"blue/2.png", "blue/3.png"}),
        (["cluster = 2", "image_id!=blue/0.png"], {"blue/1.png", "blue/2.png", "blue/3.png"}),
        (["cluster!=red", "row_id>=4", "row_id<=5"], {"green/0.png", "green/1.png"}),
        (["label=green", "label=red"], set()),
        (["offset=3"], set()),
    ],
)
def test_conditions_say_which_images_there_are(bare_run, where, expected):
    result = find(bare_run, "red", top=12, where=where)
    assert {hit.image_id for hit in result.images} == expected
    assert len(result.images) == len(expected)
    similarities = [hit.similarity for hit in result.images]
    assert similarities == sorted(similarities, reverse=True)


def test_many_queries_are_answered_with_few_scores_at_a_time(bare_run, monkeypatch):
    expected = results(bare_run, QUERIES)
    monkeypatch.setattr(search, "_SCORES_AT_A_TIME", 9)
    assert results(bare_run, QUERIES) == expected


def test_the_conditions_of_a_search_are_not_those_of_the_next(bare_run):
    with open_run(bare_run.run_dir) as run:
        counts = [len(run.query("red", top=12, where=where).images) for where in (["label=red"], [], ["label!=red"])]
    assert counts == [4, 12, 8]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("label", r"--where 'label': expected COLUMN=VALUE, or !=, <, <=, >, >="),
        ("camera=X100", r"there is no column 'camera', but cluster, row_id, image_id, uri.*outlier_score"),
        ("size>big", "expected a value of type int64, as size has"),
        ("cluster=bleu", "expected = or != and a cluster by its number or its name, such as blue"),
        ("cluster>1", "expected = or !="),
    ],
)
def test_conditions_of_which_nothing_can_be_made(bare_run, condition, message):
    with pytest.raises(InputError, match=message):
        find(bare_run, "red", where=[condition])


@pytest.fixture
def indexed(make_color_run, index_run):
    """A function that makes a run over embeddings with a published index of a kind."""

    def make(kind="flat", **kwargs):
        run = make_color_run(files=False, **kwargs)
        index_run(run, kind)
        return run

    return make


def results(run, texts, **kwargs):
    """What is found, in ids and similarities."""
    with open_run(run.run_dir) as search:
        return [
            [(hit.image_id, pytest.approx(hit.similarity, abs=1e-5)) for hit in result.images]
            for result in search.query_all(texts, **kwargs)
        ]


QUERIES = ["lemon tree", "green", "red/2.png", "blue/3.png"]


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf_sq8", "hnsw"])
@pytest.mark.parametrize("where", [[], ["label!=green", "confidence>0.55"], ["label=green", "label=red"]])
def test_the_index_answers_as_reading_every_embedding_does(make_color_run, indexed, monkeypatch, kind, where):
    expected = results(make_color_run("plain", files=False), QUERIES, top=5, where=where)
    run = indexed(kind)
    monkeypatch.setattr(RunSearch, "_nearest_of_all", lambda *_: pytest.fail("the index was not used"))
    assert results(run, QUERIES, top=5, where=where) == expected


def test_bare_faiss_gives_the_same_ids(indexed):
    run = indexed("ivf")
    index = faiss.read_index(run.run_dir.stage("mine_neighbors").storage.path("index.faiss"))
    with open_run(run.run_dir) as search:
        result = search.query("lemon tree", top=12)
    scores, ids = index.search(result.query.embedding[None], 12)
    theirs = sorted(zip((-scores[0]).round(5).tolist(), ids[0].tolist(), strict=True))  # equal ones by row id
    assert [hit.row_id for hit in result.images] == [row for _, row in theirs]


def test_index_in_object_storage(indexed, s3_bucket, monkeypatch):
    run = indexed("ivf", uri=f"{s3_bucket.uri}/runs/one")
    monkeypatch.setattr(RunSearch, "_nearest_of_all", lambda *_: pytest.fail("the index was not used"))
    assert [hit.cluster for hit in find(run, "green", top=4).images] == ["green"] * 4


def as_of_another_night(images):
    found = images.require_manifest()
    return {"fingerprint": "f" * 32, "inputs": found.inputs, "tables": found.tables, "seconds": 1.0}


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path, _: os.truncate(path, 200), "index.faiss is damaged: expected"),
        (lambda path, _: path.write_bytes(path.read_bytes()[:-1] + b"x"), "is not what was published"),
        (lambda path, _: path.unlink(), "index.faiss is gone"),
        (lambda _, images: images.publish(**as_of_another_night(images)), "is of images as they were before"),
    ],
)
def test_an_index_that_does_not_belong_is_named_and_not_used(indexed, caplog, harm, message):
    run = indexed("ivf")
    expected = results(run, QUERIES)
    images, neighbors = run.run_dir.stage("embed_images"), run.run_dir.stage("mine_neighbors")
    harm(Path(neighbors.storage.path("index.faiss")), images)
    assert results(run, QUERIES) == expected
    (line,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("search: every embedding is read, as the index cannot be used: ")
    assert message in line
