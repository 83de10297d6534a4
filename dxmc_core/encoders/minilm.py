"""all-MiniLM-L6-v2, the offline encoder's text tower: a BERT of 6 layers in plain PyTorch, without transformers.

Shapes: B texts, L tokens, D = 384, H = 12 heads.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from dxmc_core.encoders.batching import map_batches, normalize_rows, rows_by_length
from dxmc_core.method.work import Work

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NUM_LAYERS = 6
NUM_HEADS = 12
WIDTH = 384
_LAYER_NORM_EPS = 1e-12


class MiniLM:
    """Sentence embeddings: the mean of the last layer over all tokens, unit length.

    Args:
        weights: the state dict of BERT as transformers names it.
        tokenizer: cuts texts at 128 tokens.
    """

    def __init__(
        self, weights: Mapping[str, torch.Tensor], tokenizer: "Tokenizer", *, device: str, batch_size: int
    ) -> None:
        self._weights = {name: tensor.to(device) for name, tensor in weights.items()}
        self._device = device
        self._batch_size = batch_size
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Texts to unit vectors float32 (M, 384). Each text is computed among texts of its own length."""
        token_ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        embeddings = np.empty((len(texts), WIDTH), dtype=np.float32)
        lengths = np.fromiter(map(len, token_ids), dtype=np.int64, count=len(texts))
        for _, rows in rows_by_length(lengths):
            ids_BL = np.array([token_ids[row] for row in rows], dtype=np.int64)
            embeddings[rows] = map_batches(
                self._forward, ids_BL, device=self._device, batch_size=self._batch_size, width=WIDTH
            )
        return normalize_rows(embeddings)

    def _forward(self, ids_BL: torch.Tensor) -> torch.Tensor:
        weights, length = self._weights, ids_BL.shape[1]
        x_BLD = F.embedding(ids_BL.to(self._device), weights["embeddings.word_embeddings.weight"])
        x_BLD = x_BLD + weights["embeddings.position_embeddings.weight"][:length]
        x_BLD = self._layer_norm(x_BLD + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(NUM_LAYERS):
            name = f"encoder.layer.{layer}"
            x_BLD = self._layer_norm(x_BLD + self._attend(x_BLD, name), f"{name}.attention.output.LayerNorm")
            hidden = F.gelu(self._linear(x_BLD, f"{name}.intermediate.dense"))
            x_BLD = self._layer_norm(x_BLD + self._linear(hidden, f"{name}.output.dense"), f"{name}.output.LayerNorm")
        return x_BLD.mean(dim=1)

    def _attend(self, x_BLD: torch.Tensor, name: str) -> torch.Tensor:
        batch, length, _ = x_BLD.shape
        query, key, value = (
            self._linear(x_BLD, f"{name}.attention.self.{part}").view(batch, length, NUM_HEADS, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        mixed_BHL = F.scaled_dot_product_attention(query, key, value)
        return self._linear(mixed_BHL.transpose(1, 2).reshape(batch, length, WIDTH), f"{name}.attention.output.dense")

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _layer_norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(
            x, (WIDTH,), self._weights[f"{name}.weight"], self._weights[f"{name}.bias"], eps=_LAYER_NORM_EPS
        )


def text_work(num_tokens: int) -> Work:
    """Of one text: 12 D^2 weights a layer, each token times each of them; attention is little at such lengths."""
    return Work(2.0 * NUM_LAYERS * 12 * WIDTH**2 * num_tokens)
