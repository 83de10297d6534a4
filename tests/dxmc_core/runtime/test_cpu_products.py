"""Float32 products stay exact whichever library makes them, and a process gets its own setting back."""

import pytest
import torch

from dxmc_core.runtime import cpu_products
from dxmc_core.runtime.cpu_products import onednn_products, prefer_onednn


@pytest.fixture(autouse=True)
def pytorchs_own_setting():
    """Other tests of this process may have left another one; it is given back to them."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    yield
    torch.backends.mkldnn.matmul.fp32_precision = before
    cpu_products._is_exact.cache_clear()


def largest_error() -> float:
    rows = torch.nn.functional.normalize(torch.randn(300, 512, generator=torch.Generator().manual_seed(1)), dim=1)
    return float((rows @ rows.T - rows.double() @ rows.double().T).abs().max())


def test_products_are_exact():
    prefer_onednn()
    assert largest_error() < 1e-6


def test_the_setting_is_given_back():
    before = torch.backends.mkldnn.matmul.fp32_precision
    with onednn_products():
        pass
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    torch.get_float32_matmul_precision()  # fails while the setting is another one than PyTorch's own


def test_an_inner_block_leaves_the_setting_of_the_outer_one():
    with onednn_products():
        setting = torch.backends.mkldnn.matmul.fp32_precision
        with onednn_products():
            pass
        assert torch.backends.mkldnn.matmul.fp32_precision == setting


def test_where_products_come_out_rounded_the_setting_stays_pytorchs(monkeypatch):
    monkeypatch.setattr(cpu_products, "_LARGEST_ERROR", 0.0)
    cpu_products._is_exact.cache_clear()
    assert not prefer_onednn()
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"
