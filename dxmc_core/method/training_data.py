"""The matrices that training reads, and the anchors and random neighbours drawn from them by position.

Nothing is copied: float16 rows stay float16 where they lie (memory-mapped host memory, or the GPU when they fit) and
are cast a batch at a time.
"""

import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from dxmc_core.method.distributed import row_counts_of_ranks, rows_of_rank

MATRICES = (
    "text_counterparts",
    "image_neighbors",
    "text_neighbors",
    "noun_embeddings",
    "noun_hypernyms",
    "selected_nouns",
)
"""What there may be beyond the image embeddings; see `TrainingData`."""

KNOWN = ("known_images", "apart_groups")
"""What people know of some of the images, for whichever method listens to it; see `constraints.Constraints`."""


@dataclass(frozen=True)
class Batch:
    """This rank's share of a global batch; what the objective does not ask for is None.

    Attributes:
        rows: (b,) int64 positions of the anchors.
        images, texts: (b, D) anchors and their text counterparts.
        image_neighbors: (b, D) one random image neighbour of each anchor.
        text_neighbors: (b, D) text counterpart of one random text neighbour of each anchor.
        row_counts: b of every rank.
    """

    rows: Tensor
    images: Tensor
    texts: Tensor | None
    image_neighbors: Tensor | None
    text_neighbors: Tensor | None
    row_counts: list[int]


@dataclass(frozen=True)
class TrainingData:
    """Matrices over the N images of a run, all on one device and indexed by position 0..N-1.

    Attributes:
        image_embeddings: (N, D) float16 or float32, unit rows; of several encoders as `join_encoders` has them.
        text_counterparts: (N, D) the same, or None for methods without text; D is that of the first encoder.
        image_neighbors: (N, k) int32 or int64 positions, or None.
        text_neighbors: (N, k') the same, among the text counterparts.
        noun_embeddings: (M, D) float16 or float32, unit rows: the nouns that SIC and MCA choose their space from (the
            whole vocabulary, as published, or an earlier selection of it), or None.
        noun_hypernyms: (E, 2) int32 or int64 pairs [noun, its hypernym] of positions in `noun_embeddings`, without a
            cycle, or None where the nouns have no hierarchy.
        selected_nouns: (S, D) float16 or float32, unit rows: the nouns that text counterparts are mixed from, or None.
        encoder_widths: columns of the image embeddings that each of several encoders has; none with one.
        known_images: (m, 2) int64 pairs [position, group] of images that people know something of, positions ascending:
            those of a group belong together; or None.
        apart_groups: (P, 2) int64 pairs of groups that belong apart; goes with them.

    Raises:
        ValueError: shapes disagree, neighbours are not positions in 0..N-1, or the matrices lie on different devices.
    """

    image_embeddings: Tensor
    text_counterparts: Tensor | None = None
    image_neighbors: Tensor | None = None
    text_neighbors: Tensor | None = None
    noun_embeddings: Tensor | None = None
    noun_hypernyms: Tensor | None = None
    selected_nouns: Tensor | None = None
    encoder_widths: tuple[int, ...] = ()
    known_images: Tensor | None = None
    apart_groups: Tensor | None = None

    def __post_init__(self) -> None:
        if self.image_embeddings.ndim != 2:
            raise ValueError(f"expected image_embeddings (N, D), found shape {tuple(self.image_embeddings.shape)}")
        if self.encoder_widths and sum(self.encoder_widths) != self.embedding_width:
            raise ValueError(
                f"expected image_embeddings of widths {list(self.encoder_widths)} side by side, found "
                f"{self.embedding_width} columns"
            )
        shape = (self.num_images, self.first_width)
        if self.text_counterparts is not None and self.text_counterparts.shape != shape:
            raise ValueError(
                f"expected text_counterparts of shape {shape} like image_embeddings, "
                f"found {tuple(self.text_counterparts.shape)}"
            )
        for name in ("image_neighbors", "text_neighbors"):
            self._check_neighbors(name, getattr(self, name))
        self._check_nouns()
        present = [matrix for matrix in self._matrices().values() if matrix is not None]
        if len({matrix.device for matrix in present}) > 1:
            raise ValueError(f"expected all matrices on one device, found {sorted({str(m.device) for m in present})}")

    def _check_neighbors(self, name: str, neighbors: Tensor | None) -> None:
        if neighbors is None:
            return
        if neighbors.ndim != 2 or len(neighbors) != self.num_images or neighbors.shape[1] == 0:
            raise ValueError(f"expected {name} ({self.num_images}, k) with k > 0, found shape {tuple(neighbors.shape)}")
        _check_positions(name, neighbors, self.num_images)

    def _check_nouns(self) -> None:
        for name in ("noun_embeddings", "selected_nouns"):
            rows = getattr(self, name)
            if rows is not None and (rows.ndim != 2 or len(rows) == 0 or rows.shape[1] != self.first_width):
                raise ValueError(
                    f"expected {name} (M, {self.first_width}) of the images' encoder, found shape {tuple(rows.shape)}"
                )
        nouns, hypernyms = self.noun_embeddings, self.noun_hypernyms
        if hypernyms is None:
            return
        if nouns is None or hypernyms.ndim != 2 or hypernyms.shape[1] != 2:
            found = "no noun_embeddings" if nouns is None else f"shape {tuple(hypernyms.shape)}"
            raise ValueError(f"expected noun_hypernyms (E, 2) along with noun_embeddings, found {found}")
        if len(hypernyms):
            _check_positions("noun_hypernyms", hypernyms, len(nouns))

    @classmethod
    def from_arrays(
        cls,
        image_embeddings: np.ndarray,
        *,
        text_counterparts: np.ndarray | None = None,
        image_neighbors: np.ndarray | None = None,
        text_neighbors: np.ndarray | None = None,
        noun_embeddings: np.ndarray | None = None,
        noun_hypernyms: np.ndarray | None = None,
        selected_nouns: np.ndarray | None = None,
        encoder_widths: Sequence[int] = (),
        known_images: np.ndarray | None = None,
        apart_groups: np.ndarray | None = None,
    ) -> "TrainingData":
        """Wrap numpy arrays, memory-mapped ones included, without copying them."""
        optional = {
            "text_counterparts": text_counterparts,
            "image_neighbors": image_neighbors,
            "text_neighbors": text_neighbors,
            "noun_embeddings": noun_embeddings,
            "noun_hypernyms": noun_hypernyms,
            "selected_nouns": selected_nouns,
            "known_images": known_images,
            "apart_groups": apart_groups,
        }
        matrices = {name: _as_tensor(array) for name, array in optional.items() if array is not None}
        return cls(_as_tensor(image_embeddings), encoder_widths=tuple(encoder_widths), **matrices)

    @property
    def num_images(self) -> int:
        """N."""
        return self.image_embeddings.shape[0]

    @property
    def embedding_width(self) -> int:
        """D."""
        return self.image_embeddings.shape[1]

    @property
    def first_width(self) -> int:
        """D of the first encoder, which texts and nouns have too."""
        return self.encoder_widths[0] if self.encoder_widths else self.embedding_width

    @property
    def device(self) -> torch.device:
        """Where the matrices lie, which need not be where training computes."""
        return self.image_embeddings.device

    @property
    def size_bytes(self) -> int:
        """Bytes of all matrices, to judge whether they fit a GPU."""
        return sum(matrix.nbytes for matrix in self._matrices().values() if matrix is not None)

    def to(self, device: torch.device | str) -> "TrainingData":
        """The same data on another device."""
        moved = {name: None if matrix is None else matrix.to(device) for name, matrix in self._matrices().items()}
        return self._with(moved)

    def only(self, names: Collection[str]) -> "TrainingData":
        """The image embeddings, what people know, and of the other matrices those named; a hierarchy of nouns goes
        with the nouns.

        Raises:
            ValueError: a named matrix is missing.
        """
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            raise ValueError(f"this method trains on {', '.join(sorted(names))}; found no {', '.join(missing)}")
        wanted = {"image_embeddings", *KNOWN, *names}
        if "noun_embeddings" in wanted:
            wanted.add("noun_hypernyms")
        return self._with({name: matrix if name in wanted else None for name, matrix in self._matrices().items()})

    def nearest(self, num_neighbors: int | None) -> "TrainingData":
        """The same data with at most this many neighbours per row, the nearest ones; None keeps all."""
        if num_neighbors is None:
            return self
        return replace(
            self,
            image_neighbors=None if self.image_neighbors is None else self.image_neighbors[:, :num_neighbors],
            text_neighbors=None if self.text_neighbors is None else self.text_neighbors[:, :num_neighbors],
        )

    def _with(self, matrices: dict[str, Tensor | None]) -> "TrainingData":
        images = matrices.pop("image_embeddings")
        assert images is not None
        return TrainingData(images, **matrices, encoder_widths=self.encoder_widths)

    def _matrices(self) -> dict[str, Tensor | None]:
        return {name: getattr(self, name) for name in ("image_embeddings", *MATRICES, *KNOWN)}


def draw_batches(
    data: TrainingData,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    device: torch.device,
    dtype: torch.dtype,
    num_batches: int | None = None,
) -> Iterator[Batch]:
    """This rank's share of each global batch of an epoch, with whatever matrices `data` has.

    An epoch is one pass over the images, but for those that fill no batch, or `num_batches` batches of as many passes
    as that takes, each with its own permutation. The permutations and the neighbour choices follow from (seed, epoch)
    alone: every rank draws those of the whole global batch and takes its slice, so the batches do not depend on the
    number of ranks, and an epoch can be repeated from nothing but its number.
    """
    generator = torch.Generator(device=data.device).manual_seed(epoch_seed(seed, epoch))

    batches_of_a_pass = data.num_images // batch_size

    def anchor_batches() -> Iterator[Tensor]:
        while batches_of_a_pass > 0:
            order = torch.randperm(data.num_images, generator=generator, device=data.device)
            yield from order.split(batch_size)[:batches_of_a_pass]

    def cast(matrix: Tensor, rows: Tensor) -> Tensor:
        return matrix.index_select(0, rows).to(device=device, dtype=dtype, non_blocking=True)

    def neighbor_rows(neighbors: Tensor, anchors: Tensor, share: slice) -> Tensor:
        columns = torch.randint(neighbors.shape[1], anchors.shape, generator=generator, device=data.device)
        return neighbors[anchors[share], columns[share]]

    for anchors in islice(anchor_batches(), batches_of_a_pass if num_batches is None else num_batches):
        share = rows_of_rank(len(anchors))
        rows = anchors[share]
        image_neighbors = text_neighbors = None
        if data.image_neighbors is not None:
            image_neighbors = cast(data.image_embeddings, neighbor_rows(data.image_neighbors, anchors, share))
        if data.text_neighbors is not None and data.text_counterparts is not None:
            text_neighbors = cast(data.text_counterparts, neighbor_rows(data.text_neighbors, anchors, share))
        yield Batch(
            rows=rows.to(device),
            images=cast(data.image_embeddings, rows),
            texts=None if data.text_counterparts is None else cast(data.text_counterparts, rows),
            image_neighbors=image_neighbors,
            text_neighbors=text_neighbors,
            row_counts=row_counts_of_ranks(len(anchors)),
        )


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of an epoch's generator, well separated for neighbouring (seed, epoch) pairs."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint32)[0])


def _check_positions(name: str, positions: Tensor, num_rows: int) -> None:
    if positions.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"expected {name} as int32 or int64 positions, found {positions.dtype}")
    lowest, highest = (int(bound) for bound in torch.aminmax(positions))
    if lowest < 0 or highest >= num_rows:
        raise ValueError(f"expected {name} in 0..{num_rows - 1}, found {lowest}..{highest}")


def _as_tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # Read-only memory maps are fine here: training only reads.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        return torch.from_numpy(array)
