"""Arrays in files that are mapped into memory, for one process or shared by all training processes of a host.

They lie in temporary files without a name, mapped into memory: the kernel keeps what is used and may drop the rest, so
they may be larger than memory, and they are gone when the processes are, however these end.
"""

import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import torch

from dxmc_core.artifacts.matrices import Allocate
from dxmc_core.errors import DxmcError
from dxmc_core.method.distributed import all_gather_rows, world_size

_DTYPES = tuple(np.dtype(name) for name in ("float16", "float32", "float64", "int32", "int64"))
_ABSENT = (-1, 0, 0, 0)


class HostArrays:
    """The arrays of one host; every process of the group makes one.

    Args:
        rank, local_rank: this process's number in the group, where those of a host follow one another, and on its host.
        device: where the group communicates from.
    """

    def __init__(self, *, rank: int = 0, local_rank: int = 0, device: torch.device | str = "cpu") -> None:
        self._leader, self._is_leader, self._device = rank - local_rank, local_rank == 0, device
        self._files: list[tuple[np.ndarray, IO[bytes]]] = []

    def share(
        self, names: tuple[str, ...], build: Callable[[Allocate], Mapping[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Arrays by name, at most two-dimensional, the same memory in every process of the host; called by all ranks.

        Args:
            names: of all arrays that there may be.
            build: called in the first process of each host with an allocator for large arrays.
        """
        built = dict(build(self.allocate)) if self._is_leader else {}
        arrays = {name: self._in_a_file(array) for name, array in built.items()}
        if world_size() == 1:
            return arrays
        own = [os.getpid()]
        for name in names:
            own += self._describe(arrays[name]) if name in arrays else _ABSENT
        local = torch.tensor([own], dtype=torch.int64, device=self._device)
        pid, *numbers = all_gather_rows(local, row_counts=[1] * world_size())[self._leader].tolist()
        if not self._is_leader:
            descriptions = (tuple(numbers[start : start + 4]) for start in range(0, len(numbers), 4))
            for name, description in zip(names, descriptions, strict=True):
                if description != _ABSENT:
                    arrays[name] = _open(pid, *description)
        return arrays

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array in a file of its own.

        Raises:
            DxmcError: the disk is full.
        """
        size_bytes = max(math.prod(shape) * dtype.itemsize, 1)
        file = tempfile.TemporaryFile(prefix="dxmc-")  # noqa: SIM115 (it lives as long as the array)
        try:
            # Writing to a mapped page that the disk has no room for would kill the process.
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        except OSError as error:
            file.close()
            raise DxmcError(
                f"temporary files need {size_bytes / 1e9:.1f} GB more in {tempfile.gettempdir()}: {error.strerror}; "
                "free space there, or set TMPDIR to a folder of a larger disk"
            ) from error
        array = _mapped(file, shape, dtype, "r+")
        self._files.append((array, file))
        return array

    def close(self) -> None:
        """Close the files; arrays that are in use stay valid."""
        for _, file in self._files:
            file.close()
        self._files.clear()

    def _in_a_file(self, array: np.ndarray) -> np.ndarray:
        if any(array is held for held, _ in self._files):
            return array
        copy = self.allocate(array.shape, array.dtype)
        copy[...] = array
        return copy

    def _describe(self, array: np.ndarray) -> tuple[int, int, int, int]:
        file = next(file for held, file in self._files if held is array)
        rows, width = array.shape
        return file.fileno(), _DTYPES.index(array.dtype), rows, width


def _open(pid: int, descriptor: int, dtype: int, rows: int, width: int) -> np.ndarray:
    """An array of another process of this host, through the file that it holds open."""
    with Path(f"/proc/{pid}/fd/{descriptor}").open("rb") as file:
        return _mapped(file, (rows, width), _DTYPES[dtype], "r")


def _mapped(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype, mode: str) -> np.ndarray:
    size_bytes = math.prod(shape) * dtype.itemsize
    data = np.memmap(file, dtype=np.uint8, mode=mode, shape=(max(size_bytes, 1),))  # type: ignore[call-overload]
    return np.asarray(data)[:size_bytes].view(dtype).reshape(shape)
