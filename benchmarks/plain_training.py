"""DXMC's training as a plain PyTorch script, in the structure of the authors' program: what train_heads.py races.

A tensor data set per modality, a data set of neighbours that draws one of each anchor's in `__getitem__`, a
`DataLoader`, both heads on anchors and on neighbours, similarity matrices whose negatives are picked with a mask.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset


class AnchorsWithNeighbors(Dataset):
    """Item i: image and text i, a random image neighbour's image, and a random text neighbour's text."""

    def __init__(
        self, images: TensorDataset, texts: TensorDataset, image_neighbors: np.ndarray, text_neighbors: np.ndarray
    ) -> None:
        self.images, self.texts = images, texts
        self.image_neighbors, self.text_neighbors = image_neighbors, text_neighbors

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        image_neighbor = np.random.choice(self.image_neighbors[index], 1)[0]
        text_neighbor = np.random.choice(self.text_neighbors[index], 1)[0]
        return (
            self.images[index][0],
            self.texts[index][0],
            self.images[image_neighbor][0],
            self.texts[text_neighbor][0],
        )


class PlainHeads(nn.Module):
    """Cluster head and instance head of both modalities; each call passes through all four."""

    def __init__(self, width: int, num_clusters: int, projection_width: int = 1024) -> None:
        super().__init__()

        def cluster_head() -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(width, width),
                nn.BatchNorm1d(width),
                nn.ReLU(),
                nn.Linear(width, num_clusters),
                nn.Softmax(dim=1),
            )

        def instance_head() -> nn.Sequential:
            return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, projection_width))

        self.image_cluster, self.text_cluster = cluster_head(), cluster_head()
        self.image_instance, self.text_instance = instance_head(), instance_head()
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (
            self.image_cluster(images),
            self.text_cluster(texts),
            self.image_instance(images),
            self.text_instance(texts),
        )


class MaskedContrast(nn.Module):
    """NT-Xent over the 2n rows of two (n, P) matrices; the negatives are what a boolean mask leaves."""

    def __init__(self, num_rows: int, temperature: float) -> None:
        super().__init__()
        self.num_rows, self.temperature = num_rows, temperature
        mask = ~torch.eye(2 * num_rows, dtype=torch.bool)
        rows = torch.arange(num_rows)
        mask[rows, rows + num_rows] = mask[rows + num_rows, rows] = False
        self.negatives: Tensor
        self.register_buffer("negatives", mask)
        self.loss = nn.CrossEntropyLoss(reduction="sum")

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        both = torch.cat((first, second), dim=0)
        similarities = torch.matmul(both, both.T) / self.temperature
        positives = torch.cat(
            (torch.diag(similarities, self.num_rows), torch.diag(similarities, -self.num_rows)), dim=0
        ).reshape(2 * self.num_rows, 1)
        negatives = similarities[self.negatives].reshape(2 * self.num_rows, -1)
        logits = torch.cat((positives, negatives), dim=1)
        return self.loss(logits, torch.zeros(2 * self.num_rows, dtype=torch.long)) / (2 * self.num_rows)


class ColumnContrast(MaskedContrast):
    """The same over the columns of two assignment matrices, by cosine."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return super().forward(nn.functional.normalize(first.T, dim=1), nn.functional.normalize(second.T, dim=1))


def entropy(probs: Tensor) -> Tensor:
    mean = probs.mean(dim=0).clamp_min(1e-9)
    return -(mean * torch.log(mean)).sum()


class PlainTraining:
    """The script's objects: model, losses, optimizer, loader."""

    def __init__(
        self,
        images: Tensor,
        texts: Tensor,
        image_neighbors: Tensor,
        text_neighbors: Tensor,
        *,
        num_clusters: int,
        batch_size: int,
        cluster_temperature: float,
        instance_temperature: float,
        entropy_weight: float = 5.0,
        num_loader_workers: int = 0,
    ) -> None:
        dataset = AnchorsWithNeighbors(
            TensorDataset(images.float()), TensorDataset(texts.float()), image_neighbors.numpy(), text_neighbors.numpy()
        )
        self.loader = DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=num_loader_workers,
            persistent_workers=num_loader_workers > 0,
        )
        self.heads = PlainHeads(images.shape[1], num_clusters)
        self.instance = MaskedContrast(batch_size, instance_temperature)
        self.cluster = ColumnContrast(num_clusters, cluster_temperature)
        self.entropy_weight = entropy_weight
        self.optimizer = torch.optim.Adam(self.heads.parameters(), lr=1e-3, betas=(0.9, 0.99))

    def losses(self, images: Tensor, texts: Tensor, image_neighbors: Tensor, text_neighbors: Tensor) -> Tensor:
        image_probs, text_probs, image_projections, text_projections = self.heads(images, texts)
        neighbor_image_probs, neighbor_text_probs, _, _ = self.heads(image_neighbors, text_neighbors)
        instance = self.instance(image_projections, text_projections)
        cluster = self.cluster(image_probs, neighbor_text_probs) + self.cluster(text_probs, neighbor_image_probs)
        return instance + cluster - self.entropy_weight * (entropy(image_probs) + entropy(text_probs))

    def epoch(self) -> Iterator[float]:
        """One pass over the images; the loss of each step, which the script prints."""
        self.heads.train()
        for batch in self.loader:
            loss = self.losses(*batch)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            yield loss.item()
