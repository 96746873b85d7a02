"""Secrets planted in all that a record holds are in no file of the store."""

import os
import platform
from dataclasses import asdict

import pytest

from harness import publish, record, scrub
from harness.errors import RecordError
from harness.record import FAILED, RUNNING, Record

PLANTED = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "HF_TOKEN": "planted-hub-token",
    "MY_SERVICE_PASSWORD": "correct horse battery",
}
ALSO = ["hf_" + "a" * 34, "https://user:hunter22@proxy.example/x", "ghp_" + "b" * 36]


def test_no_secret_reaches_the_store(tmp_path, monkeypatch):
    home = "/home/somebody"
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(platform, "node", lambda: "node17-secret")
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    text = " ".join([*PLANTED.values(), *ALSO, f"{home}/data/x.tsv", "on node17-secret:80"])
    begun = Record(
        "a.run", RUNNING, {"seed": 0, "note": text}, {"data": {"root": f"{home}/data"}, "x": [text, {"y": text}]}, {"note": text},
        cost={text: 1}, provenance={"command": [text]}, remarks=[text],
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    with pytest.raises(ZeroDivisionError), publish.failures(tmp_path / "run", begun):
        raise ZeroDivisionError(text)
    kept = b"".join(path.read_bytes() for path in (tmp_path / "run").iterdir()).decode()
    for secret in [*PLANTED.values(), ALSO[0], "hunter22", ALSO[2], home, "node17"]:
        assert secret not in kept, secret
    stored = record.read(tmp_path / "run")
    assert stored.state == FAILED and stored.config["data"]["root"] == "~/data" and scrub.GONE in stored.error
    assert len(list((tmp_path / "run").iterdir())) == 2, "the record and the log, both looked at"


def test_words_and_numbers_stay(monkeypatch):
    monkeypatch.setenv("HOME", "/root")
    monkeypatch.setenv("A_KEY", "short")
    same = {"a": ["/rooted/x", "short", 1.5, None, True], "path": "/srv/root/x", "sha": "ab" * 32}
    assert scrub.scrubbed(same) == same
    assert scrub.scrubbed("/root/x /root") == "~/x ~"
    assert os.environ["A_KEY"] == "short"


def test_a_machine_of_a_short_name(monkeypatch):
    """Taken out of sentences; where the same letters are one of our words they stay."""
    monkeypatch.setattr(platform, "node", lambda: "pc")
    assert scrub.scrubbed("Connection to pc:80 by me@pc failed on pc.") == (
        "Connection to [host]:80 by me@[host] failed on [host]."
    )
    same = {"pc": "pc", "a/pc": "pc/b", "pcs": "a-pc-b"}
    assert scrub.scrubbed(same) == same
    monkeypatch.setattr(platform, "node", lambda: "node17")
    assert scrub.scrubbed({"at": "node17", "path": "/net/node17/x"}) == {"at": "[host]", "path": "/net/[host]/x"}


@pytest.mark.parametrize(
    "changes",
    [{"id": "../../etc"}, {"id": "a/b"}, {"id": ".hidden"}, {"id": 7}, {"id": "a\nb"},
     {"science": {"predictions": {"test": {"file": "../other/predictions.parquet"}}}},
     {"science": {"predictions": {"test": {"file": "/etc/passwd"}}}}, {"science": {"predictions": {"test": 3}}},
     {"science": {"main": {"split": "../x", "metric": "", "score": 1.0}}}],
)  # fmt: skip
def test_a_record_leads_nowhere_else(tmp_path, changes):
    plain = asdict(Record("a.run", FAILED, {}, {}, {}))
    record.atomic.write(tmp_path / "record.json", record.atomic.to_json(plain | changes))
    with pytest.raises(RecordError, match=r"no run's name|outside its own folder"):
        record.read(tmp_path)
