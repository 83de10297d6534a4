"""Images and lists on a web server: names are only names, and a server need not say how long anything is."""

import functools
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxmc_core.errors import InputError
from dxmc_core.images.catalog import list_source
from dxmc_core.images.fetch import FetchImages
from dxmc_core.images.sources import ImagesSource, ParquetSource, WebDatasetSource

NAMES = [
    "cat",
    "cat::2.jpg",
    "12::30::05.jpg",
    "cat#2.jpg",
    "cat?w=300",
    "[c]at",
    "*",
    "100%.jpg",
    "%63at",
    "a b.jpg",
    "ж.jpg",
]


class _Handler(BaseHTTPRequestHandler):
    """Serves what `files` holds; with `says_length` off as a server that streams."""

    def __init__(self, *arguments, files: dict[str, bytes], says_length: bool) -> None:
        self._files = files
        self._says_length = says_length
        super().__init__(*arguments)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path, _, query = self.path.partition("?")
        name = urllib.parse.unquote(path.removeprefix("/p/"))
        data = self._files.get(f"{name}?{query}" if query else name)
        self.send_response(404 if data is None else 200)
        if self._says_length or data is None:
            self.send_header("Content-Length", str(len(data or b"")))
        self.send_header("Connection", "close")
        self.end_headers()
        if with_body and data is not None:
            self.wfile.write(data)

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def serve():
    """Serves files by their names; their common address."""
    servers = []

    def start(files: dict[str, bytes], *, says_length: bool = True) -> str:
        handler = functools.partial(_Handler, files=files, says_length=says_length)
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/p"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fetched(source):
    rows = pa.concat_tables(list_source(source).tables())
    files = FetchImages(source)(rows)
    return {
        image_id: file if isinstance(file, bytes) else str(file.reason)
        for image_id, file in zip(rows["image_id"].to_pylist(), files, strict=True)
    }


@pytest.mark.parametrize("says_length", [True, False])
def test_names_in_a_list_on_a_server(serve, says_length):
    contents = {name: name.encode() for name in NAMES}
    base = serve({**contents, "list.txt": "\n".join(NAMES).encode()}, says_length=says_length)
    assert fetched(ImagesSource(uri=f"{base}/list.txt")) == contents


def test_whole_addresses_in_a_list(serve, tmp_path):
    base = serve({"cat": b"cat", "cat::2.jpg": b"2", "cat#3.jpg": b"3", "img?id=4": b"4", "cat?": b"5"})
    names = ["cat", "cat::2.jpg", "cat#3.jpg", "img?id=4", "gone.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(f"{base}/{name}" for name in names))
    found = fetched(ImagesSource(uri=str(tmp_path / "list.txt")))
    assert list(found.values()) == [b"cat", b"2", b"3", b"4", "missing"]


def test_what_is_read_in_parts_needs_a_server_that_says_how_long_it_is(serve, tar_of):
    table = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": [b"x"]}), table)
    data = table.getvalue().to_pybytes()
    base = serve({"x.tar": tar_of([("a.jpg", b"x")]), "x.parquet": data, "empty.tar": b""}, says_length=False)
    assert fetched(WebDatasetSource(kind="webdataset", uri=f"{base}/x.tar")) == {"x.tar@0": "unreachable"}
    for source in (ParquetSource(kind="parquet", uri=f"{base}/x.parquet"), ImagesSource(uri=f"{base}/x.parquet")):
        with pytest.raises(InputError, match="cannot be read in parts: the server says no length") as caught:
            list_source(source)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gone.txt", "gone/", "gone/*.jpg"])
def test_places_that_are_not_there(serve, name):
    base = serve({"cat": b"x"})
    with pytest.raises(InputError, match=r"does not exist|cannot read the list|holds no images|no images in"):
        list_source(ImagesSource(uri=f"{base}/{name}"))
