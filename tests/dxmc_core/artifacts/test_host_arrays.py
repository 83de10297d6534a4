"""Arrays in nameless files; test_distributed.py has several processes share them."""

import errno
import os

import numpy as np
import pytest

from dxmc_core.artifacts.host_arrays import HostArrays
from dxmc_core.errors import DxmcError


def test_alone_every_array_lies_in_a_file_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    host = HostArrays()
    large = host.allocate((5, 2), np.dtype(np.float16))
    large[...] = 3
    small = np.arange(4).reshape(2, 2)
    arrays = host.share(("large", "small"), lambda allocate: {"large": large, "small": small})
    assert arrays["large"] is large
    np.testing.assert_array_equal(arrays["small"], small)
    assert not list(tmp_path.iterdir())
    host.close()
    assert (arrays["large"] == 3).all()


def test_full_disk_is_an_error_and_not_a_crash(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DxmcError, match=r"2\.0 GB more in .*: No space left on device; free space"):
        HostArrays().allocate((1_000_000, 1000), np.dtype(np.float16))
