"""A small stand-in of the Hugging Face hub on this machine, for the real client: repositories in memory, uploads, and faults."""

import base64
import hashlib
import io
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from mtlora.config.schema import TaskConfig

LARGE = (".parquet", ".safetensors", ".bin")  # stored by sha256, as the hub's LFS does
COMMIT, OLDER = "a" * 40, "b" * 40
OTHER_SHARE = 0.02  # the part of a client's pause between two attempts that it takes here


@dataclass
class HubServer:
    """What the stand-in serves, the faults that it has, and what it was asked."""

    url: str = ""
    files: dict[tuple[str, str], dict[str, bytes]] = field(
        default_factory=dict
    )  # (repository, commit) -> content by name
    refs: dict[tuple[str, str], str] = field(default_factory=dict)  # (repository, branch) -> commit
    gated: set[str] = field(default_factory=set)
    # (pattern of the path, what happens): a status, or "truncate", "html", "hang"; the first that matches counts
    faults: list[tuple[str, int | str]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    writers: set[str] = field(default_factory=set)  # tokens that may write
    large: dict[str, bytes] = field(default_factory=dict)  # uploaded large files by sha256
    ended: threading.Event = field(default_factory=threading.Event)

    def add(self, kind: str, name: str, files: dict[str, bytes], commit: str = COMMIT, branch: str = "main") -> None:
        """Add a commit; its branch moves there."""
        repository = f"{kind}s/{name}"
        self.files[repository, commit] = files
        self.refs[repository, branch] = commit

    def fault(self, path: str) -> int | str | None:
        return next((what for pattern, what in self.faults if re.search(pattern, path)), None)

    def commit(self, repository: str, revision: str) -> str | None:
        found = self.refs.get((repository, revision), revision)
        return found if (repository, found) in self.files else None


class Handler(BaseHTTPRequestHandler):
    """Answers: a revision, the tree of a commit, and HEAD and GET of a file."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(path)
        fault = self.hub.fault(path)
        if isinstance(fault, int):
            return self.reply(fault, b"{}")
        if fault == "hang":
            self.hub.ended.wait(60.0)
        if fault == "html":
            return self.reply(200, b"<html>log in</html>")
        if api := re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)/(revision|tree)/(.+)", path):
            return self.reply_about(*api.groups())
        if file := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repository = file[1] if file[1].startswith("datasets/") else f"models/{file[1]}"
            return self.reply_with_file(repository, file[2], file[3], cut=fault == "truncate")
        return self.refuse(404, "NotFound")

    def do_PUT(self) -> None:
        self.hub.large[self.path.rpartition("/")[2]] = self.body()
        self.reply(200, b"{}")

    def do_POST(self) -> None:
        """Answer the requests of an upload: make a repository, check its card, announce files, commit them."""
        path, body = unquote(urlsplit(self.path).path), self.body()
        self.hub.asked.append(path)
        if isinstance(fault := self.hub.fault(path), int):
            return self.reply(fault, b"{}")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.hub.writers:
            return self.refuse(403 if token else 401, "Forbidden")
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.reply(200, json.dumps({"errors": [], "warnings": []}).encode())
        if upload := re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)/(preupload|commit)/(.+)", path):
            return self.announce(body) if upload[2] == "preupload" else self.commit_files(upload[1], body)
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.place_large_files(json.loads(body)["objects"])
        return self.refuse(404, "NotFound")

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def create(self, wanted: dict[str, Any]) -> None:
        repository = f"{wanted.get('type', 'model')}s/{wanted['organization']}/{wanted['name']}"
        known = (repository, "main") in self.hub.refs
        if not known:
            self.hub.add(wanted.get("type", "model"), f"{wanted['organization']}/{wanted['name']}", {})
        page = f"{self.hub.url}/{repository.removeprefix('models/')}"
        return self.reply(409 if known else 200, json.dumps({"url": page}).encode())

    def announce(self, body: bytes) -> None:
        modes = [
            {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular", "shouldIgnore": False}
            for f in json.loads(body)["files"]
        ]
        self.reply(200, json.dumps({"files": modes}).encode())

    def place_large_files(self, objects: list[dict[str, Any]]) -> None:
        for item in objects:
            item["actions"] = {"upload": {"href": f"{self.hub.url}/large/{item['oid']}"}}
        self.reply(200, json.dumps({"transfer": "basic", "objects": objects}).encode())

    def commit_files(self, repository: str, body: bytes) -> None:
        files = self.hub.files[repository, COMMIT]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        page = f"{self.hub.url}/{repository}/commit/{COMMIT}"
        self.reply(200, json.dumps({"success": True, "commitOid": COMMIT, "commitUrl": page}).encode())

    def reply_about(self, repository: str, what: str, revision: str) -> None:
        if not any(name == repository for name, _ in self.hub.files):
            return self.refuse(401, "RepoNotFound")  # as the hub answers strangers
        if (commit := self.hub.commit(repository, revision)) is None:
            return self.refuse(404, "RevisionNotFound")
        if what == "revision":
            return self.reply(
                200, json.dumps({"id": repository.partition("/")[2], "sha": commit, "siblings": []}).encode()
            )
        if repository in self.hub.gated and not self.headers.get("Authorization"):
            return self.refuse(401, "GatedRepo")
        entries = []
        for name, content in self.hub.files[repository, commit].items():
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
            if name.endswith(LARGE):
                entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 1}
            entries.append(entry)
        return self.reply(200, json.dumps(entries).encode())

    def reply_with_file(self, repository: str, commit: str, name: str, cut: bool) -> None:
        content = self.hub.files.get((repository, commit), {}).get(name)
        if content is None:
            return self.refuse(404, "EntryNotFound")
        tag = sha256(content) if name.endswith(LARGE) else git_hash(content)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{tag}"'}
        if cut and self.command == "GET":
            self.close_connection = True
        return self.reply(200, content, headers, sent=content[: len(content) // 2] if cut else content)

    def refuse(self, status: int, code: str) -> None:
        self.reply(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def reply(
        self, status: int, content: bytes, headers: dict[str, str] | None = None, sent: bytes | None = None
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if sent is None else sent)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def parquet(rows: list[dict[str, Any]], classes: list[str] | None = None) -> bytes:
    """Return a parquet file as `datasets` writes it: with `classes`, its metadata name those of `label`."""
    table = pa.Table.from_pylist(rows)
    if classes is not None:
        features = {name: {"dtype": "string", "_type": "Value"} for name in table.column_names}
        features["label"] = {"names": classes, "_type": "ClassLabel"}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, stream := io.BytesIO())
    return stream.getvalue()


def rte_rows(number: int, flipped: bool = False) -> list[dict[str, Any]]:
    """Return rows of RTE; the label is whether the row's number is odd, or with `flipped` the other one."""
    return [{"sentence1": f"one {n}", "sentence2": f"two {n}", "label": (n + flipped) % 2} for n in range(number)]


def rte_files(task: TaskConfig, train: int = 6, flipped: bool = False) -> dict[str, bytes]:
    """Return the files of RTE as nyu-mll/glue has them, with `train` and 4 rows, beside another configuration."""
    name, classes = task.hub.name, task.labels
    return {
        f"{name}/train-00000-of-00001.parquet": parquet(rte_rows(train, flipped), classes),
        f"{name}/validation-00000-of-00001.parquet": parquet(rte_rows(4, flipped), classes),
        f"{name}/test-00000-of-00001.parquet": parquet(rte_rows(2), classes),
        "cola/train-00000-of-00001.parquet": parquet([{"sentence": "a", "label": 1}], ["unacceptable", "acceptable"]),
        "README.md": b"---\nlanguage: en\n---\n",
    }


def export_files(task: TaskConfig, content: bytes) -> dict[str, bytes]:
    """Return one file of this content for each split of a task, as the branches of exports have them."""
    return {f"{task.hub.name}/{task.hub.splits.get(split, split)}/0000.parquet": content for split in task.sizes}


def serve(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Serve on a free port, and make the hub's client of this process use it and `cache`; its pauses become short."""
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.url)  # of the functions, such as `file_exists`
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files go by LFS, which this server has
    monkeypatch.delenv("HF_TOKEN", raising=False)
    pause = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: pause(seconds * OTHER_SHARE))
    yield hub
    hub.ended.set()
    server.shutdown()
    server.server_close()
