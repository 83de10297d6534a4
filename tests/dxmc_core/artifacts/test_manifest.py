"""Manifests say what was written into them; fingerprints change with what they are of, and with nothing else."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dxmc_core.artifacts.manifest import Manifest, Part, fingerprint_of, parse_manifest
from dxmc_core.errors import ArtifactError

NAMES = st.text(min_size=1, max_size=12)
#: What JSON holds; a float that is a whole number would come back as another type in other languages, not here.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
SETTINGS = st.dictionaries(NAMES, VALUES, min_size=1, max_size=4)
PARTS = st.builds(Part, name=NAMES, rows=st.integers(0), bytes=st.integers(0), sha256=st.text("0123456789abcdef"))
MANIFESTS = st.builds(
    Manifest,
    stage=st.just("train_heads"),
    fingerprint=NAMES,
    inputs=st.dictionaries(NAMES, NAMES, max_size=3),
    tables=st.dictionaries(NAMES, st.lists(PARTS, max_size=3), max_size=3),
    files=st.dictionaries(NAMES, PARTS, max_size=3),
    metrics=st.dictionaries(NAMES, VALUES, max_size=3),
    finished_at=NAMES,
    seconds=st.floats(0, 1e9),
    dxmc_version=NAMES,
)


@given(MANIFESTS)
def test_what_is_written_is_read(manifest):
    assert parse_manifest(manifest.to_json(), where="here", stage="train_heads") == manifest


@given(MANIFESTS, st.data())
def test_any_change_of_what_it_says_is_seen(manifest, data):
    found = json.loads(manifest.to_json())
    key = data.draw(st.sampled_from(sorted(found)))
    found[key] = data.draw(VALUES.filter(lambda value: json.dumps(value) != json.dumps(found[key])))
    with pytest.raises(ArtifactError, match=r"^here "):
        parse_manifest(json.dumps(found).encode(), where="here", stage="train_heads")


@given(MANIFESTS)
def test_rows_of_a_table_are_those_of_its_parts(manifest):
    for table, parts in manifest.tables.items():
        assert manifest.rows(table) == sum(part.rows for part in parts)
    assert manifest.rows("no such table") == 0


def reordered(value):
    """The same value with the keys of every dictionary the other way round."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(NAMES, SETTINGS, st.dictionaries(NAMES, NAMES, max_size=3))
def test_fingerprint_is_of_the_content_and_not_of_its_order(stage, settings, inputs):
    fingerprint = fingerprint_of(stage, settings, inputs)
    assert fingerprint_of(stage, reordered(settings), reordered(inputs)) == fingerprint
    assert fingerprint_of(stage, copy.deepcopy(settings), dict(inputs)) == fingerprint


@given(NAMES, SETTINGS, st.dictionaries(NAMES, NAMES, min_size=1, max_size=3), st.data())
def test_fingerprint_changes_with_the_stage_any_setting_and_any_input(stage, settings, inputs, data):
    key = data.draw(st.sampled_from(sorted(settings)))
    value = data.draw(VALUES.filter(lambda value: json.dumps(value) != json.dumps(settings[key])))
    input_ = data.draw(st.sampled_from(sorted(inputs)))
    without = {name: value for name, value in settings.items() if name != key}
    fingerprints = [
        fingerprint_of(stage, settings, inputs),
        fingerprint_of(f"{stage}x", settings, inputs),
        fingerprint_of(stage, {**settings, key: value}, inputs),
        fingerprint_of(stage, without, inputs),
        fingerprint_of(stage, settings, {**inputs, input_: f"{inputs[input_]}x"}),
        fingerprint_of(stage, settings, {name: value for name, value in inputs.items() if name != input_}),
    ]
    assert len(set(fingerprints)) == len(fingerprints)
