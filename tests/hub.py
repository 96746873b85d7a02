"""A hub on this machine: the part of the Hugging Face hub's HTTP interface that downloads use.

    with Hub(datasets={"nyu-mll/glue": glue_repository(...)}, models={"me/backbone": files_of(directory)}) as hub:
        subprocess.run([...], env=os.environ | hub.environment(cache))

A repository is a mapping of paths to bytes; its one commit is called `main` too, and what `commits` calls it.
`huggingface_hub` reads HF_ENDPOINT when it is imported, hence a process of its own.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

Files = dict[str, bytes]


class Hub:
    """Serves repositories on a free port of the loopback device until the `with` block ends.

    `requests` lists what was asked for, as `METHOD path status`.
    """

    def __init__(
        self,
        datasets: dict[str, Files] | None = None,
        models: dict[str, Files] | None = None,
        commits: dict[str, str] | None = None,
    ) -> None:
        self.repositories = {"datasets": datasets or {}, "models": models or {}}
        self.commits = commits or {}  # by repository, where a test needs a commit of a certain name
        self.requests: list[str] = []
        hub = self

        class Handler(_Handler):
            repositories, requests, commits = hub.repositories, hub.requests, hub.commits

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def environment(self, cache: Path) -> dict[str, str]:
        """Environment variables that make a new process use this hub, with its cache in a folder of its own."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(cache),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        }


def commit_of(files: Files) -> str:
    """The name of a repository's commit: 40 hex digits, by content."""
    names = json.dumps({path: hashlib.sha1(content).hexdigest() for path, content in sorted(files.items())})
    return hashlib.sha1(names.encode()).hexdigest()


def files_of(directory: Path) -> Files:
    """A directory's files as a repository."""
    found = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}


def binary_only(directory: Path) -> Files:
    """A backbone's directory as microsoft/deberta-v3-base is on the hub: weights in pytorch_model.bin alone."""
    import torch
    from safetensors.torch import load

    files = files_of(directory)
    sink = io.BytesIO()
    torch.save(load(files.pop("model.safetensors")), sink)
    return files | {"pytorch_model.bin": sink.getvalue()}


def parquet_repository(configs: dict[str, dict[str, Any]]) -> Files:
    """A dataset repository as the hub stores converted sets: a Parquet file a split, the schema in the README.

    Args:
        configs: configuration -> {"features": {column: dtype, the names of its classes, or (Arrow type, how the README
            says it)}, "splits": {split: rows}}.
    """
    import pyarrow
    from pyarrow import parquet

    files: Files = {}
    header: dict[str, Any] = {"dataset_info": [], "configs": []}
    for name, config in configs.items():
        kinds = {column: "int64" if isinstance(kind, list) else kind for column, kind in config["features"].items()}
        arrow = {
            column: kind[0] if isinstance(kind, tuple) else getattr(pyarrow, kind)() for column, kind in kinds.items()
        }
        schema = pyarrow.schema(list(arrow.items()))
        splits, paths = [], []
        for split, rows in config["splits"].items():
            sink = io.BytesIO()
            parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), sink)
            files[f"{name}/{split}-00000-of-00001.parquet"] = sink.getvalue()
            splits.append({"name": split, "num_bytes": len(sink.getvalue()), "num_examples": len(rows)})
            paths.append({"split": split, "path": f"{name}/{split}-*"})
        features = [{"name": column} | _told(kind) for column, kind in config["features"].items()]
        header["dataset_info"].append({"config_name": name, "features": features, "splits": splits})
        header["configs"].append({"config_name": name, "data_files": paths})
    files["README.md"] = f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n".encode()
    return files


def _told(kind: str | list[str] | tuple[Any, dict[str, Any]]) -> dict[str, Any]:
    if isinstance(kind, tuple):
        return kind[1]
    return {"dtype": kind if isinstance(kind, str) else {"class_label": {"names": dict(enumerate(kind))}}}


class _Handler(BaseHTTPRequestHandler):
    """Routes: /api/KIND/REPO[/revision/REV | /tree/REV[/DIR] | /paths-info/REV], /[datasets/]REPO/resolve/REV/FILE."""

    protocol_version = "HTTP/1.1"
    repositories: dict[str, dict[str, Files]]
    requests: list[str]
    commits: dict[str, str]

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "api" and len(parts) >= 4:
            self._api(parts[1], "/".join(parts[2:4]), parts[4:])
            return
        kind, parts = ("datasets", parts[1:]) if parts[0] == "datasets" else ("models", parts)
        if len(parts) >= 5 and parts[2] == "resolve":
            self._file(kind, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._refuse("EntryNotFound")

    do_HEAD = do_POST = do_GET

    def _repository(self, kind: str, name: str, revision: str) -> Files | None:
        """The files of a repository at a revision; None after the refusal was sent."""
        files = self.repositories.get(kind, {}).get(name)
        if files is None:
            self._refuse("RepoNotFound")
        elif revision not in ("main", self._commit(name, files)):
            self._refuse("RevisionNotFound")
        else:
            return files
        return None

    def _api(self, kind: str, name: str, rest: list[str]) -> None:
        asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        files = self._repository(kind, name, rest[1] if len(rest) > 1 else "main")
        if files is None:
            return
        if not rest or rest[0] == "revision":
            siblings = [{"rfilename": path} for path in files]
            found = {"id": name, "sha": self._commit(name, files), "siblings": siblings, "private": False, "tags": []}
            self._json(found | {"downloads": 0, "likes": 0, "gated": False, "disabled": False})
        elif rest[0] == "tree":
            self._json(self._below(files, "/".join(rest[2:]), "recursive=true" in self.path.lower()))
        elif rest[0] == "paths-info":
            paths = json.loads(asked)["paths"] if asked.startswith(b"{") else []
            whole = self._below(files, "", True)
            self._json([entry for entry in whole if entry["path"] in paths])
        else:
            self._refuse("EntryNotFound")

    @staticmethod
    def _below(files: Files, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """The entries of a folder."""
        prefix = f"{folder}/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for path, content in files.items():
            if not path.startswith(prefix):
                continue
            parents = [path[:at] for at, letter in enumerate(path) if letter == "/" and at >= len(prefix)]
            for parent in parents if recursive else parents[:1]:
                found[parent] = {"type": "directory", "path": parent, "oid": "0" * 40, "size": 0}
            if recursive or not parents:
                oid = hashlib.sha1(content).hexdigest()
                found[path] = {"type": "file", "path": path, "oid": oid, "size": len(content)}
        return list(found.values())

    def _file(self, kind: str, name: str, revision: str, path: str) -> None:
        files = self._repository(kind, name, revision)
        if files is None:
            return
        if path not in files:
            self._refuse("EntryNotFound")
            return
        tag = hashlib.sha1(files[path]).hexdigest()
        commit = self._commit(name, files)
        self._send(200, files[path], {"ETag": f'"{tag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"})

    def _commit(self, name: str, files: Files) -> str:
        return self.commits.get(name) or commit_of(files)

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refuse(self, code: str) -> None:
        self._send(404, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.requests.append(f"{self.command} {self.path} {status}")
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal; `requests` has it all."""
