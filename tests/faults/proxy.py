"""A proxy before a real S3 endpoint that fails on purpose, the same way for the same seed and order of requests."""

import http.client
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>on purpose</Message></Error>"
BROKEN = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>on purpose</Message></Error>"


@dataclass
class Faults:
    """Shares of requests that fail, and requests that wait.

    Attributes:
        errors: answered with 500 or 503.
        truncated: bodies of GET that end halfway, with the full Content-Length.
        reset: connections that are reset.
        stall: of the first request whose path matches, seconds without an answer.
        hold: the first PUT whose path matches waits, unseen by the endpoint, until ``release`` is set.
    """

    errors: float = 0.0
    truncated: float = 0.0
    reset: float = 0.0
    stall: tuple[str, float] | None = None
    hold: str | None = None
    held: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


class FaultProxy(ThreadingHTTPServer):
    """Listens on a port of its own.

    ``log`` counts (method, path) that reached the endpoint, ``LIST`` being a method and its prefix the path;
    ``carried`` their bodies' bytes, both ways; ``hit`` the faults.
    """

    daemon_threads = True

    def __init__(self, endpoint: str, faults: Faults, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = urlsplit(endpoint).netloc
        self.faults = faults
        self.log: Counter[tuple[str, str]] = Counter()
        self.carried: Counter[tuple[str, str]] = Counter()
        self.hit: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def choose(self, method: str, path: str) -> str | None:
        """Return which fault this request meets."""
        faults = self.faults
        with self._lock:
            if faults.stall and re.search(faults.stall[0], path) and not self.hit["stall"]:
                return self._count("stall")
            if faults.hold and method == "PUT" and re.search(faults.hold, path) and not self.hit["hold"]:
                return self._count("hold")
            draw = self._random.random()
            for name, share in (("errors", faults.errors), ("reset", faults.reset), ("truncated", faults.truncated)):
                if draw < share and (name != "truncated" or method == "GET"):
                    return self._count(name)
                draw -= share
            return None

    def _count(self, name: str) -> str:
        self.hit[name] += 1
        return name

    def note(self, method: str, url: str, body: int) -> None:
        """Count a request that reached the endpoint."""
        parts = urlsplit(url)
        key = (method, unquote(parts.path))
        if method == "GET" and (prefix := parse_qs(parts.query, keep_blank_values=True).get("prefix")) is not None:
            key = ("LIST", f"{key[1].rstrip('/')}/{prefix[0]}")
        with self._lock:
            self.log[key] += 1
            self.carried[key] += body

    def puts(self, pattern: str) -> Counter[str]:
        """Return path -> PUTs that reached the endpoint."""
        return Counter(
            {path: n for (method, path), n in self.log.items() if method == "PUT" and re.search(pattern, path)}
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        fault = self.server.choose(self.command, path)
        if fault == "errors":
            status, text = (503, SLOW_DOWN) if self.server.hit["errors"] % 2 else (500, BROKEN)
            return self._send(status, {"Content-Type": "application/xml"}, b"" if self.command == "HEAD" else text)
        if fault == "reset":
            # A linger of zero makes close() send RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return self.connection.close()
        if fault == "stall":
            assert self.server.faults.stall is not None
            time.sleep(self.server.faults.stall[1])
        if fault == "hold":
            self.server.faults.held.set()
            self.server.faults.release.wait()
            self.close_connection = True
            return None
        with closing(http.client.HTTPConnection(self.server.endpoint)) as connection:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            data = answer.read()
        self.server.note(self.command, self.path, len(body) + len(data))
        headers = {
            k: v
            for k, v in answer.getheaders()
            if k.lower() not in ("transfer-encoding", "connection", "date", "server")
        }
        if self.command != "HEAD":
            headers["Content-Length"] = str(len(data))
        if fault == "truncated" and len(data) > 1:
            self.close_connection = True
            return self._send(answer.status, headers, data[: len(data) // 2], full=len(data))
        return self._send(answer.status, headers, data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer

    def _send(self, status: int, headers: dict[str, str], data: bytes, full: int | None = None) -> None:
        try:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(data))} | headers).items():
                if name.lower() != "content-length" or full is None:
                    self.send_header(name, value)
            if full is not None:
                self.send_header("Content-Length", str(full))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True  # the client was killed

    def log_message(self, *_: object) -> None:
        pass
