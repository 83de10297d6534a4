"""Small pictures as files, and tars."""

import io
import tarfile

import pytest
from PIL import Image


def encode_picture(number: int, kind: str = "PNG", *, size: tuple[int, int] = (20, 12)) -> bytes:
    """A picture of one colour, which its number decides."""
    sink = io.BytesIO()
    Image.new("RGB", size, (number % 256, number // 256 % 256, 90)).save(sink, kind)
    return sink.getvalue()


@pytest.fixture(scope="session")
def picture():
    return encode_picture


def make_tar(members, *, format=tarfile.PAX_FORMAT) -> bytes:
    """A tar of (name, content); a content of None is a folder."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=format) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
                continue
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return sink.getvalue()


@pytest.fixture(scope="session")
def tar_of():
    return make_tar
