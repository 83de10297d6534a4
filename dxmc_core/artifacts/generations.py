"""Generations: the results of scheduled runs in one directory, of which `current.json` names the one that counts.

    <home>/current.json                  moved at the end of a run, by a conditional write
    <home>/generations/000012/           a run directory of its own, never changed once it is published

A reader resolves `current` once (`open_run_dir`) and then reads files that nobody writes. A generation is published by
its `generation.json` and by the pointer, in this order; one that a killed run left is gone on with.
"""

import json
import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dxmc_core.artifacts.ownership import listed
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.storage import Storage
from dxmc_core.errors import ArtifactError, DxmcError, InputError

CURRENT_NAME = "current.json"
RECORD_NAME = "generation.json"
#: The mode of a generation that people's corrections made.
EDIT = "edit"
_FOLDER = "generations"
_NUMBER = re.compile(r"^\d{6}$")

logger = logging.getLogger(__name__)


class GenerationRecord(BaseModel):
    """What a published generation says of itself.

    Attributes:
        number: from 1; never given twice.
        base: the generation that ids and embeddings were taken over from.
        mode: "full" (clustered anew), "assign" (new images assigned by the heads of `base`) or "edit" (what people
            corrected, applied to `base`).
        reason: why that mode, for a person.
        metrics: figures of the run, JSON types only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    base: int | None
    mode: str
    reason: str
    published_at: str
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Pointer:
    """The content of `current.json`.

    Attributes:
        current: the generation that readers are given.
        highest: the highest number that was ever published; a higher one is a run's that did not end.
        raw: the bytes it was read from, by which a later write knows that nobody else moved it.
    """

    current: int
    highest: int
    raw: bytes


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Generations:
    """The generations below a home directory. Whoever changes something holds the home's lock."""

    home: RunDir

    @property
    def _storage(self) -> Storage:
        return self.home.storage

    def pointer(self) -> Pointer | None:
        """Where `current` stands; None before the first generation.

        Raises:
            ArtifactError: `current.json` is damaged.
        """
        try:
            raw = self._storage.read_bytes(CURRENT_NAME)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            found = json.loads(raw)
            return Pointer(int(found["current"]), int(found["highest"]), raw)
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{self.home.uri}/{CURRENT_NAME} is damaged ({error}); restore it with dxmc rollback "
                f"{self.home.uri} --to N"
            ) from error

    def require_own_or_empty(self) -> None:
        """Check that generations may be made here.

        Raises:
            InputError: there are files of somebody else.
            ArtifactError: `current.json` is damaged.
        """
        if not self.home.is_own() and self.pointer() is None and not self.run_dir(1).is_own():
            self.home.require_empty()

    def run_dir(self, number: int) -> RunDir:
        """Where a generation lies."""
        return RunDir(f"{self.home.uri}/{_FOLDER}/{number:06}")

    def record(self, number: int) -> GenerationRecord | None:
        """What a generation says of itself; None for one that is not published, or not kept any more."""
        return read_record(self.run_dir(number))

    def published(self) -> list[GenerationRecord]:
        """The generations that are kept, oldest first."""
        pointer = self.pointer()
        records = [self.record(number) for number in self._numbers() if pointer and number <= pointer.highest]
        return [record for record in records if record is not None]

    def _numbers(self) -> list[int]:
        folders = self._storage.list_folders(_FOLDER)
        return sorted(int(name) for name in folders if _NUMBER.match(name))

    def begin(self) -> int:
        """The number of the generation that a run works on: that of a run that did not end, or the next one."""
        pointer = self.pointer()
        number = 1 if pointer is None else pointer.highest + 1
        if self.record(number) is not None:  # left by a run that was killed before it moved `current`
            self.run_dir(number).storage.delete(RECORD_NAME)
        return number

    def discard_unfinished(self, number: int) -> None:
        """Remove what a run that did not end has left of a generation that is not published."""
        run_dir = self.run_dir(number)
        if run_dir.is_own() and self.record(number) is None:
            logger.warning("%s: removing what a run that did not end has left", run_dir.uri)
            self._remove(number)

    def publish(self, record: GenerationRecord, *, before: Pointer | None) -> None:
        """Write the generation's record, then move `current` to it.

        Args:
            before: what `pointer` gave when the run began.

        Raises:
            DxmcError: somebody else moved `current` since; nothing is published.
        """
        data = record.model_dump_json(indent=1).encode()
        self.run_dir(record.number).storage.write_bytes(RECORD_NAME, data)
        self._move(record.number, highest=record.number, before=before)

    def rollback(self, number: int | None = None) -> GenerationRecord:
        """Move `current` to an earlier generation: the given one, or the newest that is older than `current`.

        Raises:
            InputError: there is no such generation.
            DxmcError: somebody else moved `current` at the same time.
        """
        try:
            pointer = self.pointer()
        except ArtifactError:
            if number is None:
                raise
            pointer = Pointer(number, max(self._numbers(), default=0), self._storage.read_bytes(CURRENT_NAME))
        if pointer is None:
            raise InputError(f"{self.home.uri} has no generations; dxmc recluster makes them")
        kept = [found for found in self._numbers() if found <= pointer.highest and self.record(found) is not None]
        if number is None:
            number = max((found for found in kept if found < pointer.current), default=None)
        if number not in kept:
            asked = "an earlier generation" if number is None else f"generation {number}"
            raise InputError(f"{self.home.uri} does not keep {asked}; it keeps {', '.join(map(str, kept)) or 'none'}")
        self._move(number, highest=pointer.highest, before=pointer)
        record = self.record(number)
        assert record is not None
        return record

    def _move(self, number: int, *, highest: int, before: Pointer | None) -> None:
        content = {"current": number, "highest": highest, "moved_at": now()}
        data = json.dumps(content).encode()
        if before is None:
            moved = self._storage.create_bytes(CURRENT_NAME, data)
        else:
            moved = self._storage.replace_bytes(CURRENT_NAME, data, expected=before.raw)
        if not moved:
            raise DxmcError(
                f"{self.home.uri}/{CURRENT_NAME} was moved by somebody else meanwhile; generation {number} does not "
                "become current; run again"
            )

    def retire(self, keep: int) -> list[int]:
        """Remove all but `current` and the newest generations; the numbers removed. What others have put there stays.

        Args:
            keep: how many stay at least, `current` included. Generations of edits count apart from the others, so that
                a day of corrections does not end what last month's nights have made.
        """
        pointer = self.pointer()
        if pointer is None:
            return []
        done = [number for number in self._numbers() if number <= pointer.highest]
        records = {number: self.record(number) for number in done}
        others = {number: record for number, record in records.items() if record and number != pointer.current}
        of_edits = [number for number, record in others.items() if record.mode == EDIT]
        of_nights = [number for number in others if number not in of_edits]
        kept = {pointer.current, *(of_edits[-(keep - 1) :] + of_nights[-(keep - 1) :] if keep > 1 else ())}
        # One without a record was half removed; one without either is what others have left in its place.
        removed = [number for number in done if number not in kept and (records[number] or self._is_run(number))]
        for number in removed:
            self._remove(number)
        return removed

    def _is_run(self, number: int) -> bool:
        try:
            return self.run_dir(number).is_own()
        except InputError:
            return False

    def _remove(self, number: int) -> None:
        run_dir = self.run_dir(number)
        run_dir.storage.delete(RECORD_NAME)  # first: what is half removed is no generation
        foreign = run_dir.delete()
        if foreign:
            logger.warning("%s: left alone, as dxmc did not write it: %s", run_dir.uri, listed(foreign))


def home_of(run_dir: RunDir) -> RunDir:
    """Where generations lie, of one of them; any other run directory is a home itself."""
    home, _, number = run_dir.uri.rpartition(f"/{_FOLDER}/")
    return RunDir(home) if home and _NUMBER.match(number) else run_dir


def folders_of(run_dir: RunDir) -> list[str]:
    """URIs of the folders that dxmc writes into there, and into its home where it is a generation."""
    home = home_of(run_dir)
    return [*home.folders, f"{home.uri}/{_FOLDER}"]


def read_record(run_dir: RunDir) -> GenerationRecord | None:
    """What a generation says of itself; None for a directory that is none, or not a published one.

    Raises:
        ArtifactError: its record is damaged.
    """
    storage = run_dir.storage
    try:
        return GenerationRecord.model_validate_json(storage.read_bytes(RECORD_NAME))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ArtifactError(f"{storage.uri}/{RECORD_NAME} is damaged; roll back to another generation") from error


def open_run_dir(uri: str) -> RunDir:
    """The run that readers of a directory mean: its current generation where it has generations, else itself.

    Raises:
        ArtifactError: the pointer is damaged.
    """
    home = RunDir.at(uri)
    generations = Generations(home)
    pointer = generations.pointer()
    return home if pointer is None else generations.run_dir(pointer.current)
