"""The Hugging Face hub, asked as little as possible: what is cached is used without a word to the network."""

import logging
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import huggingface_hub

logger = logging.getLogger(__name__)

_ANSWER_TIMEOUT_S = 5.0


def cached_on_hub(repository: str, names: Sequence[str]) -> Path | None:
    """The first of some files of a repository that an earlier download left."""
    found = (huggingface_hub.try_to_load_from_cache(repository, name) for name in names)
    return next((Path(path) for path in found if isinstance(path, str)), None)


@cache
def announce_download(weights: str) -> None:
    """Say once that loading will take as long as a download does, of which nothing is seen."""
    logger.info("the weights %s are not on this machine; they are downloaded before they are loaded", weights)


def answers(url: str) -> bool:
    """True when the server says anything at all, also through the proxy that the environment names."""
    try:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 (of the library's own hubs)
        with urllib.request.urlopen(request, timeout=_ANSWER_TIMEOUT_S):  # noqa: S310
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
