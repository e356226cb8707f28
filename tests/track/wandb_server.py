"""A stand-in for the W&B backend on the loopback: as much as `wandb sync` of wandb 0.31 asks for."""

from __future__ import annotations

import gzip
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote, urlsplit

ENTITY = {"id": "e", "name": "tester"}


@dataclass
class Synced:
    """What the server holds of one run. files: {"media/videos/….mp4": bytes}."""

    project: str = ""
    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    complete: bool = False


class Backend:
    """The server. runs: by id. unknown: requests that it had no answer for."""

    def __init__(self) -> None:
        self.runs: dict[str, Synced] = {}
        self.unknown: list[str] = []
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"backend": self}))
        self.http.handle_error = lambda *_: None  # wandb leaves connections that it kept open
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> Backend:
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def environment(self) -> dict[str, str]:
        """What brings wandb here, and lets it give up in seconds where something is wrong."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "0" * 40, "WANDB_ERROR_REPORTING": "false",
                "WANDB_X_GRAPHQL_RETRY_MAX": "1", "WANDB_X_FILE_TRANSFER_RETRY_MAX": "1"}  # fmt: skip

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and JSON for a request."""
        if path == "/graphql":
            call = json.loads(body)
            operation = re.search(r"(?:query|mutation)\s+(\w+)|$", call["query"])[1] or ""
            if data := self.graphql(operation, call.get("variables") or {}):
                return 200, {"data": data}
            self.unknown.append(operation)
            return 200, {"errors": [{"message": f"unknown: {operation}"}]}  # any other status would be tried again
        if match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
            sent, run = json.loads(body), self.runs[match[1]]
            if new := sent.get("files", {}).get("wandb-history.jsonl"):
                start, rows = new["offset"], [json.loads(line) for line in new["content"]]
                run.history[start : start + len(rows)] = rows  # a repeated request changes nothing
            run.complete |= bool(sent.get("complete"))
        elif match := re.fullmatch(r"/upload/([^/]+)/(.+)", path):
            self.runs[match[1]].files[match[2]] = body
        else:
            self.unknown.append(f"{method} {path}")
            return 404, {}
        return 200, {}

    def graphql(self, operation: str, given: dict[str, Any]) -> dict[str, Any] | None:
        """The data of an answer; None for an operation that is not known here."""
        if operation == "CreateRunFiles":
            to = f"{self.url}/upload/{given['run']}/"
            files = [{"name": name, "uploadUrl": to + quote(name)} for name in given["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if operation == "UpsertBucket":
            run = self.runs.setdefault(given["name"], Synced())
            run.project, run.name = given["project"], given.get("displayName") or run.name
            run.config |= json.loads(given.get("config") or "{}")
            return {"upsertBucket": {"inserted": not run.history, "bucket": self.bucket(given["name"])}}
        if operation == "RunResumeStatus":
            bucket = self.bucket(given["name"]) if given["name"] in self.runs else None
            return {"model": {"id": "p", "name": given["project"], "entity": ENTITY, "bucket": bucket}}
        artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": {"latestArtifact": None}}  # of a table
        known = {"ServerFeaturesQuery": {"serverInfo": {"features": []}},
                 "CreateArtifact": {"createArtifact": {"artifact": artifact}}}  # fmt: skip
        return known.get(operation)

    def bucket(self, name: str) -> dict[str, Any]:
        """What wandb is told of a run that is here."""
        run = self.runs[name]
        return {"id": "b", "name": name, "displayName": run.name, "description": None, "config": json.dumps(run.config),
                "sweepName": None, "project": {"id": "p", "name": run.project, "entity": ENTITY}, "tags": [],
                "notes": None, "summaryMetrics": "{}", "logLineCount": 0, "wandbConfig": '{"t": 1}',
                "historyLineCount": len(run.history), "eventsLineCount": 0, "eventsTail": "[]",
                "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]])}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version, timeout = "HTTP/1.1", 60

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        with self.backend.lock:
            status, answer = self.backend.answer(self.command, unquote(urlsplit(self.path).path), body)
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_PUT = do_POST

    def log_message(self, *_: object) -> None:
        pass
