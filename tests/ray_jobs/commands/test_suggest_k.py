"""`num_clusters: auto` and `dxmc suggest-k`, as a user meets them."""

import json

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.ray


def test_auto_chooses_and_shows_its_evidence(dxmc, planted, tmp_path):
    run_dir = tmp_path / "run"
    config = planted.config(run_dir, method={"name": "kmeans"}, num_clusters="auto")
    dxmc("run", "--config", config)
    status = json.loads(dxmc("status", str(run_dir), "--json").stdout)
    stages = [stage["stage"] for stage in status["stages"]]
    assert stages[:3] == ["embed_images", "suggest_k", "build_semantic_space"]
    assert {stage["state"] for stage in status["stages"]} == {"done"}

    found = json.loads(dxmc("suggest-k", str(run_dir), "--json").stdout)
    assert found["num_clusters"] == found["suggestions"][0]["num_clusters"] == planted.num_clusters
    assert found["has_structure"]
    assert pq.read_table(run_dir / "assign_clusters/clusters").num_rows == planted.num_clusters
    page = (run_dir / "report/index.html").read_text()
    assert found["suggestions"][0]["reason"] in page

    text = dxmc("suggest-k", str(run_dir)).stdout
    assert f"--set num_clusters={planted.num_clusters}" in text
    assert sum("<-" in line for line in text.splitlines()) == len(found["suggestions"])
    assert (run_dir / "suggest_k/scores.html").exists()
