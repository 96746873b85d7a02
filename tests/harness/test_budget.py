"""Levels give the papers' sizes, counted to the integer on the papers' backbones; any ceiling is solved for."""

from functools import cache
from types import SimpleNamespace

import pytest
import torch
import yaml
from specs import composed

import methods  # noqa: F401  (makes peft know the methods)
from harness import budget, directory, level, model, rows, run
from harness.errors import ConfigError
from harness.paths import embedded

torch.set_num_threads(1)
CLASSES = SimpleNamespace(kind="classification", labels=("no", "yes"))
TEXT = SimpleNamespace(kind="generation", labels=())
LEVELS = ("0.3M", "0.6M", "1.2M")
PERCENT = ("0.13pct", "0.26pct", "1.1pct", "2.2pct")
TASKS = ["rte", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "cola"]
# specs of the papers: what each backbone has, and what each method trains on it, computed by hand from its dimensions
TOTALS = {
    "deberta_v3_base": 184_423_682,
    "roberta_base": 124_647_170,
    "bart_large": 406_291_456,
    "t5_base": 222_903_552,
}
UNIT_RANK = {"deberta_v3_base": 165_888, "bart_large": 540_672}  # sum of d1 + d2 over the adapted matrices


@cache
def backbone(name):
    """A backbone's model section, its network without weights, and a task that suits it."""
    words = [f"model={name}", "model.init=random"]
    words += ["task=demo/summarization"] if name.startswith(("bart", "t5")) else ["task=demo/entailment"]
    spec = composed(*words).model
    task = TEXT if name.startswith(("bart", "t5")) else CLASSES
    return spec, model.skeleton(spec, directory.locate(spec), task), task


COUNTED = {}


def counted(name, method, **arguments):
    """(parameters at uniform allocation, at most) of a method on a backbone."""
    key = (name, method, str(sorted(arguments.items())))
    if key not in COUNTED:
        COUNTED[key] = _counted(name, method, arguments)
    return COUNTED[key]


def _counted(name, method, arguments):
    spec, network, task = backbone(name)
    words = [f"model={name}", "task=demo/summarization" if task is TEXT else "task=demo/entailment"]
    section = composed(f"method={method}", "~recipe", "~level", *words).method | arguments
    return budget.planned(budget._attached(network, section, spec, task))


@pytest.mark.parametrize("name", TOTALS)
def test_backbones_have_the_published_number_of_parameters(name):
    assert sum(parameter.numel() for parameter in backbone(name)[1].parameters()) == TOTALS[name]


def all_sizes():
    for row in level.sizes():
        for method in rows.patterns(row, "method"):
            if "params" in row:
                yield pytest.param(row, method, id=f"{row['budget']}-{method}-{row.get('counted', row['model'])}")


@pytest.mark.parametrize(("row", "method"), all_sizes())
def test_every_size_counts_what_its_row_says(row, method):
    name = row.get("counted", row["model"])
    arguments = {key.removeprefix("method."): value for key, value in row["set"].items()}
    assert counted(name, method, **arguments)[0] == row["params"]
    agrees_or_says_why(row, row["params"], TOTALS[name])


@pytest.mark.parametrize("row", level.counts(), ids=lambda row: f"{row['method']}-{row['model']}-{row['params']}")
def test_every_other_count_is_what_its_row_says(row):
    assert counted(row["model"], row["method"], **row.get("arguments", {}))[0] == row["params"]
    agrees_or_says_why(row, row["params"], TOTALS[row["model"]])
    if "published_bits" in row:
        share = 100 * row["bits"] / row["tasks"] / (32 * TOTALS[row["model"]])
        assert round(share, 3) == row["published_bits"]


def agrees_or_says_why(row, params, total):
    """The paper's number is ours rounded as it prints, or the row has a reason."""
    if "published" not in row:
        return
    if row.get("unit") == "percent_of_model":
        share = 100 * params / total / row.get("tasks", 1)
        same = round(share, 3 if "tasks" in row else 2) == row["published"]
    else:
        digits = 1 if row["published"] == 0.1e6 else 2
        same = round(params / 1e6, digits) == row["published"] / 1e6
    assert same or row.get("reason"), row
    assert not same or "not reproduced" not in row.get("reason", ""), "this one is reproduced"


def test_the_integers_of_the_papers():
    """Typed here once more, from the dimensions, so that the data above cannot drift."""
    deberta, bart = UNIT_RANK["deberta_v3_base"], UNIT_RANK["bart_large"]
    for rank in (2, 4, 8):
        assert counted("deberta_v3_base", "lora", r=rank) == (rank * deberta, rank * deberta)
        assert counted("roberta_base", "lora", r=rank) == (rank * deberta, rank * deberta)
    for rank in (1, 2, 8, 16):
        assert counted("bart_large", "lora", r=rank)[0] == rank * bart
    for width in (8, 16, 32):
        assert counted("deberta_v3_base", "houlsby", bottleneck_size=width)[0] == 24 * (2 * 768 * width + width + 768)
    for width in (16, 32, 64):
        assert counted("deberta_v3_base", "pfeiffer", bottleneck_size=width)[0] == 12 * (2 * 768 * width + width + 768)
    assert counted("deberta_v3_base", "bitfit")[0] == 12 * 8_448 + 2 * 768 == 102_912
    # singular values apart, as the paper counts: at uniform allocation, and at most
    assert [n - 72 * 2 for n in counted("deberta_v3_base", "adalora", init_rank=4, target_rank=2)] == [331_776, 442_368]
    assert [n - 72 * 8 for n in counted("deberta_v3_base", "adalora", init_rank=12, target_rank=8)] == [
        1_327_104, 1_548_288,
    ]  # fmt: skip
    assert counted("deberta_v3_base", "increlora", target_rank=2)[0] == 331_920
    assert counted("deberta_v3_base", "increlora", target_rank=8)[0] == 1_327_680
    assert counted("t5_base", "propetl", bottleneck_size=64, tasks=TASKS)[0] == 99_136 + 32 * 98_304
    assert counted("t5_base", "pfeiffer", bottleneck_size=6)[0] == 24 * 9_990


def test_an_adapter_and_head_are_counted_apart():
    spec, network, task = backbone("deberta_v3_base")
    found = model.count(budget._attached(network, composed("method=lora", "method.r=2").method
                                         | {"target_modules": spec.sites["linears"]}, spec, task), None)  # fmt: skip
    assert (found.adapter, found.head) == (331_776, 592_130)


# --- levels, composed ------------------------------------------------------------------------------------------------

WANTED = {  # AdaLoRA, table 7; IncreLoRA's scripts
    "houlsby": [{"bottleneck_size": size} for size in (8, 16, 32)],
    "pfeiffer": [{"bottleneck_size": size} for size in (16, 32, 64)],
    "lora": [{"r": rank} for rank in (2, 4, 8)],
    "adalora": [{"init_rank": first, "target_rank": last} for first, last in ((4, 2), (6, 4), (12, 8))],
    "increlora": [{"target_rank": rank, "add_rank": rank // 2} for rank in (2, 4, 8)],
}


@pytest.mark.parametrize("method", WANTED)
def test_a_level_gives_each_method_the_papers_size(method):
    for name, wanted in zip(LEVELS, WANTED[method], strict=True):
        found = composed("task=glue/rte", f"method={method}", f"budget={name}", "~recipe")
        assert {key: found.method[key] for key in wanted} == wanted
        assert found.budget.name == name and found.budget.sized
        assert budget.solve(found.budget, found.method, found.model, None, None) == (found.method, [])


def test_the_percentages_of_bart():
    for name, rank, first in zip(PERCENT, (1, 2, 8, 16), (2, 4, 12, 24), strict=True):
        words = ["task=demo/summarization", "model=bart_large", f"budget={name}", "~recipe"]
        assert composed("method=lora", *words).method["r"] == rank
        found = composed("method=adalora", *words).method
        assert (found["target_rank"], found["init_rank"]) == (rank, first)


def test_propetls_widths_are_levels():
    for name, width in (("bn64", 64), ("bn6", 6), ("bn96", 96), ("bn768", 768)):
        for method in ("propetl", "pfeiffer", "houlsby"):
            run = {"method": method, "model": "t5_base", "budget": name, "task": "propetl/rte"}
            assert level.values(run)["method.bottleneck_size"] == width
    assert composed("method=pfeiffer", "budget=bn6").method["bottleneck_size"] == 6


@pytest.mark.parametrize("method", WANTED)
def test_glue_on_deberta_starts_at_the_smallest_level(method):
    by_default = composed("task=glue/rte", f"method={method}")
    assert by_default.budget.name == "0.3M"
    assert by_default == composed("task=glue/rte", f"method={method}", "budget=0.3M")
    for model_name, task in (("roberta_large", "glue/rte"), ("demo_deberta", "demo/entailment")):
        run = {"method": method, "model": model_name, "budget": "default", "task": task}
        assert level.values(run) == {}, "elsewhere the YAML's own size"


def test_the_command_line_wins_over_a_level():
    assert composed("task=glue/rte", "method=lora", "budget=0.3M", "method.r=5").method["r"] == 5


def test_methods_without_a_size_run_at_any_level():
    for method in ("bitfit", "full", "ia3"):
        found = composed(f"method={method}", "budget=0.3M")
        assert budget.solve(found.budget, found.method, found.model, None, None) == (found.method, [])


# --- ceilings, solved ------------------------------------------------------------------------------------------------


def solved(method, *words, name="demo_deberta"):
    found = composed(f"method={method}", f"model={name}", *words)
    return budget.solve(found.budget, found.method, found.model, embedded(found.model.path), CLASSES)


SIZED = ("lora", "qlora", "adalora", "increlora", "houlsby", "pfeiffer", "prefix", "propetl")


@pytest.mark.parametrize("method", SIZED)
def test_any_ceiling_gives_the_largest_size_that_fits(method, name="demo_roberta"):
    found = composed(f"method={method}", f"model={name}")
    network = model.skeleton(found.model, embedded(found.model.path), CLASSES)

    def trained(section):
        return budget.planned(budget._attached(network, section, found.model, CLASSES))[0]

    smallest = trained(budget.at(found.method, 1))
    for ceiling in (smallest, 40_000 + smallest):
        section, told = solved(method, f"budget.max_adapter_params={ceiling}", name=name)
        size = next(section[field] for field, share in section["size"].items() if share == 1)
        assert trained(section) <= ceiling < trained(budget.at(found.method, size + 1))
        assert f"size solved for {ceiling:,} parameters" in told[0]
        assert ("at most" in told[0]) == (method == "adalora" or (method == "increlora" and size > 1))
    with pytest.raises(ConfigError, match=rf"smallest size \(.*\) trains {smallest:,}.*allow at least {smallest:,}"):
        solved(method, f"budget.max_adapter_params={smallest - 1}", name=name)


def test_no_size_is_above_the_rank_of_a_matrix():
    section, _ = solved("lora", "budget.max_adapter_params=1000000000")
    found = composed("method=lora", f"method.r={section['r'] + 1}")
    network = model.skeleton(found.model, embedded(found.model.path), CLASSES)
    with pytest.raises(
        ConfigError, match=rf"method.r={section['r'] + 1} is above the rank of .*{section['r']} at most"
    ):
        model.method_config(found.method, found.model, "classification", network)


@pytest.mark.parametrize(
    ("method", "words"),
    [("lora", ["method.r=4096"]), ("qlora", ["method.r=4096"]), ("adalora", ["method.init_rank=4096"]),
     ("increlora", ["method.target_rank=4096", "method.add_rank=1"]), ("adalora_peft", ["method.init_r=4096"])],
)  # fmt: skip
def test_a_rank_above_the_matrix_is_one_message(method, words):
    found = composed(f"method={method}", *words)
    network = model.skeleton(found.model, embedded(found.model.path), CLASSES)
    with pytest.raises(ConfigError, match=r"4096 is above the rank of .* it can be \d+ at most"):
        budget._attached(network, found.method, found.model, CLASSES)


@pytest.mark.parametrize(
    ("method", "word", "says"),
    [("adalora", "alpha=much", "alpha=much must be a number"), ("lora", "r=2.5", "r=2.5 must be a whole number"),
     ("lora", "r=many", "r=many must be a whole number"), ("propetl", "keep=true", "keep=True must be a number"),
     ("houlsby", "skip_layers=all", "skip_layers=all must be a list or null"),
     ("adalora", "warmup_steps=none", "warmup_steps=none must be a whole number or null")],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_one_message(method, word, says):
    """By the configuration's own class; some are refused before it is known, when they are composed."""
    found, (key, _, value) = composed(f"method={method}"), word.partition("=")
    given = found.method | {key: yaml.safe_load(value)}
    network = model.skeleton(found.model, embedded(found.model.path), CLASSES)
    with pytest.raises(ConfigError, match=rf"^method.{says}$"):
        model.method_config(given, found.model, "classification", network)


@pytest.mark.parametrize("method", ["lora", "ia3", "adalora", "adalora_peft"])
def test_targets_that_match_nothing_are_one_message(method):
    found = composed(f"method={method}", "method.target_modules=[nothing]")
    network = model.skeleton(found.model, embedded(found.model.path), CLASSES)
    with pytest.raises(
        ConfigError, match=r"nothing.* matches no module of Deb.*; its linear layers are called .*query"
    ):
        budget._attached(network, found.method, found.model, CLASSES)


def test_a_level_is_a_ceiling_on_other_backbones_and_for_other_methods():
    section, told = solved("lora", "budget=0.3M", name="demo_deberta")
    assert section["r"] > 2 and "331,776" in told[0]
    with pytest.raises(ConfigError, match=r"budget=bn64 says no size for method lora, only for .*pfeiffer"):
        solved("lora", "budget=bn64")
    found = composed("method=lora", "model=demo_bart", "task=demo/summarization", "budget=2.2pct")
    section, told = budget.solve(found.budget, found.method, found.model, embedded(found.model.path), TEXT)
    total = sum(p.numel() for p in model.skeleton(found.model, embedded(found.model.path), TEXT).parameters())
    assert f"{int(total * 2.1293 / 100):,}" in told[0]


def test_what_a_method_without_a_size_trains_is_held_to_a_ceiling(tmp_path):
    words = ["method=full", "budget.max_adapter_params=100", f"results.root={tmp_path}", "progress=false"]
    with pytest.raises(ConfigError, match=r"method full trains .*and has no size to choose"):
        run.run(run.plan(composed(*words, "data.max_train_rows=32", "data.max_eval_rows=8")))


def test_a_solved_run_says_so(tmp_path):
    words = ["method=adalora", "budget.max_adapter_params=40000", f"results.root={tmp_path}", "progress=false"]
    words += ["data.max_train_rows=64", "data.max_eval_rows=8", "train.max_steps=20", "device=cpu"]
    made = run.run(run.plan(composed(*words)))
    params = made.science["params"]
    assert params["planned"] <= 40_000 < params["planned_at_most"]
    assert any("at uniform allocation" in told and f"{params['planned']:,}" in told for told in made.remarks)
    assert params["adapter"] > params["planned"], "allocated is more than what will be left"
    assert params["active"] <= params["planned_at_most"]
