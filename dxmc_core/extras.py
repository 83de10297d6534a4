"""Packages that only a part of dxmc needs: what is told where they are missing."""

from collections.abc import Iterator
from contextlib import contextmanager


class MissingPackageError(ImportError):
    """A package of an extra is not installed; the message is one line that names the extra."""


@contextmanager
def needed_for(what: str, *, extra: str) -> Iterator[None]:
    """Turn a failed import of another package into a line that says how to install it.

    Args:
        extra: of dxmc; "" where a plain installation has it.

    Raises:
        MissingPackageError: a package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("dxmc", "dxmc_core", "ray_jobs"):
            raise
        whole = f"dxmc[{extra}]" if extra else "dxmc"
        raise MissingPackageError(f"{what} needs the package {package}: pip install '{whole}'", name=package) from error
