"""What a kind of encoder has to say of itself: the type checker names what a new kind lacks."""

import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dxmc_core.settings import Settings

if TYPE_CHECKING:
    from dxmc_core.encoders.protocol import Encoder, Preprocess
    from dxmc_core.workload import EncoderWork

Precision = Literal["auto", "float32", "float16", "bfloat16"]

#: Characters that any file system and object store takes as they are, in lower case.
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"


class ViewSettings(Settings, ABC):
    """A view of the images: an encoder, or what somebody else has embedded."""

    #: What a reader of the report should know of names that were made with it.
    note: ClassVar[str] = ""

    name: str | None = Field(None, pattern=NAME_PATTERN)
    """Of its table, where there are several encoders; by default its kind and model."""

    @property
    def table_name(self) -> str:
        """What it is called beside others: its `name`, by default its kind and model, fit for a file's name."""
        if self.name is not None:
            return self.name
        parts = [getattr(self, field) for field in ("kind", "model") if hasattr(self, field)]
        return re.sub(r"[^a-z0-9._-]+", "-", "-".join(parts).lower())[:63]

    @property
    @abstractmethod
    def title(self) -> str:
        """What a reader of the report is told of it."""

    @abstractmethod
    def identity(self) -> dict:
        """What a fingerprint must know of it, JSON-able; loads no model.

        Raises:
            InputError: a file is not there that the settings name.
        """

    @abstractmethod
    def require_weights(self) -> None:
        """Check that the weights, or a file of embeddings, are there or can be downloaded; nothing is loaded for it.

        Raises:
            InputError: they cannot be had; the message says what to do.
        """

    @abstractmethod
    def work(self) -> "EncoderWork":
        """What it does for an image and for a noun, counted on the model without its weights.

        Raises:
            InputError: there is no such model, or its description is neither here nor to be had.
        """

    def local_files(self) -> list[tuple[str, Path]]:
        """The files of weights that workers read, each with the key of the configuration that names it.

        Raises:
            InputError: there are none where the settings say so.
        """
        return []


class EncoderSettings(ViewSettings):
    """An encoder, whose model is imported when it is asked for."""

    #: Whether it has a text tower, which nouns and searches by words need.
    reads_text: ClassVar[bool] = True

    @abstractmethod
    def load(self, *, device: str, batch_size: int) -> "Encoder":
        """Load the weights and put them on a device; see `load_encoder`, which the stages call."""

    @abstractmethod
    def load_preprocess(self) -> "Preprocess":
        """How it resizes pictures, without its weights: for processes that only decode.

        Raises:
            InputError: there is no such model.
        """

    @abstractmethod
    def width(self) -> int | None:
        """The number of columns D of the embeddings; None when only loading the model would tell."""
