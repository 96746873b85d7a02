"""Two processes that train together, forked from this one: nothing is imported again, so a test costs little."""

import json
import os
import socket
import sys
import traceback

import torch

from harness.distributed import joined


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def together(work, folder, size=2):
    """`work(group)` in each of `size` processes; what each returned (JSON), or {"raised": type, "said": message}."""
    port, children = free_port(), []
    for rank in range(size):
        pid = os.fork()
        if pid == 0:
            _child(work, folder / f"answer.{rank}.json", rank, size, port)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    return [json.loads((folder / f"answer.{rank}.json").read_text()) for rank in range(size)]


def _child(work, answer, rank, size, port):
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    try:
        with joined("cpu") as group:
            found = work(group)
    except BaseException as error:  # noqa: BLE001 - an exception is an answer too
        found = {"raised": type(error).__name__, "said": str(error), "state": getattr(error, "state", None)}
        if os.environ.get("SHOW"):
            traceback.print_exc(file=sys.stderr)
    answer.write_text(json.dumps(found))
    os._exit(0)
