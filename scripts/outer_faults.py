"""Faults around a run: killed while it trains, files spoilt, a cache that two processes write, a hub that does not answer."""

from __future__ import annotations

import io
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

import torch
from store_faults import Counts, child, ended, forked, life

from harness import record, skim
from harness.checkpoint import Checkpoints
from harness.errors import RecordError
from harness.record import DONE, Record

SHORT = ["train.max_steps=6", "data.max_train_rows=96", "data.max_eval_rows=40", "progress=false", "device=cpu",
         "results.checkpoint_seconds=0", "results.heartbeat_seconds=1", "wandb.mode=disabled"]  # fmt: skip


def short_run(at: Path) -> Callable[[], None]:
    """A whole short run into a store, a checkpoint after every update."""
    from harness import compose, run

    def made() -> None:
        run.run(run.plan(compose.composed([*SHORT, f"results.root={at}"])))

    return made


def science(at: Path) -> Any:
    """The scientific part of the only run of a store; None unless it is done."""
    stored = [one for one in record.read_all(at) if isinstance(one, Record)]
    return stored[0].science if len(stored) == 1 and stored[0].state == DONE else None


def killed_runs(at: Path, tries: int) -> Counts:
    """Killed at a random moment of a short run and started again: the science of one that nobody disturbed."""
    os.environ["HARNESS_CACHE"] = str(at / "cache")
    chance, survived = random.Random(0), 0
    child(short_run(at / "first"))  # fills the cache
    began = time.monotonic()
    child(short_run(at / "whole"))
    took, expected = time.monotonic() - began, science(at / "whole")
    for number in range(tries):
        made = short_run(at / str(number))
        child(made, chance.random() * took)
        survived += child(made) and expected is not None and science(at / str(number)) == expected
    return tries, survived, tries - survived


def broken_records(at: Path) -> Counts:
    """Cut off at every place, garbled, foreign, newer: named with its file, and the record beside it is still read."""
    life(at / "good")
    life(at / "bad")
    data = (at / "bad" / "record.json").read_bytes()
    chance = random.Random(0)
    spoilt = [data[:end] for end in range(0, len(data) - 2, 9)]
    for _ in range(100):
        at_byte = chance.randrange(len(data))
        spoilt.append(data[:at_byte] + chance.randbytes(6) + data[at_byte + 6 :])
    spoilt += [b"{}", b"[]", b"null", b'{"schema": 99}', b"\x00" * 40, b"PAR1", data.replace(b'"demo.run"', b'"../x"')]
    survived = 0
    for content in spoilt:
        (at / "bad" / "record.json").write_bytes(content)
        with suppress(RecordError):
            skim.read(at / "bad")
        found = list(record.read_all(at))
        survived += any(isinstance(one, Record) and one.state == DONE for one in found) and len(found) >= 1
    return len(spoilt), survived, len(spoilt) - survived


def cut_checkpoints(at: Path) -> Counts:
    """The newest checkpoint cut off in the middle: the one before it is used, or none, never a wrong one."""
    tries = survived = 0
    for part in range(20):
        folder = at / f"{part}"
        kept = Checkpoints(folder, "key", 0.0)
        for step in (1, 2):
            kept.save({"step": step, "weights": torch.full((50,), float(step))})
        newest = max(
            (path for path in folder.rglob("*") if path.is_file()),
            key=lambda path: (path.stat().st_mtime_ns, path.name),
        )
        newest.write_bytes(newest.read_bytes()[: newest.stat().st_size * part // 20])
        with redirect_stderr(io.StringIO()):
            found = Checkpoints(folder, "key", 0.0).load()
        tries += 1
        survived += found is not None and found["step"] == 1 and found["weights"].tolist() == [1.0] * 50
    return tries, survived, tries - survived


def shared_cache(at: Path, tries: int) -> Counts:
    """Two processes write one file of tokenised rows at once: both get the same, and so does a third."""
    import transformers

    from harness.paths import embedded
    from harness.splits import Split
    from harness.tokens import Tokens

    os.environ["HARNESS_CACHE"] = str(at)
    tokenizer = transformers.AutoTokenizer.from_pretrained(embedded("embedded:backbones/deberta"))
    lengths = {"kind": "classification", "max_length_tokens": 32, "max_target_tokens": 8}
    survived = 0
    for number in range(tries):
        texts = [f"row {number} {place}" for place in range(300)]
        split = Split([str(place) for place in range(300)], texts, None, [0] * 300)
        expected = [list(row) for row in Tokens(tokenizer).encode(split, **lengths).input_ids]  # type: ignore[arg-type]
        shutil.rmtree(at / "tokens", ignore_errors=True)

        def same(split: Split = split, expected: list[Any] = expected) -> None:
            found = Tokens(tokenizer).encode(split, **lengths)  # type: ignore[arg-type]
            if [list(row) for row in found.input_ids] != expected:
                os._exit(1)

        codes = [ended(pid) for pid in (forked(same), forked(same))]
        survived += codes == [0, 0] and child(same)
    return tries, survived, tries - survived


PAGE = b"Content-Type: text/html\r\nContent-Length: 18\r\n\r\n<html>oops</html>\n"
PAGES = {
    "hangs": None,
    "error page": b"HTTP/1.1 500 Internal Server Error\r\n" + PAGE,
    "a page in place of an answer": b"HTTP/1.1 200 OK\r\n" + PAGE,
    "slowly": b"HTTP/1.1 503 Service Unavailable\r\n" + PAGE,
    "cut off": b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n{",
    "no HTTP": b"\x00\x01\x02",
    "refused": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
}
LIMIT = 150  # seconds until a command has to say that the hub does not answer


def hubs(at: Path) -> Counts:
    """A hub that hangs or answers slowly or nonsense: one message, exit code 2, in time, an empty store; data and model."""
    survived = tries = 0
    for name, page in PAGES.items():
        for asked in ("model=deberta_v3_base", "task=glue/rte"):
            tries += 1
            good = _answered(at, asked, page, 0.25 if name == "slowly" else 0.0)
            survived += good
            if not good:
                print(f"  {name}, {asked}", file=sys.stderr)
    return tries, survived, 0


def _answered(at: Path, asked: str, page: bytes | None, seconds: float) -> bool:
    """Whether a command ends well with a hub that says `page`, `seconds` between any two bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server, page, seconds), daemon=True).start()
        env = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}", "HF_HUB_OFFLINE": "0",
                            "HF_HOME": str(at / "home"), "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
        words = [sys.executable, "-m", "harness", asked, f"results.root={at / 'runs'}"]
        try:
            done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=LIMIT, check=False)
        except subprocess.TimeoutExpired:
            return False
    good = done.returncode == 2 and "Traceback" not in done.stderr and "error: " in done.stderr
    if not good:
        print(done.returncode, done.stderr[-600:], file=sys.stderr)
    return good and not (at / "runs").exists()


def _serve(server: socket.socket, page: bytes | None, seconds: float) -> None:
    """Take every connection, and say the page or nothing."""
    held = []
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            held.append(connection)
            if page is not None:
                threading.Thread(target=_say, args=(connection, page, seconds), daemon=True).start()


def _say(connection: socket.socket, page: bytes, seconds: float) -> None:
    with suppress(OSError), connection:
        connection.recv(4096)
        for piece in [page] if not seconds else [page[at : at + 1] for at in range(len(page))]:
            connection.sendall(piece)
            time.sleep(seconds)
