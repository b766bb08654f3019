"""A receiver of what the sink `http` posts: run by a host's own Python, it appends to a file."""

import gzip
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Inbox(BaseHTTPRequestHandler):
    """Takes everything."""

    def do_POST(self) -> None:
        """Store a body, and answer when it is stored."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open(sys.argv[1], "ab") as file:  # noqa: PTH123 - a script without imports to spare
            file.write(gzip.decompress(body))
        self.send_response(204)
        self.end_headers()


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", 8080), Inbox).serve_forever()
