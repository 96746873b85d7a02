"""One program a length, as CUDA graphs need it: which shapes are compiled, and that numbers stay. No GPU is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness import compose, execution, feed, run
from harness.errors import ConfigError

SHORT = [
    "method=lora", "train.max_steps=12", "train.batch_size=8", "train.evaluate_every_epochs=1", "data.max_train_rows=34",
    "data.max_eval_rows=16", "progress=false", "wandb.mode=disabled", "threads=1", "preflight.enabled=false",
    "+model.config.hidden_dropout_prob=0", "+model.config.attention_probs_dropout_prob=0",
]  # fmt: skip


def plan(root: Path, *words: str) -> run.Plan:
    return run.plan(compose.composed([*SHORT, *words, f"results.root={root}"]))


@pytest.mark.parametrize("model", ["demo_deberta", "demo_roberta"])
def test_every_length_is_one_program_and_evaluation_none(model, tmp_path, monkeypatch):
    shapes: list[tuple[int, ...]] = []

    def backend(graph: Any, inputs: list[Any]) -> Any:
        ids, *_ = (one for one in inputs if isinstance(one, torch.Tensor) and one.dtype == torch.int64)
        shapes.append(tuple(ids.shape))
        return graph.forward

    plain = run.run(plan(tmp_path / "plain", f"model={model}"))
    monkeypatch.setattr(feed, "GRAPH_TOKENS", 4)
    monkeypatch.setattr(execution, "capture_forward", lambda model: execution.one_program_a_length(
        execution.unwrapped(model), backend=backend))  # fmt: skip
    torch._dynamo.reset()
    found = run.run(plan(tmp_path / "graphs", f"model={model}", "train.cuda_graphs=true"))
    assert found.science["losses"] == pytest.approx(plain.science["losses"], abs=1e-5)
    assert found.science["scores"] == plain.science["scores"]
    longest = max(length for _, length in shapes)
    assert len(shapes) == len(set(shapes)) > 1  # each length once and whole; an epoch's last two rows never
    assert all(rows == 8 and (length % 4 == 0 or length == longest) for rows, length in shapes)


def test_graphs_without_a_gpu_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"train.cuda_graphs=true needs a GPU, and this run is on the cpu"):
        run.run(plan(tmp_path, "train.cuda_graphs=true", "device=cpu"))


@pytest.mark.parametrize("other", ["compile", "cuda_graphs"])
def test_compiled_programs_do_not_look_features_up(other):
    with pytest.raises(ConfigError, match=rf"which train.{other}=true cannot make part of a program"):
        compose.composed(["method=head", "train.cache_features=true", f"train.{other}=true"])
