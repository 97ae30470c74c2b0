"""What several tests of the data room share: the originals, and files written for the occasion."""

import gzip
import os
import struct
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest


@pytest.fixture(scope="session")
def originals():
    """The folder of the original data sets."""
    if "TINYMETA_DATA" not in os.environ:
        pytest.skip("the originals are not here: set TINYMETA_DATA to the folder with mnist/ and omniglot/")
    return Path(os.environ["TINYMETA_DATA"])


@pytest.fixture(scope="session")
def to_idx():
    """The writer of IDX bytes, independent of the reader: array -> bytes."""

    def write(array):
        return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()

    return write


@pytest.fixture(scope="session")
def to_gzip():
    return lambda raw: gzip.compress(raw, mtime=0)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Serve a folder on this machine: folder -> address."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers = []

    def start(folder):
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
