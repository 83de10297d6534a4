"""Heads: the small networks (and centroids) that turn frozen embeddings into assignment probabilities.

Every head class assigns with `assignment_probs`, says by `needs_text` whether that takes text counterparts, and
describes itself by `architecture()`, a JSON-able dict from which `build_heads` makes it again: a state dict plus that
dict is a complete saved model.
"""

from itertools import chain
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from dxmc_core.method.distributed import GlobalBatchNorm1d


class Heads(nn.Module):
    """What every kind of heads offers to stages and estimators."""

    kind: ClassVar[str]
    described_by: ClassVar[tuple[str, ...]] = ("embedding_width", "num_clusters")
    embedding_width: int
    num_clusters: int
    needs_text: bool = False

    def architecture(self) -> dict[str, Any]:
        """JSON-able description, `kind` included, that `build_heads` understands."""
        return {"kind": self.kind, **{name: getattr(self, name) for name in self.described_by}}

    def assignment_probs(self, image_embeddings: Tensor, text_counterparts: Tensor | None = None) -> Tensor:
        """Probabilities (B, K) of unit-norm rows (B, D) of any float type, in evaluation mode and without gradients.

        A row's result depends on that row alone (up to the rounding of another batch size). The mode the heads were in
        is restored.

        Raises:
            ValueError: the width differs from `embedding_width`, or `needs_text` and there is no text.
        """
        if self.needs_text and text_counterparts is None:
            raise ValueError(f"{self.kind} heads assign by image and text: expected text_counterparts, found none")
        images = self._checked(image_embeddings, "image_embeddings")
        texts = self._checked(text_counterparts, "text_counterparts") if text_counterparts is not None else None
        was_training = self.training
        self.eval()
        with torch.no_grad():
            probs = self._probs(images, texts if self.needs_text else None)
        self.train(was_training)
        return probs

    def _checked(self, rows: Tensor, name: str) -> Tensor:
        if rows.ndim != 2 or rows.shape[1] != self.embedding_width:
            raise ValueError(
                f"these heads take {name} of shape (rows, {self.embedding_width}), found {tuple(rows.shape)}; "
                "they were made with another encoder"
            )
        return rows.to(next(chain(self.parameters(), self.buffers())))

    def _probs(self, images: Tensor, texts: Tensor | None) -> Tensor:
        raise NotImplementedError


class ModalityHeads(nn.Module):
    """Cluster head and, where `projection_width` is positive, instance head of one modality.

    Disjoint (as published): Linear(D, D) - BatchNorm - ReLU - Linear(D, K) and Linear(D, D) - ReLU - Linear(D, P).
    Shared trunk: Linear(D, D) - BatchNorm - ReLU under both Linear(D, K) and Linear(D, P), so that both losses shape
    it.
    """

    def __init__(self, embedding_width: int, num_clusters: int, *, projection_width: int, shared_trunk: bool) -> None:
        super().__init__()
        hidden = [nn.Linear(embedding_width, embedding_width), GlobalBatchNorm1d(embedding_width), nn.ReLU()]
        self.trunk = nn.Sequential(*hidden) if shared_trunk else nn.Identity()
        self.cluster_head = nn.Sequential(*([] if shared_trunk else hidden), nn.Linear(embedding_width, num_clusters))
        self.instance_head: nn.Sequential | None = None
        if projection_width > 0:
            own_hidden = [] if shared_trunk else [nn.Linear(embedding_width, embedding_width), nn.ReLU()]
            self.instance_head = nn.Sequential(*own_hidden, nn.Linear(embedding_width, projection_width))

    def cluster_probs(self, embeddings: Tensor) -> Tensor:
        """Assignment probabilities (b, K) of rows (b, D)."""
        return self.cluster_head(self.trunk(embeddings)).softmax(dim=1)

    def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor | None]:
        """Assignment probabilities (b, K) and projections (b, P), None without an instance head, of rows (b, D)."""
        features = self.trunk(embeddings)
        projections = None if self.instance_head is None else self.instance_head(features)
        return self.cluster_head(features).softmax(dim=1), projections


class DualHeads(Heads):
    """Heads of DXMC and TAC, one set per modality; predictions come from the image cluster head alone.

    Args:
        embedding_width: D of image embeddings and text counterparts.
        projection_width: P of the instance heads, 0 for none (TAC).
        shared_trunk: one trunk per modality under its two heads; disjoint heads otherwise.
        seed: of the initial weights (truncated normal, std 0.02; biases zero). Cluster heads draw first, so they start
            alike with and without instance heads.
    """

    kind = "dual"
    described_by = (*Heads.described_by, "projection_width", "shared_trunk")

    def __init__(
        self,
        embedding_width: int,
        num_clusters: int,
        *,
        projection_width: int = 1024,
        shared_trunk: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.embedding_width, self.num_clusters = embedding_width, num_clusters
        self.projection_width, self.shared_trunk = projection_width, shared_trunk

        def modality_heads() -> ModalityHeads:
            return ModalityHeads(
                embedding_width, num_clusters, projection_width=projection_width, shared_trunk=shared_trunk
            )

        self.image, self.text = modality_heads(), modality_heads()
        both = (self.image, self.text)
        parts = [part for modality in both for part in (modality.trunk, modality.cluster_head)]
        initialize_linears([*parts, *(modality.instance_head for modality in both)], seed=seed)

    def _probs(self, images: Tensor, texts: Tensor | None) -> Tensor:
        return self.image.cluster_probs(images)


class CentroidHead(Heads):
    """Softmax over cosine / temperature to K centroids: kmeans, and concat_kmeans when the centroids span image and
    text.

    The argmax is the nearest centroid whatever the temperature is; the temperature only shapes the confidence.

    Args:
        centers: (K, D), or (K, 2D) when `needs_text` for centroids of the concatenation [v, t~]; normalised here.
    """

    kind = "centroid"
    described_by = (*Heads.described_by, "temperature", "needs_text")
    centers: Tensor

    def __init__(self, centers: Tensor, *, temperature: float = 0.02, needs_text: bool = False) -> None:
        super().__init__()
        if centers.ndim != 2 or (needs_text and centers.shape[1] % 2):
            raise ValueError(f"expected centers (K, {'2D' if needs_text else 'D'}), found shape {tuple(centers.shape)}")
        self.num_clusters, width = centers.shape
        self.embedding_width = width // 2 if needs_text else width
        self.temperature, self.needs_text = temperature, needs_text
        self.register_buffer("centers", F.normalize(centers.detach().clone().float(), dim=1))

    def _probs(self, images: Tensor, texts: Tensor | None) -> Tensor:
        rows = images if texts is None else torch.cat([F.normalize(images, dim=1), F.normalize(texts, dim=1)], dim=1)
        return (F.normalize(rows, dim=1) @ self.centers.T / self.temperature).softmax(dim=1)


class LinearHead(Heads):
    """One linear softmax classifier of the image (SIC), or one per modality whose probabilities are averaged (TURTLE).

    Args:
        weight_norm: a classifier's rows have a length and a direction of their own; TURTLE's task encoders need it.
        feature_scale: factor on the unit-norm rows, which sets how fast a learning rate moves the probabilities.
        needs_text: a second classifier, of the text counterparts.
        seed: of the initial weights (truncated normal, std 0.02; biases zero).
    """

    kind = "linear"
    described_by = (*Heads.described_by, "weight_norm", "feature_scale", "needs_text")

    def __init__(
        self,
        embedding_width: int,
        num_clusters: int,
        *,
        weight_norm: bool = False,
        feature_scale: float = 1.0,
        needs_text: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.embedding_width, self.num_clusters = embedding_width, num_clusters
        self.weight_norm, self.feature_scale, self.needs_text = weight_norm, feature_scale, needs_text
        self.classifiers = nn.ModuleList(nn.Linear(embedding_width, num_clusters) for _ in range(1 + needs_text))
        initialize_linears(list(self.classifiers), seed=seed)
        if weight_norm:
            for classifier in self.classifiers:
                parametrizations.weight_norm(classifier)

    def logits(self, images: Tensor, texts: Tensor | None = None) -> list[Tensor]:
        """Logits (b, K) of each modality's classifier for rows (b, D)."""
        modalities = (images,) if texts is None else (images, texts)
        return [
            classifier(self.feature_scale * rows) for classifier, rows in zip(self.classifiers, modalities, strict=True)
        ]

    def _probs(self, images: Tensor, texts: Tensor | None) -> Tensor:
        return torch.stack([logits.softmax(dim=1) for logits in self.logits(images, texts)]).mean(dim=0)


class DiscriminantHead(Heads):
    """Softmax over cosine / temperature to K centres, after a linear map that whitens the clusters' scatter.

    It starts as a `Discriminant` (see `start_from`) and trains its centres; the map has D outputs: those beyond
    the discriminant's own stay zero.

    Args:
        temperature: of the softmax; assignments do not depend on it.
    """

    kind = "discriminant"
    described_by = (*Heads.described_by, "temperature")

    def __init__(self, embedding_width: int, num_clusters: int, *, temperature: float = 0.1) -> None:
        super().__init__()
        self.embedding_width, self.num_clusters, self.temperature = embedding_width, num_clusters, temperature
        self.whitening = nn.Linear(embedding_width, embedding_width).requires_grad_(False)
        self.centers = nn.Parameter(torch.zeros(num_clusters, embedding_width))

    def start_from(self, mean: Tensor, matrix: Tensor, centers: Tensor) -> None:
        """Assign as x -> the centre nearest to (x - mean) @ matrix does: mean (D,), matrix (D, R), centers (K, R)."""
        # The scale is free; columns of norm 1 suit Adam's absolute steps.
        matrix = matrix / matrix.norm(dim=0).mean()
        beyond = self.embedding_width - matrix.shape[1]
        with torch.no_grad():
            self.whitening.weight.copy_(F.pad(matrix.T, (0, 0, 0, beyond)))
            self.whitening.bias.copy_(F.pad(-(mean @ matrix), (0, beyond)))
            self.centers.copy_(F.pad(centers, (0, beyond)))

    def log_probs(self, images: Tensor) -> Tensor:
        """Log-probabilities (b, K) of rows (b, D)."""
        cosines = F.normalize(self.whitening(images), dim=1) @ F.normalize(self.centers, dim=1).T
        return (cosines / self.temperature).log_softmax(dim=1)

    def _probs(self, images: Tensor, texts: Tensor | None) -> Tensor:
        return self.log_probs(images).exp()


class AdaptedLinearHead(Heads):
    """A small residual map of the embedding, then a linear softmax classifier (MCA, one per modality).

    z = normalise(v + W2 relu(W1 v)); the map starts at the identity, W2 = 0.

    Args:
        adapter_width: rows of W1.
        seed: of the initial weights (truncated normal, std 0.02; biases zero).
    """

    kind = "adapted_linear"
    described_by = (*Heads.described_by, "adapter_width")

    def __init__(self, embedding_width: int, num_clusters: int, *, adapter_width: int = 128, seed: int = 0) -> None:
        super().__init__()
        self.embedding_width, self.num_clusters, self.adapter_width = embedding_width, num_clusters, adapter_width
        last = nn.Linear(adapter_width, embedding_width)
        self.adapter = nn.Sequential(nn.Linear(embedding_width, adapter_width), nn.ReLU(), last)
        self.classifier = nn.Linear(embedding_width, num_clusters)
        initialize_linears([self.adapter, self.classifier], seed=seed)
        nn.init.zeros_(last.weight)

    def features(self, embeddings: Tensor) -> Tensor:
        """Adapted rows (b, D) of unit norm."""
        return F.normalize(embeddings + self.adapter(embeddings), dim=1)

    def _probs(self, images: Tensor, texts: Tensor | None) -> Tensor:
        return self.classifier(self.features(images)).softmax(dim=1)


class MultiHead(Heads):
    """TEMI's heads, many trained at once; the one of lowest loss assigns.

    Each: standardise - Linear(D, W) - GELU - Linear(W, P) - unit norm - weight-normalised Linear(P, K) without bias,
    whose logits are divided by the temperature. All heads are one set of batched matrices.

    Args:
        num_heads: H.
        hidden_width, bottleneck_width: W and P.
        seed: of the initial weights (truncated normal, std 0.02; biases zero; lengths of the last layer's rows one).

    Attributes:
        mean, std: (D,) of the training embeddings, subtracted and divided by; (0, 1) until set.
        head_losses: (H,) by which the assigning head is chosen.
    """

    kind = "multi_head"
    described_by = (*Heads.described_by, "num_heads", "hidden_width", "bottleneck_width", "temperature")
    mean: Tensor
    std: Tensor
    head_losses: Tensor

    def __init__(
        self,
        embedding_width: int,
        num_clusters: int,
        *,
        num_heads: int = 16,
        hidden_width: int = 512,
        bottleneck_width: int = 256,
        temperature: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.embedding_width, self.num_clusters, self.num_heads = embedding_width, num_clusters, num_heads
        self.hidden_width, self.bottleneck_width, self.temperature = hidden_width, bottleneck_width, temperature
        generator = torch.Generator().manual_seed(seed)

        def weights(*shape: int) -> nn.Parameter:
            return nn.Parameter(nn.init.trunc_normal_(torch.empty(num_heads, *shape), std=0.02, generator=generator))

        self.hidden_weight = weights(embedding_width, hidden_width)
        self.hidden_bias = nn.Parameter(torch.zeros(num_heads, 1, hidden_width))
        self.bottleneck_weight = weights(hidden_width, bottleneck_width)
        self.bottleneck_bias = nn.Parameter(torch.zeros(num_heads, 1, bottleneck_width))
        self.cluster_directions = weights(bottleneck_width, num_clusters)
        self.cluster_lengths = nn.Parameter(torch.ones(num_heads, 1, num_clusters))
        self.register_buffer("mean", torch.zeros(embedding_width))
        self.register_buffer("std", torch.ones(embedding_width))
        self.register_buffer("head_losses", torch.zeros(num_heads))

    def log_probs(self, embeddings: Tensor, heads: Tensor | slice = slice(None)) -> Tensor:
        """Log-probabilities (H, b, K) of rows (b, D), of all heads or of those chosen."""
        rows = (embeddings - self.mean) / self.std
        hidden = F.gelu(rows @ self.hidden_weight[heads] + self.hidden_bias[heads])
        bottleneck = F.normalize(hidden @ self.bottleneck_weight[heads] + self.bottleneck_bias[heads], dim=2)
        cosines = bottleneck @ F.normalize(self.cluster_directions[heads], dim=1)
        return (cosines * self.cluster_lengths[heads] / self.temperature).log_softmax(dim=2)

    def _probs(self, images: Tensor, texts: Tensor | None) -> Tensor:
        return self.log_probs(images, self.head_losses.argmin()[None])[0].exp()


def initialize_linears(modules: list[nn.Module | None], *, seed: int) -> None:
    """Truncated normal weights of std 0.02 and zero biases for every linear layer, drawn in the order given."""
    generator = torch.Generator().manual_seed(seed)
    for module in modules:
        for layer in module.modules() if module is not None else ():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
                nn.init.zeros_(layer.bias)


def build_heads(architecture: dict[str, Any]) -> Heads:
    """Untrained heads of a saved `architecture()`, on the CPU and in evaluation mode; load their state dict next.

    Raises:
        ValueError: the kind is unknown or its description is incomplete.
    """
    description = dict(architecture)
    kind = description.pop("kind", None)
    try:
        heads = _make(kind, description)
    except (TypeError, KeyError) as error:
        raise ValueError(f"unusable description of {kind} heads {description}: {error}") from error
    return heads.eval()


def _make(kind: str | None, description: dict[str, Any]) -> Heads:
    for trained in (DualHeads, LinearHead, DiscriminantHead, AdaptedLinearHead, MultiHead):
        if kind == trained.kind:
            return trained(**description)
    if kind == CentroidHead.kind:
        spaces = 2 if description["needs_text"] else 1
        centers = torch.zeros(description["num_clusters"], spaces * description["embedding_width"])
        return CentroidHead(centers, temperature=description["temperature"], needs_text=description["needs_text"])
    raise ValueError(
        f"expected heads of kind dual, linear, discriminant, adapted_linear, multi_head or centroid, found {kind!r}; "
        "they were saved by another version"
    )
