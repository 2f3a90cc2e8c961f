"""One copy of a model behind HTTP: what a pod of an emitted plan runs.

    python -m djinn_fx.deploy.serving.host package.module:name [--host 127.0.0.1] [--port 8000] [--eager]

``POST /`` takes ``{"data": {...}, "results": {...}}`` and answers ``{"result": ...}``; tensors are lists of numbers.
``GET /`` says that the model is loaded. One node runs at a time.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from djinn_fx.command_line import OK, carry_out
from djinn_fx.deploy.serving.entry import Entry, load_entry
from djinn_fx.errors import useful_line

#: Bytes of a request at most.
MOST_BYTES = 64 * 2**20
#: Seconds that a client may keep a connection without sending.
PATIENCE_S = 60.0


def plain(value: Any) -> Any:
    """Tensors as lists."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return {key: plain(one) for key, one in value.items()} if isinstance(value, Mapping) else value


def server_of(entry: Entry, host: str, port: int) -> ThreadingHTTPServer:
    """A server that answers by a model; ``serve_forever`` runs it.

    Args:
        entry: the model.
        host: address to listen on.
        port: 0: any that is free.
    """
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE_S

        def do_GET(self) -> None:
            self._answer(200, {"ready": True})

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > MOST_BYTES:
                self._answer(413, {"error": f"say Content-Length, {MOST_BYTES} bytes at most"})
                return
            try:
                asked = json.loads(self.rfile.read(int(length)))
                results = {name: torch.tensor(value) for name, value in asked.get("results", {}).items()}
                with one_at_a_time:
                    found = entry.answer(asked.get("data", {}), results)
                self._answer(200, {"result": plain(found)})
            except Exception as error:  # noqa: BLE001 - the client is told, and the next one is answered
                self._answer(400, {"error": useful_line(error)})

        def _answer(self, status: int, value: Any) -> None:
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: requests are the router's to log."""

    return ThreadingHTTPServer((host, port), Handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Load the model and serve until interrupted; returns the exit code."""
    made = argparse.ArgumentParser(prog="python -m djinn_fx.deploy.serving.host", description=__doc__.split("\n")[0])
    made.add_argument("entry", help="package.module:name")
    made.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    made.add_argument("--port", type=int, default=8000)
    made.add_argument("--eager", action="store_true", help="run the model as it is, not compiled by djinn")
    return carry_out(made, _run, argv, "djinn_fx.deploy.serving.host")


def _run(arguments: argparse.Namespace) -> int:
    entry = load_entry(arguments.entry)
    if not arguments.eager:
        entry.module.compile(backend="djinn")
    with server_of(entry, arguments.host, arguments.port) as server:
        server.serve_forever()
    return OK


if __name__ == "__main__":
    sys.exit(main())
