"""Which files of a source are taken: by the endings of their names, by the user's patterns, and none of those that
systems and programs keep for themselves. What is left out is counted, and said in a few lines when a listing ends."""

import logging
import posixpath
import re
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

from fsspec.utils import glob_translate

#: Of the formats that `formats.sniff_format` knows and `decode` opens.
IMAGE_SUFFIXES = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo", ".jps",
        ".png", ".apng",
        ".gif",
        ".webp",
        ".bmp", ".dib",
        ".tif", ".tiff",
        ".avif", ".avifs",
        ".heic", ".heif", ".heics", ".heifs", ".hif",
        ".pnm", ".pbm", ".pgm", ".ppm",
        ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jpm",
        ".ico",
    )
)  # fmt: skip
#: In `source.suffixes`: files of every ending, where their first bytes are those of an image.
BY_CONTENT = "*"
#: Folders of Synology, QNAP, Windows, macOS and ext4 that hold thumbnails, what was thrown away, or fragments.
_SERVICE_NAMES = frozenset(
    (
        "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb",
        "$recycle.bin", "recycler", "recycled", "system volume information",
        "__macosx", "network trash folder", "temporary items", "lost+found",
    )
)  # fmt: skip
_ENDING = re.compile(r"\.([a-z][a-z0-9]{0,9})(?![a-z0-9])")
_MOST_ENDINGS_SHOWN = 5
_MOST_EXAMPLES_SHOWN = 3
#: Different endings, or examples, that are kept of one reason.
_MOST_KEPT = 1000

logger = logging.getLogger(__name__)


def ending_of(name: str) -> str:
    """The ending of a file's name, with its dot and in small letters; empty when it has none.

    It is the last word after a dot. Numbers are none (`2021.05.03`), nor is what downloads and servers append:
    `photo.jpg?w=1.5`, `photo.jpg.1` and `photo.jpeg_large` end in `.jpg` and `.jpeg`.
    """
    found = _ENDING.findall(posixpath.basename(name).lower().partition("?")[0])
    return f".{found[-1]}" if found else ""


def may_be_image(name: str, suffixes: Sequence[str] = ()) -> bool:
    """True for names that end like images, or in one of `suffixes`, or in nothing (object keys are often hashes)."""
    ending, base = ending_of(name), posixpath.basename(name).lower()
    if ending in IMAGE_SUFFIXES or ending in ("", *suffixes) or base.endswith(tuple(suffixes)):
        return True
    return any(f".{word}" in IMAGE_SUFFIXES for word in _ENDING.findall(base.partition("?")[2])[-1:])


def hidden_part(name: str) -> str | None:
    """The first folder of a relative path, or else the file's name, that is hidden or kept by a system for itself."""
    for part in name.split("/"):
        if (part.startswith(".") and part.strip(".")) or part.casefold() in _SERVICE_NAMES:
            return part
    return None


def pattern_expression(pattern: str) -> str:
    """A pattern of `source.include` and `source.exclude` as a regular expression for whole names.

    Without a slash it is matched against the name of every folder and file on the way; with one, against the path from
    its beginning, and with a slash at its end against folders only. A folder that matches stands for all that is in it.

    Raises:
        ValueError: it is empty, or `**` is only a part of a name.
    """
    is_anywhere = "/" not in pattern.rstrip("/")
    path = pattern.removesuffix("/").removeprefix("/")
    if not path:
        raise ValueError("a pattern that is empty")
    below = "(?:/.+)" if pattern.endswith("/") else "(?:/.+)?"
    return f"{'(?:.*/)?' if is_anywhere else ''}{glob_translate(path).removesuffix(chr(92) + 'Z')}{below}"


def _compiled(patterns: Iterable[str]) -> re.Pattern[str] | None:
    expressions = [pattern_expression(pattern) for pattern in patterns]
    return re.compile("|".join(f"(?:{expression})" for expression in expressions), re.DOTALL) if expressions else None


class Reason(StrEnum):
    """Why something was passed over, as the line about it begins."""

    ENDING = "files that do not end like images"
    OTHER_ENDING = "files of another kind"
    CONTENT = "files that do not begin like images"
    HIDDEN = "hidden files, and files in hidden or service folders"
    PATTERN = "images that source.include and source.exclude leave out"
    NOT_A_FILE = "pipes, sockets, devices and the like"
    FOLDER = "folders that cannot be listed"
    CIRCLE = "links to folders that are listed already"
    FURTHER_IMAGE = "further images of samples that have one"
    MEMBER = "members of tars that are no files"


_HINTS = {
    Reason.ENDING: f'; source.suffixes takes such endings in, ["{BY_CONTENT}"] all files that begin like images',
    Reason.HIDDEN: "; patterns of source.include that name them take them in",
    Reason.FURTHER_IMAGE: "; the key of a sample is what comes before its ending",
}
#: What is counted of these reasons are kinds; of the others, places of which some are named.
_KINDS = {Reason.ENDING, Reason.OTHER_ENDING, Reason.CONTENT, Reason.HIDDEN, Reason.NOT_A_FILE, Reason.MEMBER}
_EXPECTED = {Reason.PATTERN, Reason.HIDDEN, Reason.OTHER_ENDING, Reason.FURTHER_IMAGE}


class PassedOver:
    """Counts what a listing does not take; several threads may."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[Reason, Counter[str]] = {}
        self._counts: Counter[Reason] = Counter()

    def add(self, reason: Reason, what: str) -> None:
        """Count one more.

        Args:
            what: the ending or kind, or where it is.
        """
        with self._lock:
            self._counts[reason] += 1
            kinds = self._kinds.setdefault(reason, Counter())
            if what in kinds or len(kinds) < _MOST_KEPT:
                kinds[what] += 1

    @property
    def counts(self) -> dict[Reason, int]:
        return dict(self._counts)

    def lines(self) -> dict[Reason, str]:
        """A line about each reason there was."""
        return {
            reason: f"passed over: {count} {reason} ({self._shown(reason)}){_HINTS.get(reason, '')}"
            for reason, count in self._counts.items()
        }

    def _shown(self, reason: Reason) -> str:
        kinds = self._kinds[reason]
        if reason in _KINDS:
            shown = [f"{count} {what}" for what, count in kinds.most_common(_MOST_ENDINGS_SHOWN)]
            num_others = self._counts[reason] - sum(count for _, count in kinds.most_common(_MOST_ENDINGS_SHOWN))
            return ", ".join([*shown, *([f"{num_others} others"] if num_others else [])])
        more = ", ..." if len(kinds) > _MOST_EXAMPLES_SHOWN else ""
        return ", ".join(list(kinds)[:_MOST_EXAMPLES_SHOWN]) + more

    def said_after(self, message: str) -> str:
        """A message, of a place where nothing is left, that goes on with what was passed over."""
        return "; ".join([message, *self.lines().values()])

    def log(self, where: str) -> None:
        for reason, line in self.lines().items():
            logger.log(logging.INFO if reason in _EXPECTED else logging.WARNING, "%s: %s", where, line)


class Selection:
    """The user's choice among what a source holds, with the count of the rest.

    Attributes:
        own: URIs of the folders that dxmc writes into; where they lie within the source they are no part of it.
        passed_over: grows while a source is listed.
    """

    def __init__(
        self,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        suffixes: Sequence[str] = (),
        own: Sequence[str] = (),
    ) -> None:
        self.own = tuple(own)
        self._include, self._exclude = _compiled(include), _compiled(exclude)
        self._include_hidden = _compiled(pattern for pattern in include if hidden_part(pattern) is not None)
        self._suffixes = tuple(suffix for suffix in suffixes if suffix != BY_CONTENT)
        self.by_content = BY_CONTENT in suffixes
        self.passed_over = PassedOver()

    @classmethod
    def of(cls, source: Any, *, own: Sequence[str] = ()) -> "Selection":
        """That of a section `source` of the configuration."""
        suffixes = getattr(source, "suffixes", ())
        return cls(include=source.include, exclude=source.exclude, suffixes=suffixes, own=own)

    @property
    def takes_all(self) -> bool:
        """Whether the user has given no pattern."""
        return self._include is None and self._exclude is None

    def may_be_image(self, name: str) -> bool:
        """By the ending of its name."""
        return may_be_image(name, self._suffixes)

    def takes_visible(self, name: str) -> bool:
        """False for what is hidden or a system's own, unless an include pattern names it. Counts what is refused."""
        hidden = hidden_part(name)
        if hidden is None or (self._include_hidden is not None and self._include_hidden.fullmatch(name)):
            return True
        self.passed_over.add(Reason.HIDDEN, hidden)
        return False

    def takes_name(self, name: str, *, holder: str | None = None) -> bool:
        """What the user's patterns say of an image. Counts what is refused.

        Args:
            holder: the name of the tar or Parquet file it lies in; a pattern that matches it, matches the image.
        """
        names = [name] if holder is None else [name, holder]
        if self._matches(self._exclude, names) or (
            self._include is not None and not self._matches(self._include, names)
        ):
            self.passed_over.add(Reason.PATTERN, name)
            return False
        return True

    def takes_holder(self, name: str) -> bool:
        """False for a tar or Parquet file that is excluded as a whole. Counts what is refused."""
        if self._matches(self._exclude, [name]):
            self.passed_over.add(Reason.PATTERN, name)
            return False
        return True

    def pass_ending(self, name: str, *, of_images: bool) -> None:
        """Count a file that its ending leaves out."""
        self.passed_over.add(Reason.ENDING if of_images else Reason.OTHER_ENDING, ending_of(name) or "without ending")

    @staticmethod
    def _matches(patterns: re.Pattern[str] | None, names: Sequence[str]) -> bool:
        return patterns is not None and any(patterns.fullmatch(name) for name in names)
