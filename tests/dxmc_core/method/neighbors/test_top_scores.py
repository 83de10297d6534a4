"""The two-step search for the largest scores against a full sort."""

import pytest
import torch

from dxmc_core.method.neighbors.top_scores import top_scores


@pytest.mark.parametrize("num_columns", [1, 31, 200, 1280, 4000, 4031])
@pytest.mark.parametrize("count", [1, 10, 59])
def test_largest_of_each_row(num_columns: int, count: int) -> None:
    count = min(count, num_columns)
    scores = torch.randn(17, num_columns, generator=torch.Generator().manual_seed(num_columns))
    values, columns = top_scores(scores, count)
    expected, expected_columns = scores.sort(dim=1, descending=True)
    assert torch.equal(values, expected[:, :count])
    assert torch.equal(columns, expected_columns[:, :count])


def test_largest_all_in_one_group_or_among_the_left_over_columns() -> None:
    scores = torch.zeros(2, 4031)
    scores[0, 64:96] = torch.arange(1.0, 33.0)
    scores[1, 4000:] = torch.arange(1.0, 32.0)
    values, columns = top_scores(scores, 20)
    assert columns[0].tolist() == list(range(95, 75, -1))
    assert columns[1].tolist() == list(range(4030, 4010, -1))
    assert (values > 0).all()


def test_of_equal_scores_all_columns_are_different() -> None:
    _, columns = top_scores(torch.ones(3, 4000), 50)
    assert all(len(set(row)) == 50 for row in columns.tolist())


def test_columns_that_are_left_out_come_last() -> None:
    scores = torch.full((1, 4000), -torch.inf)
    scores[0, 3] = 0.5
    values, columns = top_scores(scores, 5)
    assert columns[0, 0] == 3
    assert values[0, 1:].isneginf().all()
