"""docs/SETTINGS.md says what the models say, of every setting."""

import importlib.util
import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from dxmc_core import __version__
from dxmc_core.config import PipelineConfig, parse_config
from dxmc_core.settings import Settings

SCRIPT = Path(__file__).parents[2] / "scripts" / "document_settings.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("document_settings", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(script):
    page = script.PAGE.read_text(encoding="utf-8")
    assert page == script.document(page), "run python scripts/document_settings.py"


def test_every_setting_of_a_whole_configuration_is_on_the_page(script):
    config = parse_config({"run_dir": "x", "source": {"uri": "y"}}, where="test").model_dump()
    page = script.PAGE.read_text()
    names = [name if not isinstance(value, dict) else f"{name}.{key}" for name, value in config.items()
             for key in (value if isinstance(value, dict) else [""])]  # fmt: skip
    assert len(names) > 40
    assert [name for name in names if not name.endswith(".kind") and f"| `{name}` |" not in page] == []


@pytest.mark.parametrize("page", [SCRIPT.parents[1] / "README.md", *sorted((SCRIPT.parents[1] / "docs").glob("*.md"))])
def test_settings_that_other_pages_name_are_on_it(script, page):
    known = set(re.findall(r"^\| `([^`]+)` \|", script.PAGE.read_text(), re.MULTILINE))
    sections = {name.split(".")[0] for name in known if "." in name}
    named = set(re.findall(rf"(?<![\w./])((?:{'|'.join(sections)})\.[a-z_]+)", page.read_text()))
    kinds = {"source.kind", "encoder.kind", "encoders.kind", "vocabulary.kind", "naming.kind"}
    assert named - known - kinds == set()


def test_since_when_there_is_a_setting_stays_and_a_new_one_has_the_version_of_now(script):
    page = script.document("")
    assert {line.split("|")[-2].strip() for line in page.splitlines() if line.startswith("| `")} == {__version__}
    old = page.replace(f"same machine. | {__version__} |", "same machine. | 0.0.7 |")
    assert old != page
    assert script.document(old) == old


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "whole number"),
        (float | None, "number or null"),
        (bool, "true, false"),
        (tuple[str, ...], "list of text"),
        (int | tuple[int, int], "whole number or [whole number, whole number]"),
        (Annotated[Literal["a", "b"] | None, "x"], "`a`, `b` or null"),
    ],
)
def test_types_in_words(script, annotation, words):
    assert script.type_name(annotation) == words


def test_a_setting_without_a_description_is_an_error(script, monkeypatch):
    class Bare(Settings):
        lonely: int = Field(1, ge=1)

    class WithBare(PipelineConfig):
        bare: Bare = Bare()
        """A section."""

    monkeypatch.setattr(script, "PipelineConfig", WithBare)
    with pytest.raises(ValueError, match=r"bare\.lonely has no description"):
        script.document("")
