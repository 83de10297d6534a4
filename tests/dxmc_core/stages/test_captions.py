"""Captions from a language model, against a server on the loopback interface that answers as it is told."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from dxmc_core.artifacts.storage import Storage
from dxmc_core.artifacts.tables import CLUSTERS
from dxmc_core.stages.captions import (
    CAPTIONS_NAME,
    answer_bytes,
    caption_clusters,
    exemplar_rows,
    known_answers,
    with_captions,
)
from dxmc_core.stages.settings.naming import LlmNaming

KEY = "sk-very-secret"


class Model:
    """An OpenAI-compatible server: what it was asked, and what it answers."""

    def __init__(self, answer: Callable[[dict[str, Any]], tuple[int, bytes]]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:
                body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                with lock:
                    self.requests.append({"path": handler.path, **body})
                    self.headers.append(dict(handler.headers))
                    status, data = answer(body)
                handler.send_response(status)
                handler.send_header("Content-Length", str(len(data)))
                if status == 302:
                    handler.send_header("Location", f"{self.url}/elsewhere")
                handler.end_headers()
                handler.wfile.write(data)

            def log_message(handler, *_args: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def completion(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def first_noun(body: dict[str, Any]) -> str:
    content = body["messages"][1]["content"]
    text = content if isinstance(content, str) else content[0]["text"]
    return text.removeprefix("Nouns that fit the group, best first: ").partition(",")[0].partition(".")[0]


@pytest.fixture
def model() -> Iterator[Callable[..., Model]]:
    made: list[Model] = []

    def make(answer: Callable[[dict[str, Any]], tuple[int, bytes]]) -> Model:
        made.append(Model(answer))
        return made[-1]

    yield make
    for server in made:
        server.close()


def clusters(*rows: tuple[int, str, list[str], str]) -> pa.Table:
    found = [
        {
            "cluster_id": cluster_id,
            "size": 10,
            "name": name,
            "names": nouns,
            "name_evidence": [],
            "name_source": source,
            "exemplars": [10 * cluster_id, 10 * cluster_id + 1],
            "border": [],
            "cohesion": 1.0,
            "mean_confidence": 1.0,
            "nearest_clusters": [other for other, *_ in rows if other != cluster_id],
        }
        for cluster_id, name, nouns, source in rows
    ]
    return pa.Table.from_pylist(found, schema=CLUSTERS.schema())


TWO = clusters((0, "dog", ["dog", "puppy"], "noun"), (1, "car", ["car"], "hypernym"))


def ask(table: pa.Table, url: str, *, known: dict[str, str] | None = None, pauses: list[float] | None = None, **kwargs):
    config = LlmNaming(kind="llm", endpoint=url, model="tiny", **{"attempts": 2, **kwargs})
    pictures = {0: b"first", 1: b"second", 10: b"third"}
    return caption_clusters(
        table,
        config,
        thumbnails=pictures,
        known=known or {},
        pause=(pauses if pauses is not None else []).append,
    )


def names_of(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["name"].to_pylist(), table["name_source"].to_pylist(), strict=True))


def test_nouns_alone_are_sent_by_default_and_the_answer_is_the_name(model):
    server = model(lambda body: (200, completion(f' "Happy {first_noun(body)}." ')))
    found = ask(TWO, f"{server.url}/")
    assert found.names == {0: "Happy dog", 1: "Happy car"}
    assert found.problem is None
    assert names_of(with_captions(TWO, found.names)) == [("Happy dog", "caption"), ("Happy car", "caption")]
    assert with_captions(TWO, found.names)["names"].to_pylist() == [["dog", "puppy"], ["car"]]
    request = next(request for request in server.requests if "dog, puppy" in request["messages"][1]["content"])
    assert (request["path"], request["model"]) == ("/v1/chat/completions", "tiny")
    assert "Groups beside it: car." in request["messages"][1]["content"]
    assert all("Authorization" not in headers for headers in server.headers)


def test_thumbnails_are_sent_when_they_are_asked_for(model):
    server = model(lambda _: (200, completion("a thing")))
    ask(TWO, server.url, num_thumbnails=2)
    assert exemplar_rows(TWO, num_thumbnails=2) == [0, 1, 10, 11]
    pictures = sorted(len(request["messages"][1]["content"]) - 1 for request in server.requests)
    assert pictures == [1, 2]  # of the second cluster one exemplar has no picture
    (_, first, *_) = next(
        request["messages"][1]["content"] for request in server.requests if len(request["messages"][1]["content"]) == 3
    )
    assert first == {"type": "image_url", "image_url": {"url": "data:image/webp;base64,Zmlyc3Q="}}


def test_the_key_is_in_one_header_and_nowhere_else(model, monkeypatch, caplog):
    monkeypatch.setenv("CAPTION_KEY", KEY)
    server = model(lambda _: (401, b'{"error": "bad key ' + KEY.encode() + b'"}'))
    found = ask(TWO, server.url, api_key_env="CAPTION_KEY")
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert found.problem == "it answered 401"
    assert len(server.requests) == 2  # a refusal is not tried again
    assert KEY not in repr(found) + caplog.text + json.dumps(server.requests)
    assert with_captions(TWO, found.names).equals(TWO)


def test_a_key_that_is_not_there_asks_nobody(model, monkeypatch):
    monkeypatch.delenv("CAPTION_KEY", raising=False)
    server = model(lambda _: (200, completion("a thing")))
    found = ask(TWO, server.url, api_key_env="CAPTION_KEY")
    assert (found.names, found.problem) == ({}, "the environment variable CAPTION_KEY is not set")
    assert server.requests == []


def test_what_may_pass_is_tried_again_after_growing_pauses(model):
    seen: dict[str, int] = {}

    def answer(body: dict[str, Any]) -> tuple[int, bytes]:
        noun = first_noun(body)
        seen[noun] = seen.get(noun, 0) + 1
        return (200, completion(noun * 2)) if seen[noun] == 3 else ((503, b"busy") if seen[noun] == 1 else (429, b""))

    pauses: list[float] = []
    found = ask(TWO, model(answer).url, attempts=3, pauses=pauses)
    assert found.names == {0: "dogdog", 1: "carcar"}
    assert sorted(pauses) == [0.5, 0.5, 1.0, 1.0]


def test_a_redirect_is_not_followed(model):
    server = model(lambda _: (302, b""))
    found = ask(TWO, server.url)
    assert found.problem == "it answered 302"
    assert {request["path"] for request in server.requests} == {"/v1/chat/completions"}


@pytest.mark.parametrize(
    "data",
    [b"", b"no json", b"[]", b'{"choices": []}', completion(""), completion("x" * 81), completion("two\nlines")],
)
def test_an_answer_that_is_no_name_leaves_the_noun(model, data):
    found = ask(TWO, model(lambda _: (200, data)).url)
    assert found.names == {}
    assert found.problem is not None
    assert found.problem.startswith("its answer is no")


def test_a_server_that_is_gone_is_given_up_after_a_few_clusters(model):
    server = model(lambda _: (200, completion("a thing")))
    server.close()
    pauses: list[float] = []
    many = clusters(*((number, f"noun{number}", [f"noun{number}"], "noun") for number in range(40)))
    found = ask(many, server.url, pauses=pauses)
    assert found.names == {}
    assert found.problem == "URLError"
    assert len(pauses) == 4  # one for each of the first four clusters


def test_answers_are_kept_by_the_content_of_the_question(model, tmp_path):
    server = model(lambda body: (200, completion(f"my {first_noun(body)}")))
    storage = Storage(str(tmp_path))
    storage.write_bytes(CAPTIONS_NAME, answer_bytes(ask(TWO, server.url).answers))
    kept = known_answers(storage)
    assert len(server.requests) == 2
    assert ask(TWO, server.url, known=kept).names == {0: "my dog", 1: "my car"}
    assert len(server.requests) == 2
    changed = clusters((0, "dog", ["dog", "puppy"], "noun"), (1, "car", ["car", "wheel"], "hypernym"))
    found = ask(changed, server.url, known=kept)
    assert len(server.requests) == 3
    assert len(found.answers) == 2  # the answer that no question has any more is gone
    ask(changed, server.url, known=found.answers, num_thumbnails=1)
    assert len(server.requests) == 5


@pytest.mark.parametrize("data", [b"", b"[1]", b'{"a": 3}', b'{"a": "two\\nlines"}', b"\xff"])
def test_kept_answers_that_are_damaged_are_asked_for_anew(data, tmp_path):
    storage = Storage(str(tmp_path))
    assert known_answers(storage) == {}
    storage.write_bytes(CAPTIONS_NAME, data)
    assert known_answers(storage) == {}


def test_what_a_person_named_and_earlier_captions_are_not_asked_about(model):
    server = model(lambda _: (200, completion("a thing")))
    table = clusters((0, "mine", ["dog"], "person"), (1, "a thing", ["car"], "caption"), (2, "cup", ["cup"], "noun"))
    found = ask(table, server.url)
    assert found.names == {2: "a thing"}
    assert names_of(with_captions(table, found.names)) == [
        ("mine", "person"),
        ("a thing", "caption"),
        ("a thing (cup)", "caption"),
    ]


def test_an_address_of_another_kind_is_refused():
    with pytest.raises(ValidationError, match="starts with http"):
        LlmNaming(kind="llm", endpoint="file:///etc/passwd", model="tiny")
