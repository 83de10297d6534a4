"""docs/TROUBLESHOOTING.md quotes messages: each must be one that the code can print."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "TROUBLESHOOTING.md"


def quoted_messages() -> list[str]:
    """What stands in code quotes in the first column of the tables."""
    first_cells = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return [quote for cell in first_cells for quote in re.findall(r"`([^`]+)`", cell)]


@pytest.fixture(scope="module")
def messages() -> list[str]:
    """Every text of the sources, with {} for what is filled in."""
    texts = []
    for path in [*ROOT.glob("dxmc_core/**/*.py"), *ROOT.glob("ray_jobs/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_there_are_quotes():
    assert len(quoted_messages()) > 20


@pytest.mark.parametrize("quote", quoted_messages())
def test_the_code_can_say_it(messages, quote):
    pieces = [re.escape(piece) for piece in re.split(r" ?\.\.\. ?", quote)]
    pattern = re.compile(".*".join(piece.replace("_manifest\\.json", r"(?:_manifest\.json|\{\})") for piece in pieces))
    assert any(pattern.search(text) for text in messages), f"{PAGE.name} quotes {quote!r}, which no message has"
