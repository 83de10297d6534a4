"""PyTorch's threads, for a while."""

import torch

from dxmc_core.runtime.threads import torch_threads


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
