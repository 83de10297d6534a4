"""Which products of matrices the CPU is quick at: float32 by oneDNN where it is as exact as MKL, and 8 bits."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

_matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # set up when torch is imported

_PROBE_ROWS, _PROBE_WIDTH = 256, 512
#: Of products of unit rows. In float32 errors stay at 3e-7, with inputs rounded to bfloat16 they come to 1e-3.
_LARGEST_ERROR = 2e-6


@contextmanager
def onednn_products() -> Iterator[None]:
    """Let oneDNN multiply float32 matrices in this process, also as a decorator; see `prefer_onednn`."""
    before = _matmul.fp32_precision
    prefer_onednn()
    try:
        yield
    finally:
        # What is left set makes `torch.get_float32_matmul_precision` fail, which other code of the process may call.
        _matmul.fp32_precision = before


def prefer_onednn() -> bool:
    """Let oneDNN multiply float32 matrices in this process from now on, if it does so in float32; whether it does.

    PyTorch gives these products to MKL, which leaves AVX-512 unused on AMD's processors: 62 to 77 GFLOP/s of a core of
    an EPYC, oneDNN 135 to 180. It gives them to oneDNN only with the leave to round what goes in to bfloat16, and only
    processors with AMX make use of the leave; so a product is tried, and where it comes out rounded MKL keeps them.
    """
    _matmul.fp32_precision = "bf16" if _is_exact() else "none"
    return _is_exact()


@cache
def _is_exact() -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    before = _matmul.fp32_precision
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(_PROBE_ROWS, _PROBE_WIDTH, generator=generator), dim=1)
    _matmul.fp32_precision = "bf16"
    try:
        products = rows @ rows.T
    finally:
        _matmul.fp32_precision = before
    return float((products - rows.double() @ rows.double().T).abs().max()) < _LARGEST_ERROR


def has_fast_int8_products() -> bool:
    """Whether int8 matrices are multiplied several times faster than float32 ones, by instructions made for it.

    Of an EPYC: 800 GFLOP/s of a core. Without the instructions PyTorch multiplies number by number.
    """
    capabilities = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and any(
        capabilities.get(name, False) for name in ("avx512_vnni", "avx_vnni", "amx_int8")
    )
