"""scripts/fetch.py: from a hub that has a .bin alone to a directory of safetensors; hashes pinned; a pickle runs nothing."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub import Hub, binary_only, commit_of
from safetensors.torch import load_file

from harness import compose, directory
from harness.errors import ModelError
from harness.paths import embedded

ROOT = Path(__file__).parents[2]
BACKBONE = embedded("embedded:backbones/deberta")


def fetch(*words, **environment):
    return subprocess.run([sys.executable, "-m", "scripts.fetch", *words], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | environment, timeout=120)  # fmt: skip


@pytest.fixture
def convert(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import fetch as script

    yield script.convert
    sys.modules.pop("fetch")


def test_a_bin_of_the_hub_becomes_safetensors(tmp_path):
    files = binary_only(BACKBONE)
    revision = "8ccc9b6f36199bec6961081d44eb72fb3f7353f3"
    with Hub(models={"microsoft/deberta-v3-base": files}, commits={"microsoft/deberta-v3-base": revision}) as hub:
        there = hub.environment(tmp_path / "cache")
        done = fetch("model=deberta_v3_base", "-o", str(tmp_path / "safe"), **there)
        assert done.returncode == 0, done.stderr
        other = fetch("model=deberta_v3_base", "-o", str(tmp_path / "other"), "--sha256", "0" * 64, **there)
    assert "pytorch_model.bin " in done.stdout and "model.sha256" in done.stdout
    assert other.returncode == 2 and not (tmp_path / "other").exists()
    assert "model.sha256 pins (000" in other.stderr and "Traceback" not in other.stderr
    safe, plain = load_file(tmp_path / "safe" / "model.safetensors"), load_file(BACKBONE / "model.safetensors")
    assert safe.keys() == plain.keys() and all(torch.equal(safe[name], plain[name]) for name in plain)
    assert not list((tmp_path / "safe").glob("*.bin"))
    assert commit_of(files) != revision, "the hub was asked for the pinned revision"


def test_a_pickle_runs_nothing(convert, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Evil()}))
    with pytest.raises(ModelError, match="holds more than tensors"):
        convert(source, tmp_path / "target")
    torch.save({"weight": Evil()}, source / "pytorch_model.bin")
    with pytest.raises(ModelError, match="holds more than tensors"):
        convert(source, tmp_path / "target")
    assert not (tmp_path / "ran").exists()


def test_the_pin_of_a_yaml_is_checked_before_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.snapshot.snapshot", lambda hub_id, revision: BACKBONE)
    spec = compose.composed(["model=deberta_v3_base", f"model.sha256={'0' * 64}"]).model
    with pytest.raises(ModelError, match=r"not those that model\.sha256 pins .*model\.safetensors [0-9a-f]{64}"):
        directory.locate(spec)
    spec.sha256 = directory.file_sha256(BACKBONE / "model.safetensors")
    assert directory.locate(spec) == BACKBONE
