"""What people know of some rows: which belong into one cluster, and which do not (must-link and cannot-link).

Groups of rows that belong together join and part rows in the neighbour graph, tag micro-clusters, which are then joined
by tag and never across tags that are apart, and keep their cluster in every step after that.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Constraints:
    """Groups of some of N rows.

    Attributes:
        rows: (m,) int64 positions, ascending, each once.
        groups: (m,) int64 in 0..G-1, the group of each of them; rows of a group belong into one cluster.
        apart: (G, G) bool, symmetric: groups that belong into different clusters.
    """

    rows: np.ndarray
    groups: np.ndarray
    apart: np.ndarray

    def __post_init__(self) -> None:
        num_groups = len(self.apart)
        if self.rows.shape != self.groups.shape or (np.diff(self.rows) <= 0).any():
            raise ValueError("expected ascending rows, each once, and a group for each of them")
        if self.apart.shape != (num_groups, num_groups) or not np.array_equal(self.apart, self.apart.T):
            raise ValueError(f"expected a symmetric matrix of groups that are apart, found shape {self.apart.shape}")
        if len(self.groups) and not 0 <= self.groups.min() <= self.groups.max() < num_groups:
            raise ValueError(f"expected groups in 0..{num_groups - 1}")
        if self.apart.diagonal().any():
            raise ValueError("expected no group apart from itself")

    @classmethod
    def of_pairs(cls, images: np.ndarray, apart: np.ndarray) -> "Constraints":
        """From pairs (m, 2) of a position, ascending, and its group, and pairs (P, 2) of groups that are apart."""
        num_groups = int(max(images[:, 1].max(initial=-1), apart.max(initial=-1))) + 1
        matrix = np.zeros((num_groups, num_groups), dtype=bool)
        matrix[apart[:, 0], apart[:, 1]] = matrix[apart[:, 1], apart[:, 0]] = True
        return cls(images[:, 0], images[:, 1], matrix)

    def as_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """What `of_pairs` takes."""
        return np.stack([self.rows, self.groups], axis=1), np.argwhere(np.triu(self.apart))

    def within(self, rows: np.ndarray | None) -> "Constraints":
        """The same by positions among some rows, ascending, that hold all of these; of all rows where None."""
        return self if rows is None else Constraints(np.searchsorted(rows, self.rows), self.groups, self.apart)

    def group_of(self, num_rows: int) -> np.ndarray:
        """The group of every one of N rows, -1 without one."""
        found = np.full(num_rows, -1, dtype=np.int64)
        found[self.rows] = self.groups
        return found

    def linked(self, neighbors: np.ndarray) -> np.ndarray:
        """Neighbourhoods (N, k) in which half of the neighbours of a row are of its group, as far as there are any,
        and none is of a group apart from it; a row stands in for a neighbour that it loses."""
        linked = neighbors.copy()
        group_of = self.group_of(len(neighbors))
        members = {group: self.rows[self.groups == group] for group in np.unique(self.groups).tolist()}
        half = max(neighbors.shape[1] // 2, 1)
        for row, group in zip(self.rows.tolist(), self.groups.tolist(), strict=True):
            others = group_of[linked[row]]
            parted = (others >= 0) & self.apart[group, others]
            linked[row, parted] = row
            mates = members[group]
            at = int(np.searchsorted(mates, row))
            # The next ones around the circle, so that all of a large group take part.
            mates = np.roll(mates, -at)[1 : half + 1]
            linked[row, linked.shape[1] - len(mates) :] = mates
        return linked

    def tagged(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Micro-clusters with rows of one group at most: what has several is divided, the most frequent one stays.

        Args:
            labels: (N,) micro-cluster of each row, 0..M-1.

        Returns:
            labels (N,) in 0..M'-1, and the group (M',) of each micro-cluster, -1 without one.
        """
        labels = labels.astype(np.int64).copy()
        pairs, counts = np.unique(np.stack([labels[self.rows], self.groups]), axis=1, return_counts=True)
        tags = np.full(int(labels.max()) + 1, -1, dtype=np.int64)
        order = np.lexsort((pairs[1], -counts, pairs[0]))
        added: list[int] = []
        for micro, group in pairs[:, order].T.tolist():
            if tags[micro] < 0:
                tags[micro] = group
                continue
            moved = self.rows[(labels[self.rows] == micro) & (self.groups == group)]
            labels[moved] = len(tags) + len(added)
            added.append(group)
        return labels, np.concatenate([tags, np.array(added, dtype=np.int64)])
