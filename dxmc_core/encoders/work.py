"""What an encoder has to do for an image and for a noun, counted on its model without weights: nothing is loaded."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from dxmc_core.method.work import Work

#: Rows of the forward pass that is counted: a batch shares the reading of the weights.
_BATCH_ROWS = 32


def count_work(forward: Callable[[torch.Tensor], Any], *shape: int, dtype: torch.dtype = torch.float32) -> Work:
    """Work of a forward pass for one row of this shape, by a model on the device meta without gradients.

    What operations write is counted beside their products: that is what takes the time of activations and of
    convolutions in groups. What they read is still in a cache.
    """
    rows = torch.zeros(_BATCH_ROWS, *shape, dtype=dtype, device="meta")
    products, written = FlopCounterMode(display=False), _Written()
    with torch.inference_mode(), products, written:
        forward(rows)
    return Work(products.get_total_flops() / _BATCH_ROWS, written.num_bytes / _BATCH_ROWS)


class _Written(TorchDispatchMode):
    """Counts the bytes of what operations make, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        aliases = [output.alias_info for output in function._schema.returns]
        if all(alias is None or alias.is_write for alias in aliases):
            tensors = (leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
            self.num_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result
