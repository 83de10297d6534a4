"""moto's S3 server on an address of its own: `python s3_host.py ADDRESS PORT`."""

import sys

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: object) -> None:
        """Say nothing."""


def main() -> None:
    address, port = sys.argv[1], int(sys.argv[2])
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server(address, port, application, threaded=True, request_handler=_Handler)
    sys.stdout.write("serving\n")
    server.serve_forever(0.05)


if __name__ == "__main__":
    main()
