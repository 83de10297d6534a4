"""Which stages a run has and what they depend on, when the number of clusters is left to suggest_k."""

import pickle
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dxmc_core.artifacts.manifest import MANIFEST_NAME, fingerprint_of
from dxmc_core.artifacts.matrices import embedding_column
from dxmc_core.artifacts.run_dir import STAGES, RunDir
from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.config import parse_config
from dxmc_core.errors import InputError
from dxmc_core.images.catalog import Listing
from ray_jobs.context import RunContext
from ray_jobs.plan import run_stages, stage_states
from ray_jobs.plans import plan_of


@pytest.fixture
def run_dir(tmp_path):
    return RunDir.at(str(tmp_path / "run"))


def context_of(run_dir, num_clusters, **settings):
    values = {
        "run_dir": run_dir.uri,
        "source": {"kind": "embeddings", "uri": "x.npz"},
        "vocabulary": {"kind": "wordnet", "subset": "frequent"},
        "num_clusters": num_clusters,
        **settings,
    }
    return RunContext(parse_config(values, where="test"), run_dir)


def publish(run_dir, stage, fingerprint="f" * 32, num_distinct=100, **metrics):
    """Publish a stage with 100 images, of which so many differ."""
    rows = np.random.default_rng(0).normal(size=(num_distinct, 8)).astype(np.float16)[np.arange(100) % num_distinct]
    table = pa.table({"row_id": range(100), "embedding": embedding_column(rows)})
    images = [run_dir.stage(stage).write_part("images", part, fingerprint="a" * 32) for part in (table[:9], table[9:])]
    run_dir.stage(stage).publish(
        fingerprint=fingerprint, inputs={}, tables={"images": images}, metrics=metrics, seconds=1.0
    )


def test_tasks_are_not_sent_the_listing(run_dir):
    context = context_of(run_dir, 7)
    context.listing = object.__new__(Listing)
    sent = pickle.loads(pickle.dumps(context))
    assert (sent.listing, sent.num_clusters) == (None, 7)
    assert context.listing is not None


def test_a_given_number_needs_no_choice(run_dir):
    context = context_of(run_dir, 7)
    assert (context.stages, context.num_clusters) == (STAGES, 7)
    assert "suggest_k" not in plan_of("train_heads").reads(context)


def test_without_a_vocabulary_no_stage_needs_the_semantic_space(run_dir):
    values = {"run_dir": run_dir.uri, "source": {"kind": "embeddings", "uri": "x.npz"}, "vocabulary": None}
    context = RunContext(parse_config(values, where="test"), run_dir)
    assert context.stages == tuple(stage for stage in STAGES if stage != "build_semantic_space")
    assert not any("build_semantic_space" in plan_of(stage).reads(context) for stage in context.stages)
    with pytest.raises(InputError, match="vocabulary is null: there are no nouns for build_semantic_space"):
        plan_of("build_semantic_space").fingerprint(context)


def test_neighbors_of_the_text_are_searched_where_the_method_or_an_index_needs_them(run_dir):
    plan = plan_of("mine_neighbors")
    index = {"mine_neighbors": {"text_search_index": True}}
    for wanted in ({"method": {"name": "dxmc"}}, {"method": {"name": "tac"}}, index):
        assert plan.stages_searched(context_of(run_dir, 7, **wanted)) == ("embed_images", "build_semantic_space")
    for name in ("best", "kmeans", "sic"):
        assert plan.stages_searched(context_of(run_dir, 7, method={"name": name})) == ("embed_images",)


def test_neighbors_of_both_do_for_every_method_and_those_of_images_do_not(run_dir):
    publish(run_dir, "embed_images")
    publish(run_dir, "build_semantic_space")
    best, dxmc = ({"method": {"name": name}} for name in ("best", "dxmc"))
    of_images, of_both = (plan_of("mine_neighbors").fingerprint(context_of(run_dir, 7, **of)) for of in (best, dxmc))
    assert of_images != of_both
    publish(run_dir, "mine_neighbors", of_both)
    assert plan_of("mine_neighbors").fingerprint(context_of(run_dir, 7, **best)) == of_both
    publish(run_dir, "mine_neighbors", of_images)
    assert plan_of("mine_neighbors").fingerprint(context_of(run_dir, 7, **dxmc)) == of_both
    assert plan_of("mine_neighbors").fingerprint(context_of(run_dir, 7, **best)) == of_images


def test_auto_puts_the_choice_after_the_embeddings_and_before_what_needs_it(run_dir):
    context = context_of(run_dir, "auto")
    assert context.stages == ("embed_images", "suggest_k", *STAGES[1:])
    for stage in ("build_semantic_space", "train_heads", "write_report"):
        assert "suggest_k" in plan_of(stage).reads(context)
    with pytest.raises(
        InputError, match=r"num_clusters is auto, and .* has no suggest_k; run dxmc suggest-k \S+ first"
    ):
        _ = context.num_clusters


def test_the_chosen_number_gives_the_fingerprints_of_the_same_number_by_hand(run_dir):
    publish(run_dir, "embed_images")
    publish(run_dir, "suggest_k", num_clusters=7)
    publish(run_dir, "build_semantic_space")
    publish(run_dir, "mine_neighbors")
    auto, by_hand, other = (context_of(run_dir, number) for number in ("auto", 7, 8))
    assert auto.num_clusters == 7
    for stage in ("build_semantic_space", "train_heads"):
        fingerprints = [plan_of(stage).fingerprint(context) for context in (auto, by_hand, other)]
        assert fingerprints[0] == fingerprints[1] != fingerprints[2]


@pytest.mark.parametrize(("num_distinct", "wanted", "expected"), [(100, 100, 100), (12, 13, 12), (5, 4, 4), (1, 7, 2)])
def test_there_are_no_more_clusters_than_distinct_embeddings(run_dir, caplog, num_distinct, wanted, expected):
    publish(run_dir, "embed_images", num_distinct=num_distinct)
    publish(run_dir, "build_semantic_space")
    publish(run_dir, "mine_neighbors")
    context, fewer = context_of(run_dir, wanted), context_of(run_dir, expected)
    assert [context.num_clusters, context.num_clusters] == [expected] * 2
    lines = [record.message for record in caplog.records]
    said = f"num_clusters is {wanted}, but the 100 images have fewer distinct embeddings; there will be {expected}"
    assert lines == ([] if wanted == expected else [f"{said} clusters at most"])
    for stage in ("build_semantic_space", "train_heads"):
        assert plan_of(stage).fingerprint(context) == plan_of(stage).fingerprint(fewer)


def test_more_clusters_than_images_are_still_refused(run_dir):
    publish(run_dir, "embed_images", num_distinct=5)
    with pytest.raises(InputError, match="only 100 images could be embedded"):
        plan_of("train_heads").fingerprint(context_of(run_dir, 101))


def test_a_damaged_part_is_left_to_the_stage_that_reads_it(run_dir, caplog):
    publish(run_dir, "embed_images")
    storage = run_dir.stage("embed_images").storage
    for name in storage.list_files("images"):
        storage.write_bytes(name, b"damaged")
    assert context_of(run_dir, 7).num_clusters == 7
    assert "is damaged" in caplog.text


def test_what_needs_the_number_waits_for_a_choice_that_is_out_of_date(run_dir, monkeypatch):
    context = context_of(run_dir, "auto")
    publish(run_dir, "embed_images")
    publish(run_dir, "suggest_k", num_clusters=7)
    monkeypatch.setattr(plan_of("embed_images"), "fingerprint", lambda _: "f" * 32)
    jobs = [plan_of(name) for name in context.stages]
    states = {state.name: state.state for state in stage_states(context, jobs)}
    assert (states["embed_images"], states["suggest_k"]) == ("done", "stale")
    assert {states[name] for name in STAGES[1:]} == {"waiting"}
    publish(run_dir, "suggest_k", plan_of("suggest_k").fingerprint(context), num_clusters=7)
    context = context_of(run_dir, "auto")
    states = {state.name: state.state for state in stage_states(context, jobs)}
    assert (states["suggest_k"], states["build_semantic_space"]) == ("done", "missing")


def test_place_of_generations_and_a_published_one_are_left_to_recluster(run_dir):
    run_dir.storage.write_bytes("current.json", b"{}")
    with pytest.raises(InputError, match="holds generations"):
        context_of(run_dir, 3).claim()
    run_dir.storage.delete("current.json")
    run_dir.storage.write_bytes("generation.json", b"{}")
    with pytest.raises(InputError, match="published generation"):
        context_of(run_dir, 3).claim()


def test_run_that_takes_over_from_one_of_another_source_is_refused(run_dir, tmp_path):
    context_of(run_dir, 3).claim()
    following = context_of(RunDir.at(str(tmp_path / "next")), 3)
    following.base = run_dir
    following.claim()
    other = following.config.source.model_copy(update={"uri": "y.npz"})
    following.config = following.config.model_copy(update={"source": other})
    following.run_dir = RunDir.at(str(tmp_path / "other"))
    with pytest.raises(InputError, match=rf"{run_dir.uri} holds a run with source.uri"):
        following.claim()


def test_mistyped_source_can_be_mended_until_images_are_embedded(run_dir):
    def context_over(uri):
        context = context_of(run_dir, 3)
        source = context.config.source.model_copy(update={"uri": uri})
        return RunContext(context.config.model_copy(update={"source": source}), run_dir)

    with run_dir.locked():
        context_over("mistyped.npz").claim()
        context_over("x.npz").claim()
    assert RunContext.open(run_dir.uri).config.source.uri == "x.npz"
    run_dir.stage("embed_images").write_file("catalog/part.parquet", b"x")
    context_over("another.npz").claim()
    context_over("x.npz").claim()
    run_dir.stage("embed_images").write_file("images/part.parquet", b"x")
    context_over("x.npz").claim()
    with pytest.raises(InputError, match=r"holds a run with source.uri = 'x.npz', the configuration says 'other.npz'"):
        context_over("other.npz").claim()


def test_places_that_dxmc_writes_into(run_dir, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    night = RunDir.at(f"{run_dir.uri}/generations/000012")
    for place in (run_dir, night):
        found = context_of(place, 3).own_places
        assert {f"{run_dir.uri}/{name}" for name in ("embed_images", "report", "suggest_k", "generations")} < set(found)
        assert f"{tmp_path}/cache/dxmc" in found
    remote = context_of(RunDir.at("s3://bucket/photos/run"), 3)
    assert "s3://bucket/photos/_noun_cache" in remote.own_places
    settings = remote.config.build_semantic_space.model_copy(update={"noun_cache_uri": "s3://bucket/photos"})
    remote.config = remote.config.model_copy(update={"build_semantic_space": settings})
    assert not any("_noun_cache" in place or place == "s3://bucket/photos" for place in remote.own_places)


class FakeJob:
    """A stage whose fingerprint is its setting and those of the stages it reads."""

    def __init__(self, name, reads, settings, ran):
        self.NAME, self._reads, self._settings, self._ran = name, reads, settings, ran

    def reads(self, _context):
        return self._reads

    def inputs(self, context):
        return context.inputs_of(*self._reads) or {}

    def fingerprint(self, context):
        return fingerprint_of(self.NAME, {"setting": self._settings[self.NAME]}, self.inputs(context))

    def run(self, _context, _fingerprint):
        self._ran.append(self.NAME)
        return StageResult(tables={}, metrics={})

    def summary(self, _context):
        return ""


READS = {
    name: tuple(data)
    for name, data in zip(STAGES, ((), STAGES[:1], STAGES[:1], STAGES[:3], STAGES[:4], STAGES[:5]), strict=True)
}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["change", "lose", "damage"]), st.sampled_from(STAGES)), max_size=4))
def test_a_rerun_does_what_is_missing_or_depends_on_a_change_and_nothing_else(disturbances):
    with TemporaryDirectory() as folder:
        run_dir = RunDir.at(folder)
        values, ran = dict.fromkeys(STAGES, 0), []
        jobs = [FakeJob(name, READS[name], values, ran) for name in STAGES]
        run_stages(context_of(run_dir, 3), jobs, lambda: None)
        assert ran == list(STAGES)
        changed, gone = set(), set()
        for kind, stage in disturbances:
            if kind == "change":
                values[stage] += 1
                changed.add(stage)
                continue
            gone.add(stage)
            storage = run_dir.stage(stage).storage
            storage.delete(MANIFEST_NAME) if kind == "lose" else storage.write_bytes(MANIFEST_NAME, b"{")
        # A stage that is made again as it was leaves those that read it as they are.
        other = {name for name in STAGES if changed.intersection((name, *READS[name]))}
        expected = [name for name in STAGES if name in other | gone]
        planned = [state for state in stage_states(context_of(run_dir, 3), jobs) if state.state != "done"]
        ran.clear()
        assert run_stages(context_of(run_dir, 3), jobs, lambda: None) == len(expected)
        assert ran == expected
        assert {state.name for state in planned} >= set(expected)
        assert run_stages(context_of(run_dir, 3), jobs, lambda: None) == 0
