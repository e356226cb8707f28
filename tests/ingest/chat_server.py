"""A server on the loopback that speaks OpenAI's chat completions, and can be told to misbehave."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What one request is answered with. drop: close the connection instead. seconds: of silence before.

    drip: send blanks after its "headers", or a header's letters, one by one without an end.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    seconds: float = 0.0
    drip: str = ""


@dataclass
class Seen:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """What it asks, without its images."""
        content = self.body["messages"][0]["content"]
        return content if isinstance(content, str) else content[-1]["text"]

    @property
    def images(self) -> list[str]:
        """The addresses of its images."""
        content = self.body["messages"][0]["content"]
        return [] if isinstance(content, str) else [part["image_url"]["url"] for part in content[:-1]]


def completion(content: Any, usage: tuple[int, int] | None = (100, 10), **choice: Any) -> Reply:
    """A chat completion that says `content`."""
    answer: dict[str, Any] = {"choices": [{"message": {"content": content}, "finish_reason": "stop", **choice}]}
    if usage:
        answer["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return Reply(body=json.dumps(answer).encode())


def error(status: int, message: str, **headers: str) -> Reply:
    """An error in OpenAI's layout."""
    return Reply(status, json.dumps({"error": {"message": message}}).encode(), headers)


def echo(seen: Seen) -> Reply:
    """Repeats what it was asked, as a sentence."""
    return completion(f"Said {seen.text}.")


class ChatServer:
    """The server. plan: what the next requests get, in turn; then `otherwise` answers. most: requests at once."""

    def __init__(self, *plan: Reply, otherwise: Callable[[Seen], Reply] = echo) -> None:
        self.plan, self.otherwise = list(plan), otherwise
        self.seen: list[Seen] = []
        self.most = self.now = 0
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"server_of": self}))
        self.http.daemon_threads, self.http.block_on_close = True, False
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that went away
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def reply(self, seen: Seen) -> Reply:
        """The answer to a request."""
        with self.lock:
            self.seen.append(seen)
            self.now += 1
            self.most = max(self.most, self.now)
            planned = self.plan.pop(0) if self.plan else None
        reply = planned or self.otherwise(seen)
        time.sleep(reply.seconds)
        with self.lock:
            self.now -= 1
        return reply


class Handler(BaseHTTPRequestHandler):
    protocol_version, timeout = "HTTP/1.1", 30
    server_of: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        reply = self.server_of.reply(Seen(self.path, dict(self.headers), body))
        if reply.drop:
            self.close_connection = True
            return
        if reply.drip:
            self._drip(reply.drip)
            return
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(reply.body)

    def _drip(self, part: str) -> None:
        self.close_connection = True
        ended = b"Content-Length: 1000\r\n\r\n" if part == "body" else b"X-Long: "
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + ended)
        for _ in range(400):  # until the client goes away
            self.wfile.write(b" " if part == "body" else b"x")
            time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass
