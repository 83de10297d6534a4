"""JSON inside HTML."""

import json
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dxmc_core.report import Question
from dxmc_core.report.payload import build_payload, embed_json
from dxmc_core.report.thumbnails import Sprites, SpriteSheet, Tile

ROOT = Path(__file__).parents[3]
TSC = ROOT / "scripts/typescript/node_modules/typescript/bin/tsc"
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    "a & b &lt;",
    "]]>",
    "\u2028\u2029",
    "🐈 \x00 \\ \" '",
]


class ScriptTexts(HTMLParser):
    """The text of each script element, as a browser's parser would cut it."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_inside_and_comes_back(text):
    parser = ScriptTexts()
    parser.feed(f'<script type="application/json">{embed_json({text: [text]})}</script>')
    parser.close()
    assert parser.tags == ["script"]
    assert json.loads("".join(parser.texts)) == {text: [text]}


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=4)))
def test_embedded_json_is_equal_and_has_no_markup(value):
    text = str(embed_json(value))
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


def test_numbers_that_are_not_json_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        embed_json([float("nan")])


def test_payload_names_images_and_clusters_by_place(make_report_data):
    data = make_report_data(pictures=False)
    clusters = data.clusters[::-1]
    sprites = Sprites((), {5: Tile(0, 2, 4, 30, 20)})
    payload = build_payload(data, clusters, [3, 2, 1, 0], sprites)
    assert [cluster["id"] for cluster in payload["clusters"]] == [3, 2, 1, 0]
    image_ids = [image[0] for image in payload["images"]]
    assert [image_ids[index] for index in payload["clusters"][3]["exemplars"][:2]] == ["cat/00000.jpg", "cat/00001.jpg"]
    fifth = payload["images"][image_ids.index("cat/00005.jpg")]
    assert fifth == ["cat/00005.jpg", "/photos/00005.jpg", 3, 0.9, 2, 0.1, None, [0, 2, 4, 30, 20]]
    assert image_ids[payload["map"]["images"][7]] == "cat/00007.jpg"
    assert min(payload["map"]["x"]) >= 0
    json.loads(str(embed_json(payload)))


def test_map_y_points_down_on_the_page(make_report_data):
    data = make_report_data(pictures=False)
    payload = build_payload(data, data.clusters, [0, 1, 2, 3], Sprites((), {}))
    highest = int(data.map_points.xy[:, 1].argmax())
    assert payload["map"]["y"][highest] == min(payload["map"]["y"])


@pytest.mark.skipif(not TSC.exists(), reason="needs TypeScript, which make check installs")
def test_payload_is_what_the_scripts_are_checked_for(make_report_data, tmp_path):
    questions = [Question(kind="merge", cluster_id=0, other_id=1, rows=[0], other_rows=[20], probability=0.9)]
    questions.append(Question(kind="rename", cluster_id=3, rows=[60], image_ids=["rocket/00060.jpg"], name="spaceship"))
    data = make_report_data(pictures=False, questions=questions)
    data = replace(data, clusters=[replace(data.clusters[0], near_duplicates=[(0, 1)]), *data.clusters[1:]])
    sprites = Sprites([SpriteSheet("data:,", 64, 48)], {5: Tile(0, 2, 4, 30, 20)})
    payload = build_payload(data, data.clusters, [0, 1, 2, 3], sprites)
    script = tmp_path / "payload.ts"
    script.write_text(f"const payload: Payload = {json.dumps(payload)};")
    node, types = Path(sys.executable).with_name("node"), ROOT / "dxmc_core/report/templates/payload.d.ts"
    command = [node, TSC, "--noEmit", "--strict", types, script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""
