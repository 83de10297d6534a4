"""Which files in a stage's folder dxmc has written: only those are ever replaced or removed, all others stay.

A file is dxmc's own when a manifest names it; or when it has a name that only dxmc gives, with the fingerprint of an
attempt that `_own.json` or a manifest names; or when `_own.json` names it, where the name alone says nothing.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from dxmc_core.artifacts.manifest import CATALOG_NAME, MANIFEST_NAME, Manifest
from dxmc_core.artifacts.storage import Storage
from dxmc_core.artifacts.table_names import further_images_name
from dxmc_core.errors import InputError

OWN_NAME = "_own.json"
_SHOWN_NAMES = 10

#: A shard of an index that is being built; see stages/search_index.py.
SHARD_NAME = re.compile(r"^index_shards/(?P<fingerprint>[0-9a-f]{12})-[a-z_]+-(?:\d+|empty)\.faiss$")
#: What training leaves behind, and Ray Train beside it (2.60).
_TRAINING_NAME = re.compile(
    r"^(?:checkpoints/(?P<fingerprint>[0-9a-f]{12})/(?:epoch-\d{6}\.pt|metrics\.jsonl|start\.safetensors)"
    r"|ray_train/(?P<of_ray>[0-9a-f]{12})-[0-9a-f]{8}/(?:\.validate_storage_marker|checkpoint_manager_snapshot\.json))$"
)
#: Pages of the report's members: the fingerprint is that of the attempt.
_MEMBERS_NAME = re.compile(r"^members/(?P<fingerprint>[0-9a-f]{12})/cluster-\d+(?:-\d+)?\.html$")
#: What a write that was killed has left of a file; see storage.py.
TEMPORARY_NAME = re.compile(r"^(?P<folder>(?:.*/)?)\.(?P<file>[^/]+)\.[0-9a-f]{8}\.tmp$")


@cache
def part_name() -> re.Pattern[str]:
    """The names of parts, with the groups `table`, `fingerprint` and `sha256`."""
    from dxmc_core.artifacts.tables import TABLE_NAMES  # late: it brings pyarrow

    tables = "|".join((*TABLE_NAMES, further_images_name("[a-z0-9][a-z0-9._-]*")))
    return re.compile(
        rf"^(?P<table>{tables})/part-(?P<fingerprint>[0-9a-f]{{12}})-(?P<sha256>[0-9a-f]{{32}})\.parquet$"
    )


class _Named(BaseModel):
    name: str


class _Claim(BaseModel):
    """What a manifest of any version says of files, a damaged checksum aside."""

    stage: str
    fingerprint: str
    tables: dict[str, list[_Named]]
    files: dict[str, _Named]


class _Mark(BaseModel):
    """The content of `_own.json`: attempts since the stage was last finished, and files whose name says nothing."""

    stage: str
    fingerprints: list[str]
    files: list[str]


Model = TypeVar("Model", _Claim, _Mark)


@dataclass(frozen=True)
class Ownership:
    """What dxmc has written into the folder of a stage.

    Attributes:
        is_marked: whether `_own.json` is there.
        fingerprints: the first 12 digits of those of attempts.
        files: names of files, relative to the folder.
    """

    is_marked: bool = False
    fingerprints: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()

    def owns(self, name: str) -> bool:
        """Whether dxmc has written the file of this name."""
        temporary = TEMPORARY_NAME.match(name)
        if temporary:
            file = temporary["folder"] + temporary["file"]
            return file in (OWN_NAME, MANIFEST_NAME, CATALOG_NAME) or self.owns(file)
        if name in self.files:
            return True
        names = part_name(), SHARD_NAME, _TRAINING_NAME, _MEMBERS_NAME
        match = next(filter(None, (pattern.match(name) for pattern in names)), None)
        return match is not None and not self.fingerprints.isdisjoint(match.groups())

    def including(self, *, fingerprints: Iterable[str] = (), files: Iterable[str] = ()) -> "Ownership":
        """The same and more; fingerprints may be whole."""
        short = frozenset(fingerprint[:12] for fingerprint in fingerprints)
        return replace(self, fingerprints=self.fingerprints | short, files=self.files | frozenset(files))

    def with_manifest(self, manifest: Manifest) -> "Ownership":
        """The same, and what a manifest names."""
        return self.including(fingerprints=[manifest.fingerprint], files=[MANIFEST_NAME, *manifest.names])


def read_ownership(storage: Storage, stage: str) -> Ownership:
    """What is known of a stage's folder.

    Raises:
        InputError: in the place of a manifest is somebody else's file, or a damaged one where nothing shows whose.
    """
    found = Ownership()
    mark = _read(storage, OWN_NAME, _Mark, stage)
    if mark is not None:
        found = Ownership(is_marked=True).including(fingerprints=mark.fingerprints, files=[OWN_NAME, *mark.files])
    for name in (MANIFEST_NAME, CATALOG_NAME):
        try:
            claim = _read(storage, name, _Claim, stage)
        except InputError:
            if not found.is_marked:
                raise
            found = found.including(files=[name])  # damaged: a folder with a mark is dxmc's
            continue
        if claim is not None:
            parts = [part.name for table in claim.tables.values() for part in table]
            files = [name, *parts, *(file.name for file in claim.files.values())]
            found = found.including(fingerprints=[claim.fingerprint], files=files)
    return found


def write_mark(storage: Storage, stage: str, *, fingerprints: Iterable[str], files: Iterable[str]) -> None:
    """Write `_own.json`; of the files, those whose name says nothing of dxmc."""
    telling = (OWN_NAME, MANIFEST_NAME, CATALOG_NAME)
    unclear = sorted(
        name for name in files if name not in telling and not (part_name().match(name) or _MEMBERS_NAME.match(name))
    )
    mark = _Mark(stage=stage, fingerprints=sorted(fingerprint[:12] for fingerprint in fingerprints), files=unclear)
    storage.write_bytes(OWN_NAME, json.dumps(mark.model_dump()).encode())


def _read(storage: Storage, name: str, model: type[Model], stage: str) -> Model | None:
    try:
        found = model.model_validate_json(storage.read_bytes(name))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise foreign_file(storage, name) from error
    if found.stage != stage:
        raise foreign_file(storage, name)
    return found


def listed(names: Sequence[str]) -> str:
    """Names for a person, the first ten of many."""
    others = f" (and {len(names) - _SHOWN_NAMES} more)" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(map(repr, names[:_SHOWN_NAMES])) + others


def foreign_file(storage: Storage, name: str) -> InputError:
    """What to tell a person of a file that stands where dxmc would write."""
    return InputError(
        f"{storage.uri}/{name} is in the way: nothing shows that dxmc wrote it, so it is not replaced; move it away "
        "and run again"
    )
