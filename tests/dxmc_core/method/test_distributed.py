"""Any number of processes computes what one does: collectives, batch norm, losses, gradients, whole training runs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dxmc_core.method.distributed import (
    GlobalBatchNorm1d,
    all_gather_rows,
    all_reduce_sum,
    column_cosines,
    global_mean,
    row_counts_of_ranks,
    rows_of_rank,
)

NUM_PROCESSES = 4
WORKER = Path(__file__).with_name("gloo_worker.py")
REPOSITORY = Path(__file__).parents[3]
TRAINING_CASES = ("best", "dxmc_code", "dxmc_paper_shared_trunk", "mca", "sic", "tac", "temi", "turtle")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What `gloo_worker.py` found with no process group (0) and in worlds of 1..4 processes."""
    folder = tmp_path_factory.mktemp("gloo")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER), str(NUM_PROCESSES), str(folder)]
    subprocess.run(command, env=environment, check=True, timeout=300)
    return {size: torch.load(folder / f"world_{size}.pt", weights_only=True) for size in range(NUM_PROCESSES + 1)}


@pytest.mark.slow
@pytest.mark.parametrize("world", range(1, NUM_PROCESSES + 1))
def test_collectives_losses_and_batch_norm_equal_one_process(worlds: dict[int, dict[str, Any]], world: int) -> None:
    cases = [name for name, value in worlds[0].items() if isinstance(value, torch.Tensor)]
    assert len(cases) > 40
    for name in cases:
        torch.testing.assert_close({name: worlds[world][name]}, {name: worlds[0][name]}, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("case", TRAINING_CASES)
@pytest.mark.parametrize("world", range(1, NUM_PROCESSES + 1))
def test_training_equals_one_process(worlds: dict[int, dict[str, Any]], world: int, case: str) -> None:
    alone, together = worlds[0][case], worlds[world][case]
    assert len(alone["losses"]) >= 20
    assert len(alone["losses"].unique()) > 10
    torch.testing.assert_close(together["losses"], alone["losses"], rtol=1e-9, atol=0)
    torch.testing.assert_close(together["weights"], alone["weights"], rtol=1e-6, atol=1e-7)
    assert torch.equal(together["cluster_sizes"], alone["cluster_sizes"])
    assert torch.equal(together["num_changed"], alone["num_changed"])


@pytest.mark.parametrize(("num_rows", "num_ranks"), [(512, 3), (7, 4), (2, 4), (0, 2), (10, 1)])
def test_shares_of_ranks_cover_every_row_once_and_evenly(num_rows: int, num_ranks: int) -> None:
    shares = [rows_of_rank(num_rows, rank_index=index, num_ranks=num_ranks) for index in range(num_ranks)]
    covered = [row for share in shares for row in range(share.start, share.stop)]
    assert covered == list(range(num_rows))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_alone_collectives_are_plain() -> None:
    rows = torch.randn(5, 3)
    assert all_gather_rows(rows) is rows
    assert all_reduce_sum(rows) is rows
    assert row_counts_of_ranks(5) == [5]
    torch.testing.assert_close(global_mean(rows), rows.mean(0))


def test_column_cosines_equal_cosines_of_columns() -> None:
    rows = torch.randn(9, 4, dtype=torch.float64)
    rows[:, 2] = 0
    columns = nn.functional.normalize(rows.T)
    torch.testing.assert_close(column_cosines(rows), columns @ columns.T)


def test_global_batch_norm_alone_is_batch_norm() -> None:
    own, reference = GlobalBatchNorm1d(4), nn.BatchNorm1d(4)
    own.load_state_dict(reference.state_dict())
    for _ in range(3):
        rows = 5 + 2 * torch.randn(6, 4)
        assert torch.equal(own(rows), reference(rows))
    assert all(torch.equal(own.state_dict()[key], value) for key, value in reference.state_dict().items())
    assert torch.equal(own.eval()(rows), reference.eval()(rows))
