"""Searching a finished run by words, images or embeddings: `open_run(run_dir).query(...)`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dxmc_core.search.run_search import RunSearch, open_run

__all__ = ["RunSearch", "open_run"]


def __getattr__(name: str) -> Any:
    """Imported when it is asked for: `search.kind` is read by the command line, which must load nothing else."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dxmc_core.search import run_search

    return getattr(run_search, name)
