"""Ids and names that the assignments of one run take over from another."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from dxmc_core.artifacts.run_dir import STAGES, RunDir
from dxmc_core.config import parse_config
from dxmc_core.errors import InputError
from ray_jobs.context import RunContext
from ray_jobs.plans import assign_clusters

STAGE = "assign_clusters"


def context_of(run_dir, **settings):
    source = {"kind": "embeddings", "uri": "x.npz"}
    values = {"run_dir": str(run_dir), "source": source, "assign_clusters": settings}
    return RunContext.of(parse_config(values, where="test"))


def publish(run_dir, *, fingerprint, inputs=None, metrics=None):
    stage = RunDir.at(str(run_dir)).stage(STAGE)
    return stage.publish(fingerprint=fingerprint, inputs=inputs or {}, tables={}, metrics=metrics, seconds=1.0)


def test_the_fingerprint_follows_the_earlier_run_and_the_names_not_their_places(tmp_path):
    for name, fingerprint in (("one", "1" * 32), ("copy", "1" * 32), ("other", "2" * 32)):
        publish(tmp_path / name, fingerprint=fingerprint, metrics={"ids_given": 3})
    for name, text in (("one.yaml", "3: cars"), ("copy.yaml", "3: cars\n"), ("other.yaml", "3: trucks")):
        (tmp_path / name).write_text(text)

    def fingerprint(**settings):
        places = {key: str(tmp_path / place) for key, place in settings.items()}
        return assign_clusters.fingerprint(context_of(tmp_path / "run", **places))

    for key, one, copy, other in (
        ("keep_ids_from", "one", "copy", "other"),
        ("renames", "one.yaml", "copy.yaml", "other.yaml"),
    ):
        found = [fingerprint(), *(fingerprint(**{key: place}) for place in (one, copy, other))]
        assert found[1] == found[2]
        assert len(set(found)) == 3


def test_what_lies_outside_must_be_there(tmp_path):
    with pytest.raises(InputError, match="holds no finished run"):
        assign_clusters.check(context_of(tmp_path / "run", keep_ids_from=str(tmp_path / "none")))
    with pytest.raises(InputError, match="there is no file"):
        assign_clusters.check(context_of(tmp_path / "run", renames=str(tmp_path / "none.yaml")))


def test_a_name_for_a_cluster_that_there_cannot_be_is_refused_before_anything_runs(tmp_path):
    publish(tmp_path / "before", fingerprint="1" * 32, metrics={"ids_given": 3})
    (tmp_path / "names.yaml").write_text("12: cars")
    names = {"renames": str(tmp_path / "names.yaml")}
    with pytest.raises(InputError, match=r"there is no cluster 12 \('cars'\); expected numbers from 0 to 9"):
        assign_clusters.check(context_of(tmp_path / "run", **names))
    assign_clusters.check(context_of(tmp_path / "run", keep_ids_from=str(tmp_path / "before"), **names))


def test_what_the_run_directory_held_before_does_not_make_it_stale(tmp_path):
    settings = {"keep_ids_from": f"{tmp_path}/run/"}
    fingerprint = assign_clusters.fingerprint(context_of(tmp_path / "run", **settings))
    publish(tmp_path / "run", fingerprint=fingerprint, metrics={"ids_given": 3})
    assert assign_clusters.fingerprint(context_of(tmp_path / "run", **settings)) == fingerprint
    publish(tmp_path / "run", fingerprint=fingerprint, metrics={})
    with pytest.raises(InputError, match="older dxmc"):
        assign_clusters.check(context_of(tmp_path / "run", **settings))


def test_an_earlier_run_may_be_deleted_once_its_ids_are_taken_over(tmp_path):
    before = publish(tmp_path / "before", fingerprint="1" * 32, metrics={"ids_given": 3})
    settings = {"keep_ids_from": str(tmp_path / "before")}
    fingerprint = assign_clusters.fingerprint(context_of(tmp_path / "run", **settings))
    publish(tmp_path / "run", fingerprint=fingerprint, inputs={"keep_ids_from": before.fingerprint})
    (tmp_path / "before/assign_clusters/_manifest.json").unlink()
    assert assign_clusters.fingerprint(context_of(tmp_path / "run", **settings)) == fingerprint


@pytest.mark.ray
def test_another_clustering_keeps_ids_and_names(dxmc, planted, tmp_path):
    before, now, names = tmp_path / "before", tmp_path / "now", tmp_path / "names.yaml"
    dxmc("run", "--config", planted.config(before, method={"name": "kmeans"}))
    previous = pq.read_table(before / STAGE / "clusters").to_pylist()
    names.write_text(f"{previous[0]['cluster_id']}: fruit of mine\n")
    config = planted.config(
        now,
        method={"name": "concat_kmeans"},
        num_clusters=7,
        seed=5,
        assign_clusters={"keep_ids_from": str(before), "renames": str(names), "min_cluster_size": 60},
        naming={"kind": "llm", "endpoint": "http://127.0.0.1:9/v1", "model": "nobody listens", "attempts": 1},
    )
    result = dxmc("run", "--config", config)
    assert result.stderr.count("7 of 7 clusters keep the names they have, as no caption could be had for them") == 1
    assert re.search(r"kept 6 ids of \S+before, born 1, died 0, churn \d", result.stderr)

    ids_before, ids_now = (
        pq.read_table(run_dir / STAGE / "assignments").sort_by("image_id")["cluster_id"].to_numpy()
        for run_dir in (before, now)
    )
    assert set(ids_now) == {0, 1, 2, 3, 4, 5, 6}
    assert np.isin(ids_now[ids_now != ids_before], [6]).all()
    assignments = pq.read_table(now / STAGE / "assignments").sort_by("image_id").to_pandas()
    small = assignments.groupby("cluster_id")["cluster_id"].transform("size") < 60
    assert small.any()
    inliers = assignments["inlier_cluster_id"]
    assert (inliers[small] == -1).all()
    assert (inliers[inliers >= 0] == assignments["cluster_id"][inliers >= 0]).all()
    assert (inliers[~small] >= 0).mean() > 0.9
    lineage = pq.read_table(now / STAGE / "lineage").to_pylist()
    assert [row["relation"] for row in lineage] == ["kept"] * 6 + ["split"]
    metrics = RunDir.at(str(now)).stage(STAGE).require_manifest().metrics
    assert metrics["ids_given"] == 7
    assert metrics["lineage"]["churn"] == pytest.approx((ids_now != ids_before).mean(), abs=1e-6)

    clusters = {row["cluster_id"]: row for row in pq.read_table(now / STAGE / "clusters").to_pylist()}
    assert clusters[previous[0]["cluster_id"]]["name"] == "fruit of mine"
    for row in previous[1:]:
        assert clusters[row["cluster_id"]]["name"] == row["name"]
    page = (now / "report/index.html").read_text()
    assert "What changed" in page
    assert "fruit of mine" in page
    assert json.loads(dxmc("evaluate", str(now), "--json").stdout)["external"]["acc"] > 0.85

    assert "nothing to do" in dxmc("run", "--config", config).stderr
    names.write_text("7: the eighth\n")
    refused = dxmc("run", "--config", config, "--set", f"assign_clusters.keep_ids_from={now}", code=2)
    assert "there is no cluster 7 ('the eighth'); expected numbers from 0 to 6" in refused.stderr
    names.write_text("6: the seventh\n")
    again = dxmc("run", "--config", config, "--set", f"assign_clusters.keep_ids_from={now}")
    assert [stage for stage in STAGES if f"{stage:<21} done" in again.stderr] == [STAGE, "write_report"]
    assert "kept 7 ids" in again.stderr
    after = {row["cluster_id"]: row["name"] for row in pq.read_table(now / STAGE / "clusters").to_pylist()}
    assert after[6] == "the seventh"
    assert "fruit of mine" not in after.values()
    assert np.array_equal(
        pq.read_table(now / STAGE / "assignments").sort_by("image_id")["cluster_id"].to_numpy(), ids_now
    )
