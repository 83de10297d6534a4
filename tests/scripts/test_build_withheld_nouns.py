"""The list that the package ships is what its script makes of the tables beside it."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "build_withheld_nouns.py"


def test_the_list_is_what_the_script_writes():
    spec = importlib.util.spec_from_file_location("build_withheld_nouns", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    lines = (script.VOCABULARY_DIR / "withheld_nouns.tsv").read_text().splitlines()
    assert [tuple(line.split("\t")) for line in lines] == script.withheld_rows()
