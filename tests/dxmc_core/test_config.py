"""The configuration: defaults, overrides, and what a person reads when a key is wrong."""

from pathlib import Path

import pytest

from dxmc_core.config import load_config, parse_config
from dxmc_core.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs"
MINIMAL = {"run_dir": "runs/x", "source": {"uri": "photos"}}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configurations_are_valid(path):
    assert load_config(str(path)).run_dir


def test_kinds_have_defaults():
    config = parse_config(MINIMAL, where="test")
    assert (config.source.kind, config.encoder.kind, config.vocabulary.kind) == ("images", "open_clip", "wordnet")


def test_overrides_are_yaml_values_in_their_order(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("run_dir: a\nsource: {uri: photos}\n")
    config = load_config(
        str(path), ["num_clusters=7", "method.name=kmeans", "method.num_restarts=3", "num_clusters=8"], run_dir="b"
    )
    assert (config.num_clusters, config.method.name, config.method.settings) == (8, "kmeans", {"num_restarts": 3})
    assert config.run_dir == "b"


@pytest.mark.parametrize(
    ("section", "overrides", "kept", "said"),
    [
        (
            "encoder: {kind: open_clip, model: ViT-B-32, pretrained: openai, compile: false}",
            ["encoder.kind=offline"],
            {"kind": "offline"},
            "encoder.kind is offline now, which has no model, pretrained, compile: left out",
        ),
        ("encoder: {model: ViT-B-32}", ["encoder.kind=offline"], {"kind": "offline"}, "has no model: left out"),
        (
            "encoder: {kind: offline}",
            ["encoder.model=ViT-B-32", "encoder.kind=open_clip"],
            {"kind": "open_clip", "model": "ViT-B-32"},
            None,
        ),
        ("encoder: {model: ViT-B-32}", ["encoder={kind: offline}"], {"kind": "offline"}, None),
        (
            "vocabulary: {kind: file, uri: nouns.csv, column: name}",
            ["vocabulary.kind=embeddings", "vocabulary.uri=nouns.npz"],
            {"kind": "embeddings", "uri": "nouns.npz"},
            "vocabulary.kind is embeddings now, which has no column: left out",
        ),
        ("vocabulary: {subset: frequent}", ["vocabulary={kind: file, uri: x}"], {"kind": "file", "uri": "x"}, None),
        (
            "method: {name: dxmc, num_epochs: 3, temperature: 0.5}",
            ["method.name=kmeans", "method.num_restarts=3"],
            {"name": "kmeans", "temperature": 0.5, "num_restarts": 3},
            "method.name is kmeans now, which has no num_epochs: left out",
        ),
        ("method:", ["method.name=kmeans"], {"name": "kmeans"}, None),
    ],
)
def test_another_kind_leaves_the_keys_of_the_one_before_out(tmp_path, caplog, section, overrides, kept, said):
    path = tmp_path / "c.yaml"
    path.write_text(f"run_dir: a\nsource: {{uri: photos}}\n{section}\n")
    with caplog.at_level("INFO"):
        config = load_config(str(path), overrides).model_dump(exclude_unset=True)
    assert config[section.partition(":")[0]] == kept
    assert said in caplog.text if said else not caplog.text


def test_another_kind_of_source_keeps_what_both_have(tmp_path, caplog):
    path = tmp_path / "c.yaml"
    path.write_text("run_dir: a\nsource: {uri: x, fast_jpeg: true, exclude: [thumbs], label_from: cls}\n")
    source = {"kind": "webdataset", "uri": "x", "fast_jpeg": True, "exclude": ("thumbs",), "label_from": "cls"}
    with caplog.at_level("INFO"):
        assert load_config(str(path), ["source.kind=webdataset"]).source.model_dump(exclude_unset=True) == source
        assert not caplog.text
        load_config(str(path), ["source.kind=embeddings"])
    assert "source.kind is embeddings now, which has no fast_jpeg: left out" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder.kind=offlin"], "encoder.kind: unknown kind 'offlin'; expected one of open_clip, timm, offline"),
        (["encoder.kind=offline", "encoder.model=x"], "unknown key 'encoder.model'; valid keys: kind"),
        (["encoder.modell=x", "encoder.kind=offline"], "unknown key 'encoder.modell'; valid keys: kind"),
        (["method.name=keans"], "unknown method 'keans'"),
    ],
)
def test_what_another_kind_does_not_excuse(tmp_path, overrides, message):
    path = tmp_path / "c.yaml"
    path.write_text("run_dir: a\nsource: {uri: photos}\nencoder: {model: ViT-B-32}\nmethod: {name: dxmc}\n")
    with pytest.raises(InputError) as caught:
        load_config(str(path), overrides)
    assert message in str(caught.value)


def test_the_number_of_clusters_may_be_left_to_suggest_k(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("run_dir: a\nsource: {uri: photos}\n")
    config = load_config(str(path), ["num_clusters=auto"])
    assert config.num_clusters == "auto"
    assert parse_config(config.model_dump(mode="json"), where="again") == config


@pytest.mark.parametrize("workers", [1, 3, [2, 8], "auto"])
def test_training_takes_a_number_of_workers_or_a_range_or_auto(workers):
    config = parse_config({**MINIMAL, "resources": {"train_workers": workers}}, where="test")
    assert parse_config(config.model_dump(mode="json"), where="again") == config
    found = config.resources.train_workers
    assert found == (tuple(workers) if isinstance(workers, list) else workers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_cluster": 3}, "unknown key 'num_cluster'; did you mean 'num_clusters'?"),
        ({"source": {"uri": "x", "labels_from": "y"}}, "unknown key 'source.labels_from'; did you mean 'label_from'?"),
        ({"encoder": {"modell": "x"}}, "unknown key 'encoder.modell'; did you mean 'model'?"),
        ({"resources": {"zzz": 1}}, "unknown key 'resources.zzz'; valid keys: decode_workers"),
        ({"method": {"name": "dxcm"}}, "unknown method 'dxcm'; expected one of"),
        ({"method": {"name": "kmeans", "num_restart": 3}}, "has no setting num_restart"),
        ({"method": {"name": "dxmc", "num_epochs": "many"}}, "num_epochs = 'many'"),
        ({"num_clusters": 1}, "num_clusters: expected a whole number of at least 2, or auto, found 1"),
        ({"num_clusters": "many"}, "num_clusters: expected a whole number of at least 2, or auto, found 'many'"),
        ({"num_clusters": 2.5}, "expected a whole number of at least 2, or auto, found 2.5"),
        ({"suggest_k": {"max_images": 5}}, "suggest_k.max_images: input should be greater than or equal to 20"),
        ({"source": {}}, "'source.uri' is missing"),
        ({"source": {"kind": "video", "uri": "x"}}, "source.kind: unknown kind 'video'; expected one of images,"),
        ({"seed": -1}, "seed: input should be"),
        (
            {"resources": {"train_workers": [4, 2]}},
            "train_workers: expected a whole number of at least 1, a range",
        ),
        ({"resources": {"train_workers": 0}}, "a range such as [2, 8], or auto, found 0"),
    ],
)
def test_wrong_keys_are_named_with_the_nearest_valid_one(change, message):
    with pytest.raises(InputError) as caught:
        parse_config({**MINIMAL, **change}, where="c.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("c.yaml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "is not YAML"),
        ("- 1", "holds list"),
        ("", "holds nothing"),
        ("!!python/object/apply:os.system [ls]", "YAML"),
    ],
)
def test_unusable_files(tmp_path, content, message):
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        load_config(str(path))


@pytest.mark.parametrize("override", ["num_clusters", "=3", "seed.x=1"])
def test_unusable_overrides(tmp_path, override):
    path = tmp_path / "c.yaml"
    path.write_text("run_dir: a\nseed: 1\nsource: {uri: photos}\n")
    with pytest.raises(InputError, match="--set"):
        load_config(str(path), [override])


def test_a_vocabulary_may_be_left_out():
    config = parse_config({**MINIMAL, "vocabulary": None}, where="x")
    assert config.vocabulary is None
    assert config.method.settings == {"use_text": False}
    assert config.needs_encoder is True
    embeddings = {"source": {"kind": "embeddings", "uri": "x.npz"}, "vocabulary": None}
    assert parse_config({**MINIMAL, **embeddings}, where="x").needs_encoder is False
    assert parse_config({**MINIMAL, "vocabulary": None, "method": {"name": "kmeans"}}, where="x").method.settings == {}
    for method in ({"name": "tac"}, {"name": "best", "use_text": True}):
        with pytest.raises(InputError, match=r"^x: vocabulary is null, and method \w+ with these settings reads text"):
            parse_config({**MINIMAL, "vocabulary": None, "method": method}, where="x")


def test_without_a_vocabulary_there_is_no_index_of_the_text():
    with pytest.raises(InputError, match=r"^x: vocabulary is null, and mine_neighbors\.text_search_index"):
        parse_config({**MINIMAL, "vocabulary": None, "mine_neighbors": {"text_search_index": True}}, where="x")


DINO = {"kind": "timm", "model": "vit_base_patch14_dinov2.lvd142m"}


def test_the_first_of_several_encoders_is_the_encoder(tmp_path):
    config = parse_config({**MINIMAL, "encoders": [{"model": "ViT-B-32"}, {**DINO, "name": "dinov2"}]}, where="x")
    assert (config.encoder.kind, config.encoder.model) == ("open_clip", "ViT-B-32")
    assert list(config.encoder_of_table) == ["images", "images-dinov2"]
    # As it is written into a run directory, and read from there.
    again = parse_config(config.model_dump(mode="json"), where="x")
    assert again == config
    alone = parse_config({**MINIMAL, "encoder": {"model": "ViT-B-32"}}, where="x")
    assert alone.further_encoders == {}
    assert parse_config({**MINIMAL, "encoders": [{"model": "ViT-B-32"}]}, where="x").encoder == alone.encoder


def test_encoders_are_called_by_kind_and_model():
    further = [DINO, {"kind": "offline"}, {"model": "ViT-B/16"}]
    config = parse_config({**MINIMAL, "encoders": [{}, *further]}, where="x")
    assert list(config.further_encoders) == [
        "images-timm-vit_base_patch14_dinov2.lvd142m",
        "images-offline",
        "images-open_clip-vit-b-16",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoders": [{}, DINO, DINO]}, "two are called 'timm-vit_base_patch14_dinov2.lvd142m'; give each a name"),
        ({"encoders": [{}, DINO], "encoder": {"kind": "offline"}}, "encoder and encoders are both given"),
        ({"encoders": [{}, {**DINO, "name": "a/b"}]}, r"encoders\.name: "),
        ({"encoders": [{}, {**DINO, "modle": "x"}]}, r"unknown key 'encoders\.modle'; did you mean 'model'\?"),
        ({"encoders": [{"modle": "x"}, DINO]}, r"x: unknown key 'encoders\.modle'; did you mean 'model'\?$"),
        ({"encoders": [{"kind": "embeddings", "uri": "x.npz"}, {}]}, "encoder.kind: unknown kind 'embeddings'"),
        ({"encoders": [DINO, {}]}, "encoder of kind timm reads no text"),
        ({"encoder": DINO}, "encoder of kind timm reads no text, .* set vocabulary to null"),
        ({"encoder": {"kind": "timm"}}, r"'encoder\.model' is missing"),
        (
            {"encoders": [{}, DINO], "source": {"kind": "embeddings", "uri": "x.npz"}},
            r"the source holds embeddings and no images for further encoders to see; give theirs as \{kind: embeddings",
        ),
    ],
)
def test_unusable_encoders(change, message):
    with pytest.raises(InputError, match=message):
        parse_config({**MINIMAL, **change}, where="x")


def test_an_encoder_without_text_does_without_a_vocabulary():
    assert parse_config({**MINIMAL, "encoder": DINO, "vocabulary": None}, where="x").encoder.kind == "timm"
