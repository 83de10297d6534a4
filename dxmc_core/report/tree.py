"""The cluster tree as a flat list of steps: a template that called itself would fail on a deep tree."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dxmc_core.report.data import TreeNode

#: Branches below this depth are not drawn, only their clusters: HTML parsers stop nesting at a few hundred elements.
MAX_DEPTH = 60


@dataclass(frozen=True)
class TreeStep:
    """What to write next: the beginning of a branch, a leaf, or the end of the branch begun last."""

    kind: Literal["branch", "leaf", "end"]
    node: TreeNode
    depth: int


def walk_tree(root: TreeNode) -> Iterator[TreeStep]:
    """The steps of a tree from top to bottom, children in their order."""
    waiting: list[tuple[TreeNode, int, bool]] = [(root, 0, False)]
    while waiting:
        node, depth, is_end = waiting.pop()
        if is_end:
            yield TreeStep("end", node, depth)
        elif not node.children:
            yield TreeStep("leaf", node, depth)
        else:
            drawn = depth < MAX_DEPTH
            if drawn:
                yield TreeStep("branch", node, depth)
                waiting.append((node, depth, True))
            waiting.extend((child, depth + drawn, False) for child in reversed(node.children))
