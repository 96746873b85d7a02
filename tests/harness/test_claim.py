"""Exactly one owner, a living one is respected, a dead one replaced, a stranger's return is fenced off."""

import json
import multiprocessing
import os
import time

import pytest

from harness import atomic, claim, publish, record
from harness.claim import Busy, Claim
from harness.errors import RecordError
from harness.record import DONE, RUNNING, Record

BEAT = 0.05


def foreign(**changes) -> bytes:
    """An owner's file as another host would write it."""
    return atomic.to_json({"token": "t", "host": "elsewhere", "pid": 1, "born": "1", "job": None} | changes)


def test_the_owner_holds_and_gives_up(tmp_path):
    with Claim(tmp_path, BEAT) as mine:
        assert mine.held()
        with pytest.raises(Busy, match="another process"), Claim(tmp_path, BEAT):
            pass
        assert mine.held()
    assert not list(tmp_path.iterdir())


def test_a_silent_owner_elsewhere_is_replaced_without_comparing_clocks(tmp_path):
    (tmp_path / "owner.json").write_bytes(foreign())
    (tmp_path / "heartbeat").write_text("7\n")
    os.utime(tmp_path / "heartbeat", (4e9, 4e9))  # its clock is far ahead: irrelevant
    with Claim(tmp_path, BEAT) as mine:
        assert mine.held()


def test_a_beating_owner_elsewhere_is_respected(tmp_path):
    (tmp_path / "owner.json").write_bytes(foreign())

    def beat():
        for count in range(1000):
            atomic.write(tmp_path / "heartbeat", f"{count}\n".encode())
            time.sleep(BEAT / 2)

    process = multiprocessing.get_context("fork").Process(target=beat)
    process.start()
    try:
        with pytest.raises(Busy), Claim(tmp_path, BEAT):
            pass
    finally:
        process.kill()
        process.join()


def test_a_dead_process_of_this_host_is_replaced_at_once(tmp_path):
    dead = foreign(host=claim._host(), pid=os.getpid(), born="before this process")
    (tmp_path / "owner.json").write_bytes(dead)
    began = time.monotonic()
    with Claim(tmp_path, 10):
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": 3}', b"\xff\xfe"])
def test_a_garbled_owner_is_replaced(tmp_path, content):
    (tmp_path / "owner.json").write_bytes(content)
    with Claim(tmp_path, BEAT) as mine:
        assert mine.held()


def test_who_lost_the_run_cannot_publish(tmp_path):
    with Claim(tmp_path, BEAT) as mine:
        (tmp_path / "owner.json").write_bytes(foreign())
        with pytest.raises(RecordError, match="taken over"):
            publish.publish(tmp_path, Record("x", DONE, {}, {}, {}), mine.held)
    assert record.read(tmp_path) is None
    assert json.loads((tmp_path / "owner.json").read_text())["host"] == "elsewhere", "the successor's claim stays"


def _contend(folder, start, won, enough):
    start.wait()
    try:
        with Claim(folder, 5):
            won.put(os.getpid())
            enough.wait()  # hold it until every contender has had its answer
    except Busy:
        won.put(None)


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_contenders_one_wins(tmp_path, stale):
    fork = multiprocessing.get_context("fork")
    for trial in range(5):
        folder = tmp_path / str(trial)
        folder.mkdir()
        if stale:
            (folder / "owner.json").write_bytes(foreign(host=claim._host(), pid=os.getpid(), born="gone"))
        start, enough, won = fork.Event(), fork.Event(), fork.Queue()
        processes = [fork.Process(target=_contend, args=(folder, start, won, enough)) for _ in range(6)]
        for process in processes:
            process.start()
        start.set()
        answers = [won.get(timeout=60) for _ in processes]
        enough.set()
        for process in processes:
            process.join()
        assert sum(answer is not None for answer in answers) == 1


def test_a_store_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RecordError, match=r"results\.root"), Claim(tmp_path / "file" / "run", BEAT):
        pass


def test_running_state_is_not_done(tmp_path):
    record.write(tmp_path, Record("x", RUNNING, {}, {}, {}))
    assert record.read(tmp_path).state == RUNNING
