"""GPUs that are asked for and do not come."""

import pytest

pytestmark = pytest.mark.ray


def test_a_cluster_without_gpus_is_waited_for_and_then_refused(dxmc, planted, tmp_path):
    config = planted.config(tmp_path / "run", resources={"num_gpus": 1, "gpu_timeout_s": 1})
    result = dxmc("run", "--config", config, code=1)
    assert "waiting for 1 GPUs, 0 are there" in result.stderr
    assert "error: resources.num_gpus is 1, but the cluster has no GPU" in result.stderr
