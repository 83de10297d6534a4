"""What the settings of every encoder have in common."""

from typing import Literal

from pydantic import Field

from dxmc_core.settings import Settings

Precision = Literal["auto", "float32", "float16", "bfloat16"]

#: Characters that any file system and object store takes as they are, in lower case.
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"


class EncoderSettings(Settings):
    """The base of all kinds of encoders."""

    name: str | None = Field(None, pattern=NAME_PATTERN)
    """Of its table, where there are several encoders; by default its kind and model."""
