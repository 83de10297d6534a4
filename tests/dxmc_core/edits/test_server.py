"""`dxmc review` by real requests on the loopback interface: what it takes, and what it refuses without a trace."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.edits.file import append_edits, read_edits
from dxmc_core.edits.server import HOST, MAX_BODY_BYTES, ReviewServer
from dxmc_core.errors import ArtifactError, InputError

FINGERPRINT = "d" * 32
PAGE = "<!doctype html><meta content=\"default-src 'none'; img-src data:\"><body><p>report</p></body>"
RENAME = {
    "id": "0123abcd",
    "author": "ann",
    "at": "2026-11-30T12:00:00Z",
    "rename": {"cluster": {"id": 0, "images": ["red/0.png"]}, "name": "</script><b>roses"},
}


@pytest.fixture
def run_dir(tmp_path) -> RunDir:
    run_dir = RunDir.at(str(tmp_path / "run"))
    stage = run_dir.stage("write_report")
    stage.begin(FINGERPRINT)
    names = ("index.html", "members/a/cluster-0.html")
    files = {name: stage.write_file(name, PAGE.encode()) for name in names}
    stage.publish(fingerprint=FINGERPRINT, inputs={}, tables={}, files=files, seconds=0.1)
    run_dir.write_record({"config": {}})
    return run_dir


def add(found, run_dir, edits):
    return append_edits(found, edits)


@pytest.fixture
def server(run_dir) -> Iterator[ReviewServer]:
    applied: list[int] = []
    with ReviewServer(run_dir.uri, author='ann "b"', add=add, apply=lambda: applied.append(1)) as server:
        server.applied = applied
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server, method="GET", path="", *, body=None, token=None, **headers) -> tuple[int, bytes, dict]:
    """One request from a thread, while this one, which alone may hold a lock, does what it leads to."""
    answers: list[tuple[int, bytes, dict]] = []

    def request() -> None:
        connection = http.client.HTTPConnection(HOST, server.port, timeout=20)
        connection.putrequest(
            method, f"/{server.token if token is None else token}/{path}", skip_host="Host" in headers
        )
        for name, value in headers.items():
            if value is not None:
                connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        answer = connection.getresponse()
        answers.append((answer.status, answer.read(), dict(answer.getheaders())))
        connection.close()

    thread = threading.Thread(target=request)
    thread.start()
    while thread.is_alive():
        server.work(timeout_s=0.02)
    return answers[0]


def post(server, path, content, **headers) -> tuple[int, dict]:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    given = {
        "Origin": f"http://{HOST}:{server.port}",
        "Content_Type": "application/json",
        "Content_Length": str(len(body)),
        **headers,
    }
    status, answer, _ = ask(server, "POST", path, body=body, **given)
    return status, json.loads(answer)


def edits_of(run_dir) -> list[dict]:
    return [edit.model_dump() for edit in read_edits(run_dir).edits]


def test_the_page_is_served_and_may_answer_to_its_server_alone(server):
    status, page, headers = ask(server)
    assert status == 200
    assert b"connect-src 'self'" in page
    assert b'<body data-review="yes" data-author="ann &#34;b&#34;">' in page
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert ask(server, path="members/a/cluster-0.html")[:2] == (200, PAGE.encode())


@pytest.mark.parametrize("path", ["_manifest.json", "../run.json", "members", "%2e%2e/run.json", "x"])
def test_nothing_but_the_report_is_served(server, path):
    assert ask(server, path=path)[0] == 404


def test_edits_are_written_undone_and_applied(server, run_dir):
    assert post(server, "edits", {"version": 1, "edits": [RENAME]}) == (200, {})
    assert edits_of(run_dir) == [RENAME]
    assert post(server, "apply", {}) == (200, {})
    assert server.applied == [1]
    assert post(server, "undo", {"id": RENAME["id"]}) == (200, {})
    assert edits_of(run_dir) == []


def test_a_request_without_the_token_is_refused(server, run_dir):
    for token in ("", "x" * len(server.token), server.token + "a", server.token[:-1]):
        assert ask(server, token=token)[0] == 403
        headers = {"Origin": f"http://{HOST}:{server.port}", "Content_Type": "application/json", "Content_Length": "2"}
        assert ask(server, "POST", "apply", token=token, body=b"{}", **headers)[0] == 403
    assert server.applied == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": None},
        {"Host": "evil.example"},
        {"Host": "evil.example:80", "Origin": "http://evil.example:80"},
    ],
)
def test_another_page_or_host_is_refused(server, run_dir, headers):
    status, answer = post(server, "edits", {"version": 1, "edits": [RENAME]}, **headers)
    assert status == 403
    assert answer["error"]
    assert edits_of(run_dir) == []


def test_a_form_of_another_page_cannot_post(server, run_dir):
    content = {"version": 1, "edits": [RENAME]}
    assert post(server, "edits", content, Content_Type="text/plain")[0] == 415
    assert edits_of(run_dir) == []


@pytest.mark.parametrize(
    ("length", "status"),
    [(str(MAX_BODY_BYTES + 1), 413), ("9" * 500, 413), ("-1", 411), ("2e3", 411), (None, 411), ("٣", 411)],
)
def test_a_body_without_bounds_is_refused_unread(server, run_dir, length, status):
    headers = {} if length is None else {"Content_Length": length.encode("utf-8").decode("latin-1")}
    found, _ = post(server, "edits", b"{}", **({"Content_Length": None} if length is None else headers))
    assert found == status
    assert edits_of(run_dir) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"{}",
        b"PAR1",
        b"!!python/object/apply:os.system [x]",
        {"version": 1, "edits": [{**RENAME, "id": "../../x"}]},
        {"version": 1, "edits": [{**RENAME, "rename": {"cluster": {"id": -1}, "name": "a"}}]},
        {"version": 1, "edits": [{**RENAME, "rename": {"cluster": {"id": 1}, "name": "a\nb"}}]},
        {"version": 1, "edits": [{**RENAME, "delete": {"cluster": {"id": 1}}}]},
        {"version": 1, "edits": [RENAME, RENAME]},
        {"version": 1, "edits": "all"},
    ],
)
def test_what_is_no_edit_changes_nothing_and_says_why(server, run_dir, content):
    status, answer = post(server, "edits", content)
    assert status in (400, 409)
    assert answer["error"]
    assert edits_of(run_dir) == []


@pytest.mark.parametrize("content", [b"{}", b'{"id": 3}', b"{", {"id": "ffffffff"}])
def test_an_undo_of_nothing_says_so(server, content):
    status, answer = post(server, "undo", content)
    assert status in (400, 409)
    assert answer["error"]


def test_edits_wait_for_nobody_who_holds_the_lock(server, run_dir):
    with run_dir.locked():
        status, answer = post(server, "edits", {"version": 1, "edits": [RENAME]})
    assert status == 409
    assert "in use by another run" in answer["error"]
    assert edits_of(run_dir) == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD"])
def test_other_methods_are_not_known(server, method):
    assert ask(server, method)[0] == 501


def test_a_place_without_a_report_is_refused_at_once(tmp_path):
    with pytest.raises(ArtifactError):
        ReviewServer(str(tmp_path), author="ann", add=add, apply=lambda: None)


def test_a_connection_that_says_nothing_is_in_nobodys_way(server):
    with socket.create_connection((HOST, server.port)):
        assert ask(server)[0] == 200


def test_what_goes_wrong_inside_is_told_and_the_next_request_is_answered(server):
    def fail() -> None:
        raise InputError("the run is not finished")

    server.apply = fail
    assert post(server, "apply", {}) == (409, {"error": "the run is not finished"})
    assert ask(server)[0] == 200
