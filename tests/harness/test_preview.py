"""`--cfg job` shows the size that will run, solved or not."""

import pytest

from harness import preview


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method=increlora", "budget.max_adapter_params=20000"], "method.target_rank=3, method.add_rank=2"),
        (["method=lora", "budget.max_adapter_params=10"], "allow at least 5,376"),
        (["method=adalora", "task=glue/rte"], None),  # a size of the paper's stands in the configuration
        (["method=bitfit", "budget.max_adapter_params=10000"], None),
        (["method=of_their_own", "budget.max_adapter_params=10"], None),
    ],
)
def test_solved(words, says):
    lines = preview.solved([*words, "--cfg", "job", "--config-dir", "theirs"])
    assert (not lines) if says is None else (len(lines) == 1 and lines[0].startswith("# budget: ") and says in lines[0])


@pytest.mark.parametrize(
    ("words", "yes"),
    [("--cfg job", True), ("-c all", True), ("--cfg=job", True), ("--cfg hydra", False), ("method=lora", False)],
)
def test_asked(words, yes):
    assert preview.asked(["seed=1", *words.split()]) is yes
