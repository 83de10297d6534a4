"""The audit of installed packages names whatever is not declared or not pinned."""

import importlib.util
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

SCRIPT = Path(__file__).parents[2] / "scripts" / "audit_dependencies.py"
ROOT = Requirement("own[more]")


@pytest.fixture
def audit(monkeypatch):
    specification = importlib.util.spec_from_file_location("audit_dependencies", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "audit_dependencies", module)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def installed(audit):
    return [
        audit.Package("own", "0.1", ("a[x]>=1", 'b; extra == "more"', 'never; extra == "other"'), "file:///here"),
        audit.Package("a", "1.0", ('c; extra == "x"', 'd; sys_platform == "none"')),
        audit.Package("b", "2.0"),
        audit.Package("c", "3.0"),
        audit.Package("pip", "99.0"),
    ]


PINS = {"a": "1.0", "b": "2.0", "c": "3.0"}


def test_what_is_declared_and_pinned_is_in_order(audit, installed):
    assert audit.problems(PINS, installed, ROOT) == []


@pytest.mark.parametrize(
    ("pins", "package", "problem"),
    [
        ({"b": "2.1"}, None, "b 2.0 is installed, constraints.txt pins 2.1"),
        ({"d": "1.0"}, None, "d is pinned and not installed"),
        ({"stray": "1.0"}, ("stray", "1.0"), "stray 1.0 is installed, and nothing that is declared needs it"),
        ({}, ("c", "3.1"), "c is installed twice: 3.0 and 3.1"),
    ],
)
def test_problems_are_named(audit, installed, pins, package, problem):
    others = [audit.Package(*package)] if package else []
    assert audit.problems(PINS | pins, [*installed, *others], ROOT) == [problem]


def test_what_is_needed_and_not_pinned_not_there_not_final_or_not_from_an_index(audit, installed):
    own, *others = installed
    assert audit.problems({"a": "1.0", "b": "2.0"}, installed, ROOT) == [
        "c 3.0 is installed and not pinned in constraints.txt"
    ]
    assert audit.problems(PINS, [own, others[0], others[2]], ROOT) == ["b is needed and not installed"]
    beta = [own, *others[:2], audit.Package("c", "3.0rc1", (), "https://example.com/c.whl")]
    assert audit.problems(PINS | {"c": "3.0rc1"}, beta, ROOT) == [
        "c 3.0rc1 is a pre-release",
        "c 3.0rc1 comes from https://example.com/c.whl and not from an index",
    ]


def test_pins_are_name_and_version(audit, tmp_path):
    path = tmp_path / "constraints.txt"
    path.write_text("Some_Package==1.0\nother>=2\n")
    with pytest.raises(ValueError, match="expected name==version, found 'other>=2'"):
        audit.read_pins(path)
    path.write_text("Some_Package==1.0\n")
    assert audit.read_pins(path) == {"some-package": "1.0"}
