"""What `dxmc review` serves on the loopback interface: the report of a run as a page that takes corrections.

The address holds a random token, so that it is known only where it was printed. Pages of other origins in the same
browser are told apart by Host and Origin. Nothing can be written but edits, checked like those of a file, under the
lock of the run's home.
"""

import hmac
import json
import logging
import secrets
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from queue import Empty, SimpleQueue
from socketserver import TCPServer, ThreadingMixIn
from threading import Thread
from urllib.parse import urlsplit

from dxmc_core.artifacts.generations import home_of, open_run_dir
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.edits.file import EditsFile, parse_edits, read_edits, undo_edit
from dxmc_core.edits.model import Edit
from dxmc_core.errors import DxmcError
from dxmc_core.report.page import for_review

HOST = "127.0.0.1"
#: Of one request.
MAX_BODY_BYTES = 4 * 2**20
#: A connection that says nothing for so long is closed.
_TIMEOUT_S = 10
_PAGE = "index.html"

Add = Callable[[EditsFile, RunDir, Sequence[Edit]], EditsFile]

logger = logging.getLogger(__name__)


class ReviewServer(ThreadingMixIn, TCPServer):
    """Serves the report of a run until it is stopped.

    Requests come in on threads of their own, as browsers open connections before they need them. What writes is done
    by the main thread, one after the other: it alone may hold the lock of a run.

    Attributes:
        address: what a browser opens, with the token.
    """

    allow_reuse_address = daemon_threads = True

    def __init__(self, uri: str, *, author: str, add: Add, apply: Callable[[], object], port: int = 0) -> None:
        """
        Args:
            uri: a run directory, or one of generations.
            author: whose name the page writes into edits at first.
            add: writes edits behind those of a file, if they fit the run.
            apply: brings the clusters and the report up to date with the edits of the file.
            port: 0 for one that is free.

        Raises:
            InputError: there is no run.
            ArtifactError: it has no report.
            OSError: the port is taken.
        """
        self.uri, self.author, self._add, self.apply = uri, author, add, apply
        self.page()
        self._tasks: SimpleQueue[tuple[Future[None], Callable[[], object]]] = SimpleQueue()
        super().__init__((HOST, port), _Handler)
        self.token, self.port = secrets.token_urlsafe(32), self.server_address[1]
        self.address = f"http://{HOST}:{self.port}/{self.token}/"

    def serve(self) -> None:
        """Answer requests until the main thread, which this is for, is interrupted."""
        Thread(target=self.serve_forever, daemon=True).start()
        try:
            while True:
                self.work()
        finally:
            self.shutdown()

    def work(self, *, timeout_s: float | None = None) -> None:
        """Do the next task that a request has for the main thread, where one comes in time."""
        try:
            done, task = self._tasks.get(timeout=timeout_s)
        except Empty:
            return
        try:
            task()
            done.set_result(None)
        except Exception as error:  # noqa: BLE001 - it is told to whoever asked
            done.set_exception(error)

    def have_done(self, task: Callable[[], object]) -> None:
        """Have the main thread do something, and wait for it; what it raises is raised here."""
        done: Future[None] = Future()
        self._tasks.put((done, task))
        done.result()

    def handle_error(self, request: object, client_address: object) -> None:
        """What goes wrong with a connection is nobody's concern; anything else is a defect."""
        is_connection = isinstance(sys.exception(), ConnectionError | TimeoutError)
        logger.log(logging.DEBUG if is_connection else logging.ERROR, "a request failed", exc_info=True)

    def page(self) -> bytes:
        """The report as it is now, for answering to this server."""
        return for_review(open_run_dir(self.uri).stage("write_report").read_file(_PAGE), author=self.author)

    def add(self, content: bytes) -> None:
        """Write edits behind those that there are, and check all of them."""
        run_dir, edits = open_run_dir(self.uri), parse_edits(content, "the page")
        with home_of(run_dir).locked():
            self._add(read_edits(run_dir), run_dir, edits)

    def undo(self, content: bytes) -> None:
        """Take an edit back."""
        edit_id = _field(content, "id")
        run_dir = open_run_dir(self.uri)
        with home_of(run_dir).locked():
            undo_edit(read_edits(run_dir), edit_id)

    def file(self, name: str) -> bytes:
        """A file of the report, such as a page of members.

        Raises:
            KeyError: there is none of that name.
        """
        stage = open_run_dir(self.uri).stage("write_report")
        if name not in stage.require_manifest().files:
            raise KeyError(name)
        return stage.read_file(name)


class _RefusedError(Exception):
    """A request that is not answered as it was meant."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


def _field(content: bytes, name: str) -> str:
    try:
        value = json.loads(content)[name]
    except (ValueError, KeyError, TypeError, RecursionError):
        value = None
    if not isinstance(value, str):
        raise _RefusedError(HTTPStatus.BAD_REQUEST, f"expected a JSON object with {name!r}")
    return value


class _Handler(BaseHTTPRequestHandler):
    """One connection; everything that is refused is refused before anything is read or written."""

    server: ReviewServer
    timeout = _TIMEOUT_S
    server_version, sys_version = "dxmc", ""

    def do_GET(self) -> None:
        self._answer_with(self._get)

    def do_POST(self) -> None:
        self._answer_with(self._post)

    def _answer_with(self, method: Callable[[str], None]) -> None:
        try:
            method(self._asked_for())
        except _RefusedError as error:
            self._send_json(error.status, {"error": str(error)})
        except DxmcError as error:
            self._send_json(HTTPStatus.CONFLICT, {"error": str(error)})

    def _asked_for(self) -> str:
        """What is asked for below the token.

        Raises:
            _RefusedError: the request is not for this server, or not by who knows the token.
        """
        hosts = [f"{name}:{self.server.port}" for name in (HOST, "localhost")]
        if self.headers.get_all("Host") not in [[host] for host in hosts]:
            raise _RefusedError(HTTPStatus.FORBIDDEN, "another host was asked for; open the address that was printed")
        _, token, *names = urlsplit(self.path).path.split("/")
        if not names or not hmac.compare_digest(token.encode(), self.server.token.encode()):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "the address lacks the token; open the one that was printed")
        return "/".join(names)

    def _get(self, name: str) -> None:
        if name in ("", _PAGE):
            return self._send(HTTPStatus.OK, self.server.page(), "text/html; charset=utf-8")
        try:
            return self._send(HTTPStatus.OK, self.server.file(name), "text/html; charset=utf-8")
        except KeyError as error:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "there is no such page") from error

    def _post(self, name: str) -> None:
        self._require_same_origin()
        content = self._body()
        match name:
            case "edits":
                self.server.have_done(lambda: self.server.add(content))
            case "undo":
                self.server.have_done(lambda: self.server.undo(content))
            case "apply":
                self.server.have_done(self.server.apply)
            case _:
                raise _RefusedError(HTTPStatus.NOT_FOUND, "only edits, undo and apply can be posted")
        self._send_json(HTTPStatus.OK, {})

    def _require_same_origin(self) -> None:
        """A browser tells the origin of every page that posts, and a page of another one cannot post JSON unasked."""
        if self.headers.get_all("Origin") != [f"http://{self.headers['Host']}"]:
            raise _RefusedError(HTTPStatus.FORBIDDEN, "the request comes from another page than this server's")
        if self.headers.get_content_type() != "application/json":
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")

    def _body(self) -> bytes:
        text = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not text.isascii() or not text.isdecimal():
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        if len(text) > 12 or int(text) > MAX_BODY_BYTES:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {MAX_BODY_BYTES:,} bytes")
        content = self.rfile.read(int(text))
        if len(content) < int(text) or not content.startswith(b"{"):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "expected a JSON object")
        return content

    def _send_json(self, status: HTTPStatus, value: dict[str, str]) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, content_type: str) -> None:
        # What was not read of a refused request would be taken for the next one.
        self.close_connection = True
        self.send_response(status)
        for name, value in (
            ("Content-Type", content_type),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", "frame-ancestors 'none'"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("Connection", "close"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """The token stays out of the log."""
        logger.debug("%s %s", self.command, arguments[1] if len(arguments) > 1 else "")
