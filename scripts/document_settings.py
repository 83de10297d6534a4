"""Writes docs/SETTINGS.md: every key of a configuration by the models of the code.

Run it after a change of a setting; a test compares the page with what this would write. The column `since` is taken
over from the page: a setting that is not there yet is given the version of the package.
"""

import ast
import copy
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dxmc_core import __version__
from dxmc_core.config import PipelineConfig
from dxmc_core.method.hyperparameters import METHODS, method_settings

PAGE = Path(__file__).parents[1] / "docs" / "SETTINGS.md"
#: Published settings of a method depend on K from 100 on, and on N where it is less than a batch.
_FEW, _MANY, _NUM_IMAGES = 10, 100, 1_000_000
_TABLE = "| setting | type | default | meaning | since |\n|---|---|---|---|---|"
_WORDS = {int: "whole number", float: "number", str: "text", bool: "true, false", type(None): "null"}
_BOUNDS = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}

_HEAD = """\
# Settings

<!-- Written by scripts/document_settings.py; change that or the models of the code, not this page. -->

A configuration is a YAML file with these keys; `dxmc init` writes one with comments. Only `run_dir` and `source.uri`
have to be there. A key of a section is written with a dot here, and may be changed for one run on the command line:

```bash
dxmc run --config FILE --set num_clusters=20 --set encoder.kind=offline
```

Values after `--set` are YAML: `null`, `true`, `[2, 8]`, `{kind: offline}`. A section that comes in kinds knows the keys
of its kind only. When `--set` changes the kind, keys of the file that the new kind does not know are left out, and a
line says which. An unknown key is an error that names the nearest one there is.
"""


def document(page: str) -> str:
    """The page.

    Args:
        page: as it stands now; what it says of since when there is a setting stays.

    Raises:
        ValueError: a setting has no description.
    """
    since = _known_since(page)
    sections = [f"{_HEAD}", *_sections(since)]
    return "\n".join(sections)


def _known_since(page: str) -> dict[tuple[str, str], str]:
    """The version of each setting, by the heading it stands under and its name."""
    found, heading = {}, ""
    for line in page.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif match := re.match(r"\| `([^`]+)` \|.*\| ([^|]+) \|$", line):
            found[heading, match[1]] = match[2]
    return found


def described_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a model, each described by the docstring under it.

    pydantic would do this with `use_attribute_docstrings`, at every start of every command.
    """
    found = {name: copy.copy(field) for name, field in model.model_fields.items()}
    for base in reversed(model.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in itertools.pairwise(definition.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(docstring))) if name in found:
                    found[name].description = inspect.cleandoc(docstring)
    return found


def _sections(since: Mapping[tuple[str, str], str]) -> Iterator[str]:
    found = described_fields(PipelineConfig)
    models = {name: list(models_in(field.annotation)) for name, field in found.items()}
    plain = {name: field for name, field in found.items() if not models[name] or _is_list(field)}
    yield _table("The run", "", "", plain, since)
    for name, kinds in models.items():
        if _is_list(found[name]):
            # Most kinds are described where one stands alone.
            alone = {kind for other in found if not _is_list(found[other]) for kind in models[other]}
            for model in kinds:
                if model not in alone:
                    yield _kind(name, model, since).replace("###", "##", 1)
        elif len(kinds) == 1:
            yield _table(name, _line(kinds[0].__doc__ or ""), f"{name}.", described_fields(kinds[0]), since)
        elif kinds:
            yield f"## {name}\n\n{_line(found[name].description or '')}\n"
            for model in kinds:
                yield _kind(name, model, since)
        if name == "method":
            yield from _methods(since)


def _is_list(field: FieldInfo) -> bool:
    """Whether it is a list, of sections that are described where one of them stands alone."""
    return typing.get_origin(field.annotation) is tuple


def _kind(section: str, model: type[BaseModel], since: Mapping[tuple[str, str], str]) -> str:
    (kind,) = typing.get_args(model.model_fields["kind"].annotation)
    own = {name: field for name, field in described_fields(model).items() if name != "kind"}
    is_default = model.model_fields["kind"].default == kind
    heading = f"{section}.kind: {kind}"
    text = _line(model.__doc__ or "")
    return _table(
        heading, f"{text} This is the default kind." if is_default else text, f"{section}.", own, since, "###"
    )


def _table(
    heading: str,
    text: str,
    prefix: str,
    settings: Mapping[str, FieldInfo],
    since: Mapping[tuple[str, str], str],
    level: str = "##",
) -> str:
    required_first = sorted(settings.items(), key=lambda item: not item[1].is_required())
    rows = [_row(heading, f"{prefix}{name}", field, since) for name, field in required_first]
    parts = [f"{level} {heading}\n", *([f"{text}\n"] if text else []), *([_TABLE, *rows, ""] if rows else [])]
    return "\n".join(parts)


def _row(heading: str, name: str, field: FieldInfo, since: Mapping[tuple[str, str], str]) -> str:
    if not field.description:
        raise ValueError(f"{name} has no description; write one under the field")
    default = "required" if field.is_required() else f"`{_value(field.get_default(call_default_factory=True))}`"
    bounds = [
        f"{word} {getattr(bound, name):g}" for bound in field.metadata for name, word in _BOUNDS.items()
        if getattr(bound, name, None) is not None
    ]  # fmt: skip
    null = " or null"
    kind = type_name(field.annotation)
    kind = " ".join([kind.removesuffix(null), *bounds]) + (null if kind.endswith(null) else "")
    return _cells(heading, name, kind, default, field.description, since)


def _cells(heading: str, name: str, kind: str, default: str, meaning: str, since: Mapping[tuple[str, str], str]) -> str:
    cells = [f"`{name}`", kind, default, _line(meaning), since.get((heading, name), __version__)]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _methods(since: Mapping[tuple[str, str], str]) -> Iterator[str]:
    """A table for each method, of the settings that its dataclass has."""
    for method in METHODS:
        few, many = (method_settings(method, num_clusters=k, num_images=_NUM_IMAGES) for k in (_FEW, _MANY))
        meanings = _attributes(type(few))
        heading = f"method.name: {method}"
        rows = []
        for field in fields(few):
            if field.name not in meanings:
                raise ValueError(
                    f"method.{field.name} has no description; add it to Attributes of {type(few).__name__}"
                )
            values = [f"`{_value(getattr(settings, field.name))}`" for settings in (few, many)]
            default = values[0] if values[0] == values[1] else f"{values[0]}; {values[1]} from {_MANY} clusters on"
            kind = type_name(typing.get_type_hints(type(few))[field.name])
            rows.append(_cells(heading, f"method.{field.name}", kind, default, meanings[field.name], since))
        yield "\n".join([f"### {heading}\n", _TABLE, *rows, ""])


def _attributes(settings: type) -> dict[str, str]:
    """What the docstrings of a dataclass and its bases say of each field, under `Attributes:`."""
    meanings: dict[str, str] = {}
    for base in reversed(settings.__mro__):
        _, _, text = (base.__doc__ or "").partition("Attributes:\n")
        for names, meaning in re.findall(r"^ {8}(\w[\w, ]*): (.+(?:\n {12,}.+)*)", text, re.MULTILINE):
            meanings |= dict.fromkeys(names.split(", "), meaning)
    return meanings


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from models_in(argument)


def type_name(annotation: Any) -> str:
    """A type in the words of somebody who writes YAML."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(argument) for argument in arguments))
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {type_name(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(type_name(argument) for argument in arguments)}]"
    return "section" if issubclass(annotation, BaseModel) else _WORDS[annotation]


def _value(value: Any) -> str:
    """A default as YAML would have it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_value, value))}]"
    assert value is not PydanticUndefined
    return f"{value:g}" if isinstance(value, float) else str(value)


def _line(text: str) -> str:
    """On one line, with what would be a tag of HTML outside code escaped."""
    pieces = " ".join(text.split()).split("`")
    return "`".join(piece if place % 2 else piece.replace("<", "&lt;") for place, piece in enumerate(pieces))


if __name__ == "__main__":
    PAGE.write_text(document(PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""), encoding="utf-8")
    print(PAGE)
