"""One space from several views of the same images: smoothed rows side by side, reduced to their principal directions.

Views err differently; side by side, what they agree on outweighs what only one of them says. The space lives as float16
and passes through the processor a block at a time.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from dxmc_core.method.best.whitening import normalize_rows
from dxmc_core.method.work import Work
from dxmc_core.runtime.slices import slices_of
from dxmc_core.runtime.threads import torch_threads

#: Half of them lost half a point of ACC on CLIP embeddings, all of them were equal.
NUM_DIRECTIONS = 256

#: Subspace iterations on the covariance, with a few directions to spare: found to all digits that matter.
_ITERATIONS, _SPARE_DIRECTIONS = 8, 32
#: Up to this width all eigenvectors are computed, which is exact and as quick.
_MAX_EXACT_WIDTH = 640

_ROWS_PER_BLOCK = 16_384


def principal_rows(
    views: Sequence[np.ndarray], num_directions: int = NUM_DIRECTIONS, *, device: str = "cpu"
) -> np.ndarray:
    """Unit rows (N, min(num_directions, sum of widths)) float32: the views side by side, centred, on their first axes.

    Args:
        views: each (N, R_v) of a float type; joined rows are brought to unit norm before they are centred.
        device: where the products run.
    """
    width = sum(view.shape[1] for view in views)
    num_rows = len(views[0])
    total, scatter = torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64)
    for rows in _joined_blocks(views, device):
        total += rows.sum(dim=0, dtype=torch.float64).cpu()
        scatter += (rows.T @ rows).cpu()
    mean = total / num_rows
    axes = _leading_axes(scatter / num_rows - torch.outer(mean, mean), min(num_directions, width)).to(device)
    offset = mean.float().to(device) @ axes
    reduced = np.empty((num_rows, axes.shape[1]), dtype=np.float32)
    start = 0
    for rows in _joined_blocks(views, device):
        reduced[start : start + len(rows)] = (rows @ axes - offset).cpu().numpy()
        start += len(rows)
    return normalize_rows(reduced)


def _joined_blocks(views: Sequence[np.ndarray], device: str) -> Iterator[torch.Tensor]:
    for part in slices_of(len(views[0]), _ROWS_PER_BLOCK):
        block = [torch.from_numpy(view[part]).to(device).float() for view in views]
        yield F.normalize(torch.cat(block, dim=1), dim=1)


def _leading_axes(covariance: torch.Tensor, count: int) -> torch.Tensor:
    """Eigenvectors (width, count) float32 of the largest eigenvalues, the largest first."""
    width = len(covariance)
    if width <= _MAX_EXACT_WIDTH:
        return torch.linalg.eigh(covariance)[1].flip(1)[:, :count].float()
    covariance = covariance.float()
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(width, min(count + _SPARE_DIRECTIONS, width), generator=generator)
    for _ in range(_ITERATIONS):
        product = covariance @ axes
        # Its steps are small: two threads took 0.14 s for what one does in 0.01, three on two cores minutes.
        with torch_threads(1):
            axes = torch.linalg.qr(product)[0]
    inside = torch.linalg.eigh((axes.T @ covariance @ axes).double())[1].flip(1)[:, :count]
    return axes @ inside.float()


def principal_work(num_rows: int, width: int) -> Work:
    """What `principal_rows` does with views of so many columns together."""
    axes = min(NUM_DIRECTIONS, width)
    eigenvectors = 10.0 * width**3 if width <= _MAX_EXACT_WIDTH else 4.0 * _ITERATIONS * width**2 * axes
    return Work(2.0 * num_rows * width * (width + axes) + eigenvectors)
