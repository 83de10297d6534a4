"""What a query of `dxmc search` is taken for; a module of its own, which imports nothing."""

from enum import StrEnum


class QueryKind(StrEnum):
    """What a query is taken for."""

    WORDS = "words"
    IMAGE = "image"
    IMAGE_ID = "image_id"
    EMBEDDING = "embedding"
