"""The file that edits lie in: `edits.yaml`, or `edits.parquet` for many, in the home of a run.

Home is the directory of a run, or the one that holds the generations; what a run deletes or replaces never includes the
file. Whoever writes holds the home's lock; what a write replaces stays as a version in `edits/`.
"""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import yaml
from pydantic import ValidationError

from dxmc_core.artifacts.generations import home_of
from dxmc_core.artifacts.run_dir import EDITS_FOLDER, EDITS_NAMES, RunDir
from dxmc_core.edits.check import contradictions
from dxmc_core.edits.model import Action, Edit
from dxmc_core.errors import InputError, on_one_line

VERSION = 1
_YAML, _PARQUET = EDITS_NAMES
_MAX_BYTES = 256 * 2**20
_SHOWN_LINES = 20
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class EditsError(InputError):
    """Edits that cannot be used: one line for each thing that is wrong, with the file and the place in it."""

    def __init__(self, lines: Sequence[str]) -> None:
        more = len(lines) - _SHOWN_LINES
        super().__init__("\n".join([*lines[:_SHOWN_LINES], *([f"... and {more:,} more"] if more > 0 else [])]))
        self.lines = tuple(lines)

    def __reduce__(self) -> tuple[type, tuple[tuple[str, ...]]]:
        return type(self), (self.lines,)


@dataclass(frozen=True)
class EditsFile:
    """The edits of a home as they were read.

    Attributes:
        name: of the file, the one it would have where there is none yet.
        raw: its bytes, by which a write knows that nobody else was there meanwhile; None where there is none.
    """

    home: RunDir
    name: str = _YAML
    edits: tuple[Edit, ...] = ()
    raw: bytes | None = field(default=None, repr=False)

    @property
    def uri(self) -> str:
        return f"{self.home.uri}/{self.name}"


def read_edits(run_dir: RunDir) -> EditsFile:
    """The edits that a run and all others of its home listen to; none where there is no file.

    Raises:
        EditsError: something in it cannot be used, or two edits contradict one another.
        InputError: there are two files.
    """
    home = home_of(run_dir)
    found = {name: data for name in EDITS_NAMES if (data := _read(home, name)) is not None}
    if len(found) > 1:
        raise InputError(f"{home.uri} has both {' and '.join(found)}; keep one of them")
    for name, data in found.items():
        edits = parse_edits(data, f"{home.uri}/{name}")
        return EditsFile(home, name, edits, data)
    return EditsFile(home)


def _read(home: RunDir, name: str) -> bytes | None:
    try:
        return home.storage.read_bytes(name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError as error:
        raise InputError(f"{home.uri}/{name} is a folder, expected a file") from error


def parse_edits(data: bytes, where: str) -> tuple[Edit, ...]:
    """Edits from the content of a file, of Parquet or of YAML (and so of JSON). Nothing in it is executed.

    Args:
        where: the file's name, for errors.

    Raises:
        EditsError: something in it cannot be used, or two edits contradict one another.
    """
    if len(data) > _MAX_BYTES:
        raise EditsError([f"{where}: expected at most {_MAX_BYTES // 2**20} MiB, found {len(data) // 2**20}"])
    if data[:4] == b"PAR1":
        from dxmc_core.edits.parquet_form import parquet_rows  # late: it brings pyarrow

        rows = parquet_rows(data, where)
    else:
        rows = _yaml_rows(data, where)
    edits, lines = [], []
    for number, row in enumerate(rows, start=1):
        try:
            edits.append(Edit.model_validate(row))
        except ValidationError as error:
            lines += [f"{place_of(where, number, row)}: {line}" for line in told(error)]
    if not lines:
        lines = [f"{place_of(where, number, edits[number - 1])}: {text}" for number, text in contradictions(edits)]
    if lines:
        raise EditsError(lines)
    return tuple(edits)


def place_of(where: str, number: int, edit: Any) -> str:
    """An edit's place in its file, for a person."""
    edit_id = edit.id if isinstance(edit, Edit) else edit.get("id") if isinstance(edit, dict) else None
    return f"{where}: edit {number}" + (f" ({str(edit_id)[:20]})" if edit_id else "")


def told(error: ValidationError) -> list[str]:
    """What is wrong with an edit, one line for each thing."""
    lines = []
    for found in error.errors(include_url=False, include_context=False):
        # Names of models and of branches of unions are ours, not the file's.
        path = ".".join(str(part) for part in found["loc"] if part != "action" and "[" not in str(part))
        text = " ".join(found["msg"].removeprefix("Value error, ").split())
        if found["type"] not in ("value_error", "missing", "extra_forbidden"):
            text += f", found {str(found['input'])[:50]!r}"
        lines.append(f"{path}: {text}" if path else text)
    return lines


def _yaml_rows(data: bytes, where: str) -> list[Any]:
    try:
        # All scalars stay text, so that an image 007 and a name "no" are what they look like.
        found = yaml.load(data.decode("utf-8-sig"), Loader=_LOADER)  # noqa: S506 - BaseLoader makes text alone
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise EditsError([f"{where}: is no YAML: {on_one_line(error)}"]) from error
    if found in (None, ""):
        return []
    if not isinstance(found, dict) or set(found) - {"version", "edits"} or str(found.get("version")) != str(VERSION):
        raise EditsError([f"{where}: expected `version: {VERSION}` and `edits:` with a list, and nothing else"])
    rows = found.get("edits") or []
    if not isinstance(rows, list):
        raise EditsError([f"{where}: edits: expected a list, found {str(rows)[:50]!r}"])
    _require_no_aliases(found, where)
    return rows


def _require_no_aliases(found: Any, where: str) -> None:
    """By references to other places of it, a small file can mean an endless one."""
    seen: set[int] = set()
    todo = [found]
    while todo:
        value = todo.pop()
        if not isinstance(value, dict | list):
            continue
        if id(value) in seen:
            raise EditsError([f"{where}: expected plain YAML, found a reference (`*name`) to another place of it"])
        seen.add(id(value))
        todo += value.values() if isinstance(value, dict) else value


def format_edits(edits: Iterable[Edit], name: str = _YAML) -> bytes:
    """The content of a file of edits.

    Args:
        name: whose suffix decides the form.
    """
    rows = [edit.model_dump() for edit in edits]
    if name == _PARQUET:
        from dxmc_core.edits.parquet_form import parquet_bytes  # late: it brings pyarrow

        return parquet_bytes(rows)
    text = yaml.dump(
        {"version": VERSION, "edits": rows},
        Dumper=_DUMPER,
        allow_unicode=True,
        sort_keys=False,
        default_flow_style=None,
        width=120,
    )
    return text.encode()


def new_edit(action: Action, *, author: str, reason: str | None = None) -> Edit:
    """An edit that is made now.

    Raises:
        InputError: the author's name or the reason cannot be used.
    """
    at = datetime.now(UTC).replace(microsecond=0)
    try:
        return Edit(id=secrets.token_hex(4), author=author, at=at, reason=reason, action=action)
    except ValidationError as error:
        raise InputError("; ".join(told(error))) from error


def append_edits(found: EditsFile, edits: Iterable[Edit]) -> EditsFile:
    """Write more edits behind those there are. The lock of the home is the caller's.

    Raises:
        EditsError: one contradicts another; nothing is written.
        InputError: somebody else has written the file meanwhile; nothing is written.
    """
    return write_edits(found, (*found.edits, *edits))


def undo_edit(found: EditsFile, edit_id: str | None = None) -> tuple[EditsFile, Edit]:
    """Write the edits without one of them, by default the last; also that one. The lock of the home is the caller's.

    Raises:
        InputError: there is no such edit, or somebody else has written the file meanwhile; nothing is written.
    """
    if not found.edits:
        raise InputError(f"{found.uri} has no edits to undo")
    undone = found.edits[-1] if edit_id is None else next((e for e in found.edits if e.id == edit_id), None)
    if undone is None:
        raise InputError(f"{found.uri} has no edit {edit_id!r}; dxmc edit {found.home.uri} list shows those there are")
    return write_edits(found, [edit for edit in found.edits if edit.id != undone.id]), undone


def write_edits(found: EditsFile, edits: Iterable[Edit]) -> EditsFile:
    """Put edits in the place of those that were read; what stood there stays as a version in `edits/`.

    Raises:
        EditsError: one contradicts another; nothing is written.
        InputError: somebody else has written the file meanwhile; nothing is written.
    """
    edits = tuple(edits)
    lines = [f"{place_of(found.uri, number, edits[number - 1])}: {text}" for number, text in contradictions(edits)]
    if lines:
        raise EditsError(lines)
    data, storage = format_edits(edits, found.name), found.home.storage
    if found.raw is None:
        is_written = storage.create_bytes(found.name, data)
    else:
        _keep_version(found)
        is_written = storage.replace_bytes(found.name, data, expected=found.raw)
    if not is_written:
        raise InputError(f"{found.uri} was written by somebody else meanwhile; nothing was changed, try again")
    return EditsFile(found.home, found.name, edits, data)


def _keep_version(found: EditsFile) -> None:
    """Keep what was read as a version, once."""
    assert found.raw is not None
    versions = found.home.storage.child(EDITS_FOLDER)
    numbers = {int(stem): name for name in versions.names(1_000_000) if (stem := name.partition(".")[0]).isdecimal()}
    number = max(numbers, default=0)
    if number and versions.read_bytes(numbers[number]) == found.raw:  # by a write that was refused
        return
    suffix = found.name.rpartition(".")[2]
    while not versions.create_bytes(f"{number + 1:06}.{suffix}", found.raw):
        number += 1
