"""Lists the samples of WebDataset tars: where in its tar each image lies, so that it is fetched by itself later."""

import json
import logging
import posixpath
import re
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa

from dxmc_core.artifacts.storage import STORAGE_ERRORS, filesystem_of, normalize_uri, stat_file
from dxmc_core.errors import DxmcError, InputError
from dxmc_core.images.decode import RejectReason
from dxmc_core.images.files import FoundFile, as_text, find_files, is_glob
from dxmc_core.images.listing import IMAGE_SUFFIXES, ListedImage, folder_label, problem_of, tables_of
from dxmc_core.images.sources import WebDatasetSource
from dxmc_core.lookahead import map_ahead

_TARS_AT_A_TIME = 16
#: Read at once; so little that large images between two headers are skipped, so much that small ones are not asked for
#: one by one.
_BLOCK_BYTES = 256 << 10
_MAX_LABEL_BYTES = 1 << 20
_COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")

logger = logging.getLogger(__name__)


@dataclass
class _Sample:
    """The members with one key that stand together."""

    key: str
    start: int
    suffixes: list[str] = field(default_factory=list)
    image: tuple[int, int] | None = None
    image_suffix: str = ""
    label: str | None = None

    def add(self, suffix: str, offset: int, size: int) -> None:
        """Take a member; the image is the first one, a plain `jpg` before a `depth.png`."""
        self.suffixes.append(suffix)
        is_image = f".{suffix.rsplit('.', 1)[-1].lower()}" in IMAGE_SUFFIXES
        if is_image and (self.image is None or ("." in self.image_suffix and "." not in suffix)):
            self.image, self.image_suffix = (offset, size), suffix


def list_tars(source: WebDatasetSource) -> Iterator[pa.Table]:
    """List every sample of the tars of a source, in the order of the tars' names and of the samples in them.

    A sample without an image, a key that comes back after other keys (perhaps another sample, so its members are not
    put together), and the rest of a tar that is damaged are rows with a `problem`.

    Raises:
        InputError: no tar is found, or one is compressed.
    """
    uri = normalize_uri(source.uri)
    _check_label_from(source.label_from)
    with ThreadPoolExecutor(_TARS_AT_A_TIME, thread_name_prefix="dxmc-tar") as threads:
        listed = map_ahead(
            lambda tar: list(tables_of(_list_tar(tar, source))), _tars(uri), threads=threads, ahead=_TARS_AT_A_TIME
        )
        found_any = False
        for tables in listed:
            yield from tables
            found_any = True
    if not found_any:
        raise InputError(f"no .tar files in {uri}; check source.uri")


def _check_label_from(label_from: str | None) -> None:
    if label_from is None or label_from in ("parent_folder", "cls", "txt"):
        return
    if not re.fullmatch(r"json\.\w+", label_from):
        raise InputError(
            f"source.label_from: found {label_from!r}; a tar's labels come from parent_folder, cls, txt or json.<field>"
        )


def _tars(uri: str) -> Iterator[FoundFile]:
    for name in _expand_braces(uri):
        if name.endswith(".tar") and not is_glob(name):
            stat = stat_file(name)
            yield FoundFile(posixpath.basename(name), stat.uri, stat.size, stat.etag)
        elif name.endswith(_COMPRESSED_SUFFIXES) and not is_glob(name):
            raise _compressed(name)
        else:
            for file in find_files(name, accept=_is_tar):
                if not file.uri.endswith(".tar"):
                    raise _compressed(file.uri)
                yield file


def _is_tar(path: str) -> bool:
    return path.endswith((".tar", *_COMPRESSED_SUFFIXES))


def _compressed(uri: str) -> InputError:
    return InputError(f"{uri} is compressed, so single images cannot be fetched from it; unpack it to .tar")


def _expand_braces(uri: str) -> Iterator[str]:
    """`x-{000..012}.tar` and `{a,b}.tar`, the number of digits kept."""
    found = _RANGE.search(uri) or _CHOICE.search(uri)
    if found is None:
        yield uri
        return
    if found.re is _RANGE:
        first, last = found.groups()
        values: Iterable[str] = (f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1))
    else:
        values = found[1].split(",")
    for value in values:
        yield from _expand_braces(uri[: found.start()] + value + uri[found.end() :])


def _list_tar(tar: FoundFile, source: WebDatasetSource) -> Iterator[ListedImage]:
    problem: str | None
    shard = f"{tar.name.removesuffix('.tar')}/" if source.image_id == "shard_and_key" else ""
    seen: set[str] = set()
    again: list[str] = []
    label_member = source.label_from if source.label_from != "parent_folder" else None
    for sample in _samples(tar, label_member):
        if isinstance(sample, _Damage):
            yield ListedImage(
                f"{tar.name}@{sample.offset}",
                tar.uri,
                tar.size,
                tar.etag,
                problem=problem_of(sample.reason, sample.message),
            )
            continue
        image_id, problem = shard + sample.key, None
        if sample.key in seen:
            again.append(sample.key)
            image_id = f"{tar.name}@{sample.start}"
            message = f"{sample.key} stands at two places of the tar, this is the second; sort its members by name"
            problem = problem_of(RejectReason.DUPLICATE_KEY, message)
        elif sample.image is None:
            problem = problem_of(RejectReason.MISSING, f"the sample has no image, only {' '.join(sample.suffixes)}")
        seen.add(sample.key)
        offset, size = sample.image or (sample.start, 0)
        label = sample.label if label_member else folder_label(sample.key, source.label_from)
        yield ListedImage(image_id, tar.uri, size, tar.etag, label, offset, problem)
    if again:
        logger.warning(
            "%s: %d keys come back after other keys (%s); what stands at the second place is rejected",
            tar.uri, len(again), ", ".join(again[:3]),
        )  # fmt: skip


@dataclass(frozen=True)
class _Damage:
    """What follows in a tar cannot be listed."""

    offset: int
    reason: RejectReason
    message: str


def _samples(tar: FoundFile, label_member: str | None) -> Iterator[_Sample | _Damage]:
    sample: _Sample | None = None
    for member in _members(tar):
        if isinstance(member, _Damage):
            if sample is not None:
                yield sample
            yield member
            return
        info, file = member
        key, suffix = _split(as_text(info.name))
        if sample is None or key != sample.key or suffix in sample.suffixes:
            if sample is not None:
                yield sample
            sample = _Sample(key, info.offset)
        sample.add(suffix, info.offset_data, info.size)
        if label_member is not None and suffix == label_member.partition(".")[0]:
            sample.label = _label(file, info, label_member)
    if sample is not None:
        yield sample


def _split(name: str) -> tuple[str, str]:
    """Key and suffix of a member as WebDataset splits them: at the first dot of its base name."""
    folder, base = posixpath.split(name.removeprefix("./"))
    stem, _, suffix = base.partition(".")
    return posixpath.join(folder, stem), suffix


def _label(file: BinaryIO, info: tarfile.TarInfo, label_member: str) -> str | None:
    file.seek(info.offset_data)
    content = file.read(min(info.size, _MAX_LABEL_BYTES))
    try:
        text = content.decode().strip()
        if not label_member.startswith("json."):
            return text
        value: Any = json.loads(text)[label_member.removeprefix("json.")]
        return None if value is None else str(value)
    except (ValueError, KeyError, TypeError):
        return None  # a sample without a label is still an image


def _members(tar: FoundFile) -> Iterator[tuple[tarfile.TarInfo, BinaryIO] | _Damage]:
    """The regular files of a tar, but hidden ones; last of all what is wrong with it, if anything is."""
    offset = 0
    try:
        fs, path = filesystem_of(tar.uri)
        with fs.open(path, "rb", block_size=_BLOCK_BYTES, cache_type="readahead") as file:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for info in archive:
                    offset = info.offset_data + info.size
                    vars(archive)["members"] = []  # tarfile keeps them all
                    if info.isreg() and not posixpath.basename(info.name).startswith("."):
                        yield info, file
                end = archive.offset
            file.seek(end)
            # tarfile takes a header that is none for the end of the archive.
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                yield _Damage(
                    end, RejectReason.UNREADABLE, f"the tar is damaged at byte {end}; what follows is not listed"
                )
    except FileNotFoundError:
        yield _Damage(0, RejectReason.MISSING, "the tar is gone or never was there")
    except PermissionError as error:
        yield _Damage(0, RejectReason.ACCESS_DENIED, str(error))
    except tarfile.ReadError as error:
        reason = RejectReason.TRUNCATED if offset else RejectReason.UNREADABLE
        yield _Damage(offset, reason, f"the tar cannot be read from byte {offset} on: {error}")
    except STORAGE_ERRORS as error:
        raise DxmcError(f"reading {tar.uri} failed: {error}; run again") from error
