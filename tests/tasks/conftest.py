"""Data folders of a test's own, a server on this machine in place of the network, small files in
published formats.
"""

import contextlib
import gzip
import hashlib
import socket
import struct
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from bioplaus.tasks import datasets as data


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's data or cache folder."""
    monkeypatch.setenv("BIOPLAUS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(data, "_cache", lambda: tmp_path / "cache")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that would leave this machine fails."""
    connect = socket.socket.connect

    def local_only(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "localhost",
            "::1",
        ):
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
    monkeypatch.setenv("no_proxy", "*")


def idx_bytes(array: np.ndarray) -> bytes:
    """`array` (uint8) in MNIST's idx format."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


class TinyMnist:
    """An MNIST of 30 random images in the catalogue's place, and a server that hands it out or
    misbehaves.

    `mode` is what the server does: "whole", "cut" (half of the bytes), "wrong" (other bytes),
    "page" (an HTML page with status 200), "refuse" (status 404), "stall" (a header, then silence),
    "hang up" (closes the connection), "drip" (a byte now and then), "drip header" (the same from
    the first line on), "flood" (more and more, without saying how much), "promise" (says that 10 GB
    follow).
    """

    mode = "whole"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        draw = np.random.RandomState(5)
        self.x_train, self.x_test = (
            draw.randint(0, 256, (n, 28, 28)).astype(np.uint8) for n in (20, 10)
        )
        self.y_train, self.y_test = (np.arange(n, dtype=np.uint8) % 10 for n in (20, 10))
        arrays = (self.x_train, self.y_train, self.x_test, self.y_test)
        entry = data._CATALOGUE["mnist"]
        self.content = {
            file.path: idx_bytes(array) for file, array in zip(entry.files, arrays, strict=True)
        }
        files = tuple(
            data.File(path, hashlib.md5(raw).hexdigest(), len(raw))
            for path, raw in self.content.items()
        )
        tiny = {**vars(entry), "n_train": 20, "n_test": 10, "files": files}
        monkeypatch.setitem(data._CATALOGUE, "mnist", data.Entry(**tiny))
        self.served, self.released = Counter(), threading.Event()
        self._packed = {
            f"/{Path(path).name}.gz": gzip.compress(raw, mtime=0)
            for path, raw in self.content.items()
        }
        self._monkeypatch = monkeypatch

    def serve(self, mode: str = "whole") -> None:
        from bioplaus._torchvision import datasets

        self.mode = mode
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        resources = [
            (name[1:], hashlib.md5(packed).hexdigest()) for name, packed in self._packed.items()
        ]
        self._monkeypatch.setattr(
            datasets.MNIST, "mirrors", [f"http://127.0.0.1:{self._server.server_port}/"]
        )
        self._monkeypatch.setattr(datasets.MNIST, "resources", resources)

    def close(self) -> None:
        """Stop serving: from now on connections are refused."""
        self.released.set()
        if hasattr(self, "_server"):
            self._server.shutdown()
            self._server.server_close()

    def write(self, folder: Path) -> None:
        """Put the files where the data set is looked for."""
        for path, raw in self.content.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(raw)

    def _handler(tiny) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self._answer(is_head=True)

            def do_GET(self):
                self._answer(is_head=False)

            def _answer(self, is_head):
                body = tiny._packed[self.path]
                if tiny.mode == "refuse":
                    self.send_error(404)
                    return
                if tiny.mode in ("drip header", "flood") and not is_head:
                    tiny.served[self.path] += 1
                    self._endless()
                    return
                sent = {
                    "cut": body[: len(body) // 2],
                    "wrong": bytes(len(body)),
                    "page": b"<html>please log in</html>",
                    "stall": b"",
                    "hang up": b"",
                }.get(tiny.mode, body)
                self.send_response(200)
                stated = {"page": len(sent), "promise": 10**10}.get(tiny.mode, len(body))
                self.send_header("Content-Length", str(stated))
                self.end_headers()
                if not is_head:
                    tiny.served[self.path] += 1
                    if tiny.mode == "drip":
                        self._drip(sent)
                        return
                    self.wfile.write(sent)
                    if tiny.mode == "stall":
                        tiny.released.wait(30)

            def _drip(self, content):
                with contextlib.suppress(OSError):
                    for i in range(len(content)):
                        self.wfile.write(content[i : i + 1])
                        self.wfile.flush()
                        if tiny.released.wait(0.05):
                            return

            def _endless(self):
                if tiny.mode == "drip header":
                    self._drip(b"HTTP/1.0 200 OK\r\nX-Long: " + b"x" * 10_000)
                    return
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):
                    while not tiny.released.is_set():
                        self.wfile.write(bytes(2**16))

            def log_message(self, *arguments):
                pass

        return Handler


@pytest.fixture
def tiny_mnist(monkeypatch: pytest.MonkeyPatch):
    tiny = TinyMnist(monkeypatch)
    yield tiny
    tiny.close()
