"""How much work a step is, for `dxmc preflight`. Every step counts its own, beside the constants that it rests on."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Work:
    """Work of a step, which takes as long as its arithmetic and its reading together.

    Attributes:
        flops: floating-point operations of products of matrices, each multiply and add counted as two.
        moved_bytes: what is read and written where that takes the time, and the arithmetic does not.
    """

    flops: float = 0.0
    moved_bytes: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.moved_bytes + other.moved_bytes)

    def __mul__(self, times: float) -> "Work":
        return Work(self.flops * times, self.moved_bytes * times)


@dataclass(frozen=True)
class DataShape:
    """What a method is given, as far as its cost goes by it.

    Attributes:
        width: D of the first encoder.
        further_widths: of the encoders beside it.
        num_nouns: S, those selected; none without a vocabulary.
    """

    num_images: int
    width: int
    num_clusters: int
    further_widths: tuple[int, ...] = ()
    num_nouns: int = 0


@dataclass(frozen=True)
class MethodCost:
    """What a method works out in one task before any epoch.

    Attributes:
        memory_bytes: that it holds beside the matrices it reads.
        note: how it goes about it.
    """

    work: Work = field(default_factory=Work)
    memory_bytes: float = 0.0
    note: str = ""
