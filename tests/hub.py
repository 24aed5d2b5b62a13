"""A Hugging Face hub on this machine."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from huggingface_hub import constants, file_download

COMMIT = "5" * 40
CHUNK = 10_000  # bytes that the client writes at a time, instead of 10 MB


def point_to(endpoint: str, monkeypatch) -> None:
    """Make the hub client use an endpoint."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


@contextmanager
def serve_hub(monkeypatch, cache, **files: bytes) -> Iterator[type]:
    """Serve files by name, whatever the repository.

    The attributes of the result: `files`; `asked`, the requests (command, path, range); `cuts`, number of bytes after
    which each coming response ends; `stalled`, an event that a cut response waits for; `etag`, the stated checksum
    (None for the true one); `endpoint`.
    """

    class Hub(BaseHTTPRequestHandler):
        asked, cuts, etag, stalled = [], [], None, threading.Event()

        def do_HEAD(self):
            match = re.fullmatch(r"/.+/resolve/[^/]+/(.+)", self.path)
            if match:  # the client makes other requests too
                self.asked.append((self.command, self.path, self.headers.get("Range")))
            body = self.files.get(match[1]) if match else None
            start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")[1])
            self.send_response(404 if body is None else 206 if start else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            if body is None:
                self.send_header("X-Error-Code", "EntryNotFound")
                body, start = b"", 0
            else:
                self.send_header("ETag", '"a name of its own for the storage"')
                self.send_header("X-Linked-Etag", f'"{self.etag or hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(body)))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(body) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            return body[start:]

        def do_GET(self):
            body = self.do_HEAD()
            if not self.cuts or "/resolve/" not in self.path:
                self.wfile.write(body)
                return
            assert self.headers["Accept-Encoding"] == "identity"
            self.wfile.write(body[: self.cuts.pop(0)])
            self.wfile.flush()
            self.stalled.wait(10)
            self.close_connection = True

        def log_message(self, *args):
            pass

    Hub.files = files
    Hub.stalled.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02))
    thread.start()
    Hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    point_to(Hub.endpoint, monkeypatch)
    for name, value in dict(HF_HUB_CACHE=str(cache), HF_HUB_DISABLE_XET=True, HF_HUB_OFFLINE=False).items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)  # pause between two attempts of the client
    try:
        yield Hub
    finally:
        Hub.stalled.set()
        server.shutdown()
        thread.join()
        server.server_close()
