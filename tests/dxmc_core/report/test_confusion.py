"""The confusion picture: what is right lies on the diagonal, and labels stay text."""

import xml.etree.ElementTree as ET

from dxmc_core.report.confusion import draw_confusion

SVG = "{http://www.w3.org/2000/svg}"


def row(label, matched, **counts):
    clusters = [{"cluster_id": int(key[1:]), "name": f"name {key}", "images": count} for key, count in counts.items()]
    return {
        "label": label,
        "images": sum(counts.values()),
        "matched_cluster": matched,
        "matched_name": None if matched is None else f"name c{matched}",
        "clusters": clusters,
    }


def cells(svg):
    root = ET.fromstring(svg)
    return {
        cell.find(f"{SVG}title").text: (float(cell.get("x")), float(cell.get("y")), float(cell.get("fill-opacity")))
        for cell in root.iter(f"{SVG}rect")
        if cell.get("class") == "cell"
    }


def test_matched_clusters_lie_on_the_diagonal():
    drawn = cells(draw_confusion([row("cat", 7, c7=3, c2=1), row("dog", 2, c2=4), row("emu", None, c7=2)]))
    assert len(drawn) == 4
    x, y, share = drawn["cat in name c7: 3, 75\u202f%"]
    assert x == y == 0
    assert share == 0.75
    x, y, share = drawn["dog in name c2: 4, 100\u202f%"]
    assert x == y > 0
    assert share == 1
    x, y, _ = drawn["emu in name c7: 2, 100\u202f%"]
    assert (x, y > 0) == (0, True)


def test_names_are_written_where_they_can_be_read():
    few = ET.fromstring(draw_confusion([row("cat", 0, c0=1)]))
    assert "cat" in [text.text for text in few.iter(f"{SVG}text")]
    many = ET.fromstring(draw_confusion([row(f"class {at}", at, **{f"c{at}": 1}) for at in range(200)]))
    assert not list(many.iter(f"{SVG}text"))
    assert float(many.get("width")) < 1000


def test_labels_stay_text():
    evil = "</title><script>alert(1)</script>\x01&"
    svg = draw_confusion([row(evil, 0, c0=1)])
    assert "<script" not in svg
    title = next(ET.fromstring(svg).iter(f"{SVG}title")).text
    assert title.startswith("</title><script>alert(1)</script>\ufffd& in name c0")
