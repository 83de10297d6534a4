"""Whatever stands in a configuration: it is one, or one line says why it is none."""

import json
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dxmc_core.config import PipelineConfig, load_config, parse_config
from dxmc_core.errors import InputError

_GOOD = {"run_dir": "runs/x", "source": {"uri": "photos"}, "encoder": {"kind": "offline"}, "num_clusters": 3}
_KEYS = st.sampled_from([*PipelineConfig.model_fields, "kind", "uri", "name", "num_workers", "model", "", "é"])
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates()
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3), max_leaves=8
)


def assert_one_line_or_a_configuration(load) -> None:
    try:
        result = load()
    except InputError as error:
        result = str(error)
    assert isinstance(result, PipelineConfig) or (result.strip() and "\n" not in result)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(_KEYS, _VALUES, max_size=4))
def test_values(changes):
    assert_one_line_or_a_configuration(lambda: parse_config({**_GOOD, **changes}, where="here"))


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_files(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_bytes(content)
        assert_one_line_or_a_configuration(lambda: load_config(str(path)))


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=40) | st.builds("{}={}".format, _KEYS, st.text(max_size=30)))
def test_overrides(override):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_text(yaml.safe_dump(_GOOD))
        assert_one_line_or_a_configuration(lambda: load_config(str(path), [override]))


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch HERE']",
        "a: &a [x, x]\nb: &b [*a, *a]\nsource: {uri: *b}",
        "run_dir: {{7*7}}",
        "? [a]\n: b",
        "- list",
        "",
        "\ufeffrun_dir: x",
        "a: b: c",
        "[" * 3000,
        "num_clusters: 2001-02-45",
    ],
)
def test_classics(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert_one_line_or_a_configuration(lambda: load_config(str(path)))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run.yaml"]


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(sorted(_GOOD)), _VALUES)
def test_what_is_a_configuration_is_one_again(key, value):
    try:
        config = parse_config({**_GOOD, key: value}, where="here")
    except InputError:
        return
    stored = json.loads(json.dumps(config.model_dump(mode="json")))
    assert parse_config(stored, where="there") == config


@pytest.mark.parametrize(
    "address",
    [
        "https://me:hunter2@example.com/photos",
        "s3://KEY:hunter2@bucket/photos",
        "https://bucket.example.com/list.csv?X-Amz-Date=1&X-Amz-Signature=hunter2",
        "https://account.example.net/photos?sv=1&sig=hunter2",
    ],
)
@pytest.mark.parametrize("section", ["source", "vocabulary"])
def test_addresses_with_secrets_are_refused_and_not_repeated(address, section):
    with pytest.raises(InputError, match=f"{section}.uri holds a password or a signature") as error_info:
        parse_config({**_GOOD, section: {"kind": "file", "uri": address}}, where="here")
    assert "hunter2" not in str(error_info.value)
