"""An S3 server on loopback (moto's), which on request breaks a share of the requests as real services do under load.

As a program it serves until it is stopped: `python benchmarks/s3_server.py --faults 0.05`; it prints the environment
variables that clients need.
"""

import argparse
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import boto3
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

_ANSWERS = {
    "slow_down": (
        "503 Slow Down",
        b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
    ),
    "gone": ("404 Not Found", b"<Error><Code>NoSuchKey</Code><Message>There is no such key.</Message></Error>"),
    "denied": ("403 Forbidden", b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"),
    "expired": (
        "400 Bad Request",
        b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>",
    ),
    "skewed": (
        "403 Forbidden",
        b"<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and the current "
        b"time is too large.</Message></Error>",
    ),
    "no_bucket": (
        "404 Not Found",
        b"<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>",
    ),
}
_SILENCE_S = 5.0
_CREDENTIAL = "loopback-only"


@dataclass
class Faults:
    """Breaks requests: `slow_down` answers 503, `reset` closes the connection, `cut` stops half-way through a body.

    Attributes:
        share: of the requests that are broken, 0 to 1; may be changed while the server runs.
        always: keys for which every request is broken, with the kind of fault; here also `denied` (403), `gone` (404)
            and `silence` (no answer for some seconds).
        counts: how many faults of each kind there were.
        num_requests: all of them, the broken ones included.
        every: the kind of fault of all requests, or None: one of `always`, `no_bucket`, `expired` or `skewed` (what S3
            answers when credentials have run out or the client's clock is wrong), or `cut_off` (`S3Server.cut_off`).
    """

    share: float = 0.0
    seed: int = 0
    always: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    num_requests: int = 0
    every: str | None = None

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._lock = threading.Lock()

    def draw(self, environ: dict) -> str | None:
        """The fault of one request, or None."""
        key = environ["PATH_INFO"].strip("/").partition("/")[2]
        with self._lock:
            self.num_requests += 1
            kind = self.always.get(key)
            if kind is None and self._chance.random() < self.share:
                kind = self._chance.choice(("slow_down", "reset", "cut"))
            if self.every is not None:
                kind = self.every
            if kind == "cut" and environ["REQUEST_METHOD"] != "GET":
                kind = "reset"
            if kind is not None:
                self.counts[kind] += 1
        return kind


class _FaultyApplication:
    """moto's WSGI application behind the faults."""

    def __init__(self, faults: Faults) -> None:
        self._application = DomainDispatcherApplication(create_backend_app)
        self._faults = faults

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        kind = self._faults.draw(environ)
        if kind is None:
            return self._application(environ, start_response)
        if kind in _ANSWERS:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            status, body = _ANSWERS[kind]
            start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body] if environ["REQUEST_METHOD"] != "HEAD" else []
        if kind == "silence":
            time.sleep(_SILENCE_S)
        if kind in ("reset", "cut_off"):
            return _hang_up(environ)
        return _half_of(self._application(environ, start_response), environ)


def _half_of(body: Iterable[bytes], environ: dict) -> Iterator[bytes]:
    data = b"".join(body)
    yield data[: len(data) // 2]
    yield from _hang_up(environ)


def _hang_up(environ: dict) -> Iterator[bytes]:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError("a fault was asked for")
    yield b""


class _QuietHandler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: object) -> None:
        """Say nothing, not even of the faults."""

    def connection_dropped(self, error: BaseException, environ: dict | None = None) -> None:
        self.close_connection = True


class _Listener:
    """The server's socket and the thread that accepts connections, which can be closed and opened at the same port."""

    def __init__(self, port: int, application: _FaultyApplication) -> None:
        self._application = application
        self.port = port
        self.open()

    def open(self) -> None:
        self._server = make_server(
            "127.0.0.1", self.port, self._application, threaded=True, request_handler=_QuietHandler
        )
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name="s3-server")
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass(frozen=True)
class S3Server:
    """A running server. `environment` is what a client's process needs to find it."""

    endpoint: str
    faults: Faults
    _listener: _Listener

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """For a block nobody reaches the server: new connections are refused, those that are open break."""
        self.faults.every = "cut_off"
        self._listener.close()
        try:
            yield
        finally:
            self.faults.every = None
            self._listener.open()

    @contextmanager
    def refusing(self, kind: str) -> Iterator[None]:
        """For a block every request has this fault."""
        self.faults.every = kind
        try:
            yield
        finally:
            self.faults.every = None

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": _CREDENTIAL,
            "AWS_SECRET_ACCESS_KEY": _CREDENTIAL,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> "boto3.client":
        """A client of boto3, for putting things there."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=_CREDENTIAL,
            aws_secret_access_key=_CREDENTIAL,
            config=Config(retries={"max_attempts": 10}),
        )


@contextmanager
def serve_s3(*, port: int = 0, share: float = 0.0, seed: int = 0) -> Iterator[S3Server]:
    """Serve on a free port of the loopback interface until the end of the block."""
    faults = Faults(share=share, seed=seed)
    listener = _Listener(port, _FaultyApplication(faults))
    try:
        yield S3Server(f"http://127.0.0.1:{listener.port}", faults, listener)
    finally:
        listener.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--faults", type=float, default=0.0, help="share of the requests that are broken")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with serve_s3(port=arguments.port, share=arguments.faults, seed=arguments.seed) as server:
        for name, value in server.environment.items():
            print(f"export {name}={value}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
