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

from dxmc_core.artifacts.storage import filesystem_of, normalize_uri, open_file, storage_errors
from dxmc_core.artifacts.user_values import as_labels
from dxmc_core.errors import DxmcError, InputError, on_one_line
from dxmc_core.images.decode import RejectReason
from dxmc_core.images.files import FoundFile, as_text, find_holders, is_glob, literal_part
from dxmc_core.images.formats import sniff_format
from dxmc_core.images.listing import SNIFFED_BYTES, ListedImage, folder_label, problem_of, rejection_of, tables_of
from dxmc_core.images.selection import Reason, Selection
from dxmc_core.images.sources import WebDatasetSource
from dxmc_core.runtime.lookahead import map_ahead

_TARS_AT_A_TIME = 16
#: Read at once; so little that large images between two headers are skipped, so much that small ones are not asked for
#: one by one.
_BLOCK_BYTES = 256 << 10
_MAX_LABEL_BYTES = 1 << 20
_COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
#: gzip, bzip2, xz and Zstandard, whatever the file is called.
_COMPRESSED_STARTS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
_COMPRESSED = "is compressed, so single images cannot be fetched from it; unpack it to .tar"
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Member:
    """A file in a tar, or a link to one.

    Attributes:
        name: without a leading `./`.
        header: the byte at which its header begins.
        start: the byte at which its content begins; that of a link is its target's.
        problem: why its content cannot be read from there; as the catalog carries it.
    """

    name: str
    header: int
    start: int
    size: int
    problem: str | None = None


@dataclass(frozen=True)
class _Damage:
    """What follows in a tar cannot be listed."""

    offset: int
    reason: RejectReason
    message: str


@dataclass
class _Sample:
    """The members with one key that stand together."""

    key: str
    start: int
    suffixes: list[str] = field(default_factory=list)
    images: list[tuple[int, _Member]] = field(default_factory=list)
    label: str | None = None

    def add(self, suffix: str, member: _Member, *, is_image: bool) -> None:
        self.suffixes.append(suffix)
        if is_image:
            self.images.append((_rank(suffix), member))

    @property
    def image(self) -> _Member | None:
        """The first of the plainest ones."""
        return min(self.images, key=lambda ranked: ranked[0])[1] if self.images else None


def _rank(suffix: str) -> int:
    """A plain `jpg` comes before a `depth.png`, and either before a name without an ending."""
    return 2 if not suffix else int("." in suffix)


def list_tars(source: WebDatasetSource, selection: Selection | None = None) -> Iterator[pa.Table]:
    """List every sample of the tars of a source, in the order of the tars' names and of the samples in them.

    A sample without an image, a key that comes back after other keys (perhaps another sample, so its members are not
    put together), and the rest of a tar that is damaged are rows with a `problem`.

    Args:
        selection: which of the samples; counts what is passed over. By default that of the source.

    Raises:
        InputError: no tar is found, or one is compressed.
    """
    uri = normalize_uri(source.uri)
    selection = selection or Selection.of(source)
    _check_label_from(source.label_from)
    with ThreadPoolExecutor(_TARS_AT_A_TIME, thread_name_prefix="dxmc-tar") as threads:
        listed = map_ahead(
            lambda tar: list(tables_of(_list_tar(tar, source, selection))),
            _tars(uri, selection),
            threads=threads,
            ahead=_TARS_AT_A_TIME,
        )
        found_any = False
        for tables in listed:
            yield from tables
            found_any = True
    if not found_any:
        raise InputError(selection.passed_over.said_after(f"no .tar files in {uri}; check source.uri"))


def _check_label_from(label_from: str | None) -> None:
    if label_from is None or label_from in ("parent_folder", "cls", "txt"):
        return
    if not re.fullmatch(r"json\.\w+", label_from):
        raise InputError(
            f"source.label_from: found {label_from!r}; a tar's labels come from parent_folder, cls, txt or json.<field>"
        )


def _tars(uri: str, selection: Selection) -> Iterator[FoundFile]:
    fs, path = filesystem_of(uri)
    _, pattern = literal_part(fs, path, lambda part: is_glob(part) or "{" in part)
    folder = uri.removesuffix(pattern)
    for name in _expand_braces(pattern):
        if (folder + name).lower().endswith(_COMPRESSED_SUFFIXES) and not is_glob(name):
            raise _compressed(folder + name)
        for file in find_holders(folder + name, (".tar", *_COMPRESSED_SUFFIXES), selection):
            if file.uri.lower().endswith(_COMPRESSED_SUFFIXES):
                raise _compressed(file.uri)
            yield file


def _compressed(uri: str) -> InputError:
    return InputError(f"{uri} {_COMPRESSED}")


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


def _list_tar(tar: FoundFile, source: WebDatasetSource, selection: Selection) -> Iterator[ListedImage]:
    shard = f"{tar.name.removesuffix('.tar')}/" if source.image_id == "shard_and_key" else ""
    seen: set[str] = set()
    again: list[str] = []
    label_member = source.label_from if source.label_from != "parent_folder" else None
    for sample in _samples(tar, label_member, selection):
        if isinstance(sample, _Damage):
            problem = problem_of(sample.reason, sample.message)
            yield ListedImage(f"{tar.name}@{sample.offset}", tar.uri, tar.size, tar.etag, problem=problem)
            continue
        if not selection.takes_name(shard + sample.key, holder=tar.name):
            continue
        if sample.key in seen:
            again.append(sample.key)
        image = sample.image
        for _, other in sample.images:
            if other is not image:
                selection.passed_over.add(Reason.FURTHER_IMAGE, other.name)
        image_id = f"{tar.name}@{sample.start}" if sample.key in seen else shard + sample.key
        label = sample.label if label_member else folder_label(sample.key, source.label_from)
        start, size = (image.start, image.size) if image is not None else (sample.start, 0)
        yield ListedImage(image_id, tar.uri, size, tar.etag, label, start, _problem_with(sample, image, seen))
        seen.add(sample.key)
    if again:
        logger.warning(
            "%s: %d keys come back after other keys (%s); what stands at the second place is rejected",
            tar.uri, len(again), ", ".join(again[:3]),
        )  # fmt: skip


def _problem_with(sample: _Sample, image: _Member | None, seen: set[str]) -> str | None:
    if sample.key in seen:
        message = f"{sample.key} stands at two places of the tar, this is the second; sort its members by name"
        return problem_of(RejectReason.DUPLICATE_KEY, message)
    if image is None:
        return problem_of(RejectReason.MISSING, f"the sample has no image, only {' '.join(sample.suffixes)}")
    return image.problem


def _samples(tar: FoundFile, label_member: str | None, selection: Selection) -> Iterator[_Sample | _Damage]:
    sample: _Sample | None = None
    for found in _members(tar, selection):
        if isinstance(found, _Damage):
            if sample is not None:
                yield sample
            yield found
            return
        member, file = found
        key, suffix = _split(member.name)
        if sample is None or key != sample.key or suffix in sample.suffixes:
            if sample is not None:
                yield sample
            sample = _Sample(key, member.header)
        sample.add(suffix, member, is_image=_is_image(member, file, selection))
        if label_member is not None and suffix == label_member.partition(".")[0] and member.problem is None:
            sample.label = _label(file, member, label_member)
    if sample is not None:
        yield sample


def _is_image(member: _Member, file: BinaryIO, selection: Selection) -> bool:
    if selection.may_be_image(member.name):
        return True
    if not selection.by_content or member.problem is not None:
        return False
    file.seek(member.start)
    return sniff_format(file.read(min(member.size, SNIFFED_BYTES))) is not None


def _split(name: str) -> tuple[str, str]:
    """Key and suffix of a member: at the first dot of its base name behind which no part begins with a digit.

    WebDataset splits at the first dot. In 2021.05.01.jpg that would make one sample of all pictures of a year, of which
    one is taken; the parts of a real suffix (`depth.png`) are words.
    """
    folder, base = posixpath.split(name)
    parts = base.split(".")
    first = len(parts) if parts[-1].isdigit() else max(len(parts) - 1, 1)
    while 1 < first < len(parts) and not parts[first - 1][:1].isdigit():
        first -= 1
    return posixpath.join(folder, ".".join(parts[:first])), ".".join(parts[first:])


def _label(file: BinaryIO, member: _Member, label_member: str) -> str | None:
    file.seek(member.start)
    content = file.read(min(member.size, _MAX_LABEL_BYTES))
    try:
        text = content.decode().strip()
        value: Any = text
        if label_member.startswith("json."):
            value = json.loads(text)[label_member.removeprefix("json.")]
        return as_labels([value])[0]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None  # a sample without a label is still an image


def _members(tar: FoundFile, selection: Selection) -> Iterator[tuple[_Member, BinaryIO] | _Damage]:
    """The files of a tar, but hidden ones; last of all what is wrong with it, if anything is."""
    if tar.problem is not None:
        error = rejection_of(tar.problem)
        yield _Damage(0, error.reason, error.message)
        return
    end = 0
    places: dict[str, tuple[int, int]] = {}
    try:
        with open_file(tar.uri, within=True, block_size=_BLOCK_BYTES, cache_type="readahead") as file:
            if file.read(6).startswith(_COMPRESSED_STARTS):
                yield _Damage(0, RejectReason.UNSUPPORTED, _COMPRESSED)
                return
            file.seek(0)
            for info in _headers(file):
                end = info.offset_data + (info.size if info.isreg() else 0)
                member = _member_of(info, places, selection)
                if member is not None:
                    yield member, file
    except FileNotFoundError:
        yield _Damage(0, RejectReason.MISSING, "the tar is gone or never was there")
    except PermissionError as error:
        yield _Damage(0, RejectReason.ACCESS_DENIED, str(error))
    except InputError as error:
        yield _Damage(0, RejectReason.UNREACHABLE, on_one_line(error))
    except _DamagedTarError as error:
        yield _Damage(error.offset, RejectReason.UNREADABLE, str(error))
    except _TAR_ERRORS as error:
        reason = RejectReason.TRUNCATED if end else RejectReason.EMPTY if tar.size == 0 else RejectReason.UNREADABLE
        yield _Damage(end, reason, f"the tar cannot be read from byte {end} on: {on_one_line(error)}")
    except storage_errors() as error:
        raise DxmcError(f"reading {tar.uri} failed: {on_one_line(error)}; run again") from error


def _member_of(info: tarfile.TarInfo, places: dict[str, tuple[int, int]], selection: Selection) -> _Member | None:
    """A header as a member; None for folders, hidden files and what is no file.

    Args:
        places: where the content of the images before this one lies, by their names; what links lead to.
    """
    if info.isdir():
        return None
    if not (info.isreg() or info.islnk() or info.issym()):
        selection.passed_over.add(Reason.MEMBER, _MEMBER_KINDS.get(info.type, "of an unknown kind"))
        return None
    name = _normalized(as_text(info.name))
    place: tuple[int, int] | None = (info.offset_data, info.size)
    problem = None
    if not info.isreg():
        target = _normalized(as_text(info.linkname))
        if info.issym():
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
        place = places.get(target)
        if place is None:
            problem = problem_of(RejectReason.MISSING, f"a link to {target}, which is no image before it in the tar")
    elif info.issparse():
        problem = problem_of(RejectReason.UNSUPPORTED, "stored as a sparse file; make the tar without --sparse")
        place = None
    if place is not None and selection.may_be_image(name):
        places[name] = place
    if not selection.takes_visible(name):
        return None
    start, size = place or (info.offset_data, 0)
    return _Member(name, info.offset, start, size, problem)


_MEMBER_KINDS = {
    tarfile.FIFOTYPE: "named pipes",
    tarfile.CHRTYPE: "devices",
    tarfile.BLKTYPE: "devices",
}


def _normalized(name: str) -> str:
    while name.startswith("./"):
        name = name.removeprefix("./").lstrip("/")
    return name


class _DamagedTarError(Exception):
    """There is something else in the place of a header."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the tar is damaged at byte {offset}; what follows is not listed")
        self.offset = offset


#: What tarfile raises for headers that are damaged or made to hurt (found by fuzzing).
_TAR_ERRORS = (tarfile.TarError, ValueError, OverflowError, RecursionError)


def _headers(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """All headers of a tar, and of those that stand behind it in the same file.

    tarfile ends where the first of several ends, and takes a header that is none for the end too.

    Raises:
        _DamagedTarError, or one of _TAR_ERRORS.
    """
    with tarfile.open(fileobj=file, mode="r:") as archive:
        last = -1
        while True:
            info = archive.next()
            vars(archive)["members"] = []  # tarfile keeps them all
            if info is not None:
                if info.size < 0 or info.offset <= last:  # tarfile would go back for ever
                    raise _DamagedTarError(info.offset)
                last = info.offset
                yield info
                continue
            start = _next_block(file, vars(archive)["offset"])
            if start is None:
                return
            file.seek(start)
            try:
                tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), tarfile.ENCODING, "surrogateescape")
            except tarfile.TarError as error:
                raise _DamagedTarError(start) from error
            if start == vars(archive)["offset"]:
                raise _DamagedTarError(start)
            vars(archive)["offset"] = start


def _next_block(file: BinaryIO, start: int) -> int | None:
    """Where the first block begins that is not all zeros; None when nothing but zeros is left."""
    file.seek(start)
    while data := file.read(_BLOCK_BYTES):
        num_zeros = len(data) - len(data.lstrip(b"\0"))
        if num_zeros < len(data):
            return start + num_zeros // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        start += len(data)
    return None
