"""The papers' tables of hyper-parameters, typed here once more, against what composes; every value has a source."""

import math
from functools import cache

import pytest
from omegaconf import OmegaConf
from specs import composed

from harness import compose, level, published, recipe, rows
from harness.errors import ConfigError
from harness.paths import CONF
from harness.remarks import unpublished

DEBERTA = "deberta_v3_base"
# AdaLoRA, table 8 and scripts: learning rate, epochs, T, gamma, t_i, Delta_T, t_f, warm-up (steps, or a ratio below 1),
# longest input, alpha, cls_dropout, weight decay. Of values that differ: (script, paper).
ADALORA = {
    "mnli": (5e-4, 7, 85_904, 0.1, 8000, 100, 50000, 1000, 256, 16, 0.15, 0),
    "rte": (1.2e-3, 50, 3_900, 0.3, 600, 1, 1800, 200, 320, 32, 0.20, 0.01),
    "qnli": ((5e-4, 1.2e-3), 5, 16_370, 0.1, 2000, 100, 8000, 500, 512, 32, 0.10, 0.01),
    "mrpc": (1e-3, 30, 3_450, 0.1, 600, 1, 1800, 0.1, 320, 32, 0, 0.01),
    "qqp": ((8e-4, 5e-4), 5, 56_855, 0.1, 8000, 100, 25000, 2000, 320, 16, 0.15, 0.01),
    "sst2": (8e-4, 24, 50_520, 0.1, 6000, 100, 22000, 1000, 128, 16, 0, 0.01),
    "cola": ((8e-4, 5e-4), 25, 6_700, (0.1, 0.5), 800, 10, 3500, 100, 64, 32, 0.10, 0),
    "stsb": (2.2e-3, 25, 4_500, (0.3, 0.1), 800, 10, 2000, 100, 128, 32, 0.20, 0.1),
}
ADALORA_FIELDS = {
    "adalora": ("orthogonality_weight", "warmup_steps", "interval_steps", "final_steps", "alpha", "dropout"),
    "adalora_peft": ("orth_reg_weight", "tinit", "deltaT", "tfinal", "lora_alpha", "lora_dropout"),
}
VARIANTS = ("script", "paper")


def of(value, variant):
    return value[VARIANTS.index(variant)] if isinstance(value, tuple) else value


def check_common(found):
    """What the fork's Trainer does with every GLUE run."""
    train = found.train
    assert (train.batch_size, train.accumulation_steps, train.optimizer, train.schedule) == (
        32,
        1,
        "adamw_hf",
        "linear",
    )
    assert (train.adam_beta1, train.adam_beta2, train.adam_epsilon, train.clip_norm) == (0.9, 0.999, 1e-8, 1.0)
    assert (train.label_smoothing, train.precision, found.data.buckets) == (0, "float32", False)
    assert found.model.name == DEBERTA


def check_task(found, epochs, total, warmup, length, cls_dropout, decay):
    train = found.train
    assert (train.epochs, train.weight_decay) == (epochs, decay)
    assert found.data.max_length_tokens == length
    assert found.model.config == {"cls_dropout": cls_dropout}
    if total is not None:
        assert train.max_steps is None and epochs * math.ceil(found.task.rows["train"] / 32) == total
    if warmup < 1:
        assert train.warmup_steps is None and train.warmup_ratio == warmup
    else:
        assert train.warmup_steps == warmup


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", ADALORA_FIELDS)
@pytest.mark.parametrize("name", ADALORA)
def test_adalora_on_glue(name, method, variant):
    found = composed(f"method={method}", f"task=glue/{name}", f"recipe_variant={variant}")
    rate, epochs, total, gamma, initial, interval, final, warmup, length, alpha, cls_dropout, decay = ADALORA[name]
    check_common(found)
    check_task(found, epochs, total, warmup, length, cls_dropout, decay)
    assert found.train.learning_rate == of(rate, variant)
    wanted = (of(gamma, variant), initial, interval, final, alpha, 0)
    assert tuple(found.method[field] for field in ADALORA_FIELDS[method]) == wanted
    assert (found.method["beta1"], found.method["beta2"]) == (0.85, 0.85)
    assert initial + final < total
    assert (found.recipe.name, found.recipe.variant, found.recipe.seeds) == ("adalora_2023", variant, [6])
    tags = found.recipe.tags
    differs = isinstance(rate, tuple) and variant == "script"
    assert tags["train.learning_rate"] == ("script" if differs else "paper")
    assert tags[f"method.{ADALORA_FIELDS[method][0]}"] == (
        "script" if isinstance(gamma, tuple) and variant == "script" else "paper"
    )
    assert tags["train.select"] == "unknown"
    assert tags["data.max_length_tokens"] == tags[f"method.{ADALORA_FIELDS[method][4]}"] == "script"


# AdaLoRA on BART-large: learning rate, epochs, batch, t_i, Delta_T, t_f, source, target, beams, seed, T
BART = {
    "xsum": (5e-4, 25, 64, 6000, 100, (25000, 50000), 768, 64, 8, 9, 79_725),
    "cnn_dailymail": (5e-4, 15, 32, 5000, 100, 85000, 1024, 160, 4, 9, 134_595),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", ADALORA_FIELDS)
@pytest.mark.parametrize("name", BART)
def test_adalora_on_bart(name, method, variant):
    found = composed(f"method={method}", f"task={name}", f"recipe_variant={variant}")
    rate, epochs, batch, initial, interval, final, source, target, beams, seed, total = BART[name]
    train, data = found.train, found.data
    assert found.model.name == "bart_large"
    assert (train.learning_rate, train.epochs, train.batch_size, train.weight_decay) == (rate, epochs, batch, 0)
    assert (train.optimizer, train.clip_norm, train.label_smoothing, train.precision) == ("adamw", None, 0, "float32")
    assert train.warmup_steps == 3000 // 8, "accelerate moves the schedule once a GPU"
    assert (data.max_length_tokens, data.max_target_tokens, found.generation.num_beams) == (source, target, beams)
    assert found.generation.max_new_tokens + 1 == target
    own = ("min_new_tokens", "length_penalty", "no_repeat_ngram_size")
    assert [getattr(found.generation, name) for name in own] == [None] * 3, "the scripts leave these to the backbone"
    wanted = (1.0, initial, interval, of(final, variant), 32, 0)
    assert tuple(found.method[field] for field in ADALORA_FIELDS[method]) == wanted
    assert found.recipe.seeds == [seed]
    assert epochs * math.ceil(found.task.rows["train"] / batch) == total


# IncreLoRA, scripts rank=2 and rank=8: learning rate, epochs, h, dropout at (2, 8); then nu, gamma, alpha, cls_dropout,
# decay, longest input
INCRELORA = {
    "cola": ((8e-4, 1e-3), (25, 25), (3, 3), (0, 0), 100, 0.1, 32, 0.10, 0, 64),
    "mnli": ((3.5e-4, 5e-4), (9, 7), (2, 18), (0.2, 0), 1000, 0.1, 16, 0.15, 0, 256),
    "mrpc": ((1e-3, 1e-3), (30, 30), (6, 10), (0.3, 0.3), 100, 0.1, 32, 0, 0.01, 320),
    "qnli": ((7e-4, 9e-4), (5, 5), (12, 22), (0, 0), 500, 0.1, 32, 0.10, 0.01, 512),
    "qqp": ((4e-4, 6e-4), (7, 7), (3, 3), (0, 0), 1000, 0.1, 16, 0.15, 0.01, 320),
    "rte": ((1.2e-3, 1.2e-3), (50, 50), (5, 9), (0, 0), 100, 0.3, 32, 0.20, 0.01, 320),
    "sst2": ((8e-4, 8e-4), (24, 24), (5, 6), (0.1, 0.3), 1000, 0.1, 16, 0, 0.01, 128),
    "stsb": ((2.2e-3, None), (25, 25), (4, None), (0, 0), 100, 0.3, 32, 0.20, 0.1, 128),
}
# rounds of growth, first and last growth step, T, final total of triplets; at rank 2 and at rank 8 (sheet, section 4)
GROWTH = {
    "cola": ((24, 200, 2500, 6700, 144), (42, 200, 4300, 6700, 576)),
    "mnli": ((36, 2000, 37000, 110448, 144), (28, 2000, 29000, 85904, 576)),
    "mrpc": ((12, 200, 1300, 3450, 144), (13, 200, 1400, 3450, 592)),
    "qnli": ((6, 1000, 3500, 16370, 144), (6, 1000, 3500, 16370, 600)),
    "qqp": ((24, 2000, 25000, 79597, 144), (42, 2000, 43000, 79597, 576)),
    "rte": ((15, 200, 1600, 3900, 144), (14, 200, 1500, 3900, 576)),
    "sst2": ((15, 2000, 16000, 50520, 144), (21, 2000, 22000, 50520, 576)),
    "stsb": ((18, 200, 1900, 4500, 144), None),
}


@pytest.mark.parametrize("place", [0, 1], ids=["0.3M", "1.2M"])
@pytest.mark.parametrize("name", INCRELORA)
def test_increlora_on_glue(name, place):
    found = composed("method=increlora", f"task=glue/{name}", f"budget={('0.3M', '1.2M')[place]}")
    *pairs, nu, gamma, alpha, cls_dropout, decay, length = INCRELORA[name]
    rate, epochs, modules, dropout = (pair[place] for pair in pairs)
    method, tags = found.method, found.recipe.tags
    check_common(found)
    check_task(found, epochs, None, nu, length, cls_dropout, decay)
    unknown = rate is None
    assert (tags["train.learning_rate"], tags["method.modules_per_growth"]) == (
        ("unknown" if unknown else "script"),
    ) * 2
    if not unknown:
        assert (found.train.learning_rate, method["modules_per_growth"]) == (rate, modules)
    assert (method["dropout"], method["alpha"], method["orthogonality_weight"]) == (dropout, alpha, gamma)
    assert (method["init_warmup_steps"], method["interval_steps"]) == (nu, nu)
    assert (method["beta1"], method["beta2"], method["init_rank"]) == (0.85, 0.85, 1)
    assert method["advance_learning"] and method["own_rates"] and not method["exact_budget"]
    added = 1 if place == 0 or name == "mnli" else 4
    assert (method["target_rank"], method["add_rank"]) == ((2, 8)[place], added)
    assert found.train.select == "best"
    assert found.recipe.seeds == ([41, 42, 43, 44, 45] if name == "mnli" else [41])
    if growth := GROWTH[name][place]:
        rounds, first, last, total, triplets = growth
        missing, due, ranks = 72 * method["target_rank"] - 72, 2 * nu, 72
        grown = math.ceil(missing / (method["modules_per_growth"] * added))
        assert (grown, due, due + (grown - 1) * nu) == (rounds, first, last)
        while ranks < 72 * method["target_rank"]:
            ranks += min(method["modules_per_growth"], 72 * method["target_rank"] - ranks) * added
        assert ranks == triplets
        assert epochs * math.ceil(found.task.rows["train"] / 32) == total


def test_increlora_at_a_budget_without_script_says_so():
    found = composed("method=increlora", "task=glue/rte", "budget=0.6M")
    assert found.recipe.tags["train.learning_rate"] == "inferred"
    assert (found.method["target_rank"], found.method["add_rank"]) == (4, 2)


GRID = [3e-5, 5e-5, 8e-5, 1e-4, 3e-4, 5e-4, 8e-4, 1e-3]


BASELINES = [("lora", name) for name in ADALORA] + [(m, "mrpc") for m in ("full", "bitfit", "houlsby", "pfeiffer")]


@pytest.mark.parametrize(("method", "name"), BASELINES)
def test_baselines_of_adalora_are_a_search(name, method):
    found = composed(f"method={method}", f"task=glue/{name}")
    _, epochs, total, _, _, _, _, warmup, length, alpha, cls_dropout, decay = ADALORA[name]
    check_common(found)
    check_task(found, epochs, total, warmup, length, cls_dropout, decay)
    assert found.recipe.name == "adalora_2023_baselines_search"
    assert found.recipe.search == {"train.learning_rate": GRID}
    assert found.train.learning_rate in GRID
    assert found.recipe.tags["train.learning_rate"] == "unknown"
    assert found.recipe.tags["train.epochs"] == "inferred" and found.recipe.tags["train.batch_size"] == "paper"
    if method == "lora":
        assert (found.method["lora_alpha"], found.method["lora_dropout"]) == (alpha, 0)
        assert found.method["init_normal"] == {"lora_A": 0.02}
    assert any("is one of the 8 values, equal for every method" in told for told in unpublished(found))


def test_a_value_of_the_grid_is_a_trial_of_the_search():
    """Every baseline has the same grid, hence equal trials; the record says that a run is one of them, or is none."""
    baselines = ("full", "bitfit", "houlsby", "pfeiffer", "lora")
    assert len({str(composed(f"method={method}", "task=glue/rte").recipe.search) for method in baselines}) == 1
    for value, says in ((8e-4, "train.learning_rate=0.0008 is one of the 8 values, equal for every method, among"),
                        (2e-4, "train.learning_rate=0.0002 is none of the 8 values")):  # fmt: skip
        told = unpublished(composed("method=houlsby", "task=glue/rte", f"train.learning_rate={value}"))
        assert any(says in line for line in told)


def test_the_papers_text_against_its_tables():
    """Section 4.1: initial ranks of 1.5 times the target, another grid; section 4.3: XSum in 15 epochs."""
    for budget, ranks in (("0.3M", (3, 2)), ("0.6M", (6, 4)), ("1.2M", (12, 8))):
        found = composed("method=adalora", "task=glue/rte", f"budget={budget}", "recipe_variant=prose")
        assert (found.method["init_rank"], found.method["target_rank"]) == ranks
        found = composed("method=adalora_peft", "task=glue/rte", f"budget={budget}", "recipe_variant=prose")
        assert (found.method["init_r"], found.method["target_r"]) == ranks
    assert composed("method=adalora", "task=xsum", "recipe_variant=prose").train.epochs == 15
    assert composed("method=adalora", "task=xsum", "budget=0.26pct", "recipe_variant=prose").method["init_rank"] == 3
    grid = [5e-5, 8e-5, 1e-4, 2e-4]
    for words in (("method=full", "task=glue/rte"), ("method=lora", "task=glue/cola"), ("method=lora", "task=xsum")):
        found = composed(*words, "recipe_variant=prose")
        assert found.recipe.search == {"train.learning_rate": grid} and found.train.learning_rate in grid


def test_lora_on_bart_is_a_search_too():
    for name, (_, epochs, batch, *_, source, target, beams, _, _) in BART.items():
        found = composed("method=lora", f"task={name}")
        assert found.recipe.name == "adalora_2023_baselines_search" and found.recipe.search
        assert (found.train.epochs, found.train.batch_size, found.train.clip_norm) == (epochs, batch, None)
        assert (found.data.max_length_tokens, found.data.max_target_tokens) == (source, target)
        assert found.generation.num_beams == beams


# PROPETL on RoBERTa-base: kept, masks' rate over the run's, and the form's own
PROPETL = {
    "propetl": (0.5, 3e-3 / 1e-4, {"bottleneck_size": 64, "activation": "relu", "init_std": 0.02}),
    "propetl_lora": (0.1, 3e-2 / 1e-4, {"r": 32, "lora_alpha": 48}),
    "propetl_prefix": (0.1, 1.0, {"prefix_length": 64, "reparameterize": True, "network_width": 512}),
}


@pytest.mark.parametrize("method", PROPETL)
@pytest.mark.parametrize("name", ["cola", "qnli"])
def test_propetl_on_roberta(name, method):
    found = composed(f"method={method}", f"task=glue/{name}", "model=roberta_base")
    kept, rate, own = PROPETL[method]
    train = found.train
    assert train.epochs == {"cola": 20, "qnli": 10}[name]
    for task in ADALORA:
        run = {"method": method, "model": "roberta_base", "budget": "default", "task": f"glue/{task}"}
        assert recipe.values(run)["train.epochs"] == (20 if task in ("rte", "mrpc", "stsb", "cola") else 10)
    assert (train.learning_rate, train.batch_size, train.weight_decay, train.schedule) == (1e-4, 128, 0.1, "linear")
    assert (train.warmup_steps, train.warmup_ratio, train.select) == (None, 0.1, "best")
    assert (found.data.max_length_tokens, found.recipe.seeds) == (128, [42, 43, 44])
    assert found.method["keep"] == kept and found.method["mask_rate"] == pytest.approx(rate)
    assert {key: found.method[key] for key in own} == own


@pytest.mark.parametrize("words", ["method=propetl model=roberta_base task=glue/", "method=propetl task=propetl/",
                                   "method=pfeiffer budget=bn64 task=propetl/"])  # fmt: skip
def test_propetl_selects_by_the_mean_of_a_tasks_metrics(words):
    wanted = {
        "mrpc": "accuracy_f1",
        "qqp": "accuracy_f1",
        "stsb": "pearson_spearman",
        "cola": "matthews",
        "rte": "accuracy",
    }
    for name, score in wanted.items() if "roberta" in words else [("qqp", "accuracy_f1"), ("rte", "accuracy")]:
        assert composed(*f"{words}{name}".split()).task.score == score


def test_propetl_on_t5():
    found = composed("method=propetl", "task=propetl/rte")
    train = found.train
    assert (train.learning_rate, train.batch_size, train.warmup_steps, train.weight_decay) == (3e-4, 128, 500, 0)
    assert (train.clip_norm, train.label_smoothing, train.optimizer, train.max_steps) == (1, 0.1, "adamw_hf", 20_000)
    assert train.precision == "float32", "the authors' configurations name bfloat16 for T5-3B alone"
    assert train.loss_reduction == "sum" and composed("method=full", "task=propetl/rte").train.loss_reduction == "sum"
    assert (found.data.max_length_tokens, found.data.max_target_tokens) == (128, 128)
    assert (found.method["keep"], found.method["mask_rate"], found.method["combine"]) == (0.3, 10, "or")
    assert found.recipe.tags["train.max_steps"] == "unknown", "the paper's single-task runs have no released settings"
    narrow = composed("method=propetl", "task=propetl/rte", "budget=bn6")
    assert (narrow.method["bottleneck_size"], narrow.recipe.tags["method.keep"]) == (6, "unknown")
    summary = composed("method=propetl", "task=xsum", "model=t5_base")
    assert (summary.method["bottleneck_size"], summary.method["keep"]) == (768, 0.5)
    assert (summary.train.learning_rate, summary.train.batch_size, summary.train.max_steps) == (1e-4, 32, 100_000)
    assert (summary.data.max_length_tokens, summary.train.weight_decay) == (512, 0.01)
    assert (summary.generation.max_new_tokens, summary.generation.validation_rows) == (128, 1024)


def test_qlora():
    for size, rank in (("small", 16), ("base", 16), ("large", 16), ("xl", 64), ("xxl", 64)):
        found = composed("method=qlora", "task=superni", f"model=t5_{size}_lm_adapt")
        assert (found.method["r"], found.method["lora_alpha"], found.method["lora_dropout"]) == (rank, 64, 0)
        assert (found.data.max_length_tokens, found.data.max_target_tokens) == (1024, 128)
        assert (found.quantization.name, found.train.optimizer) == ("nf4_dq", "paged_adamw")
        assert found.recipe.tags["method.r"] == "paper" and found.recipe.tags["train.learning_rate"] == "unknown"
    found = composed("method=qlora", "task=glue/mnli", "model=roberta_large")
    assert found.recipe.name == "qlora_2023" and set(found.recipe.tags.values()) == {"unknown"}


# --- the mechanism ---------------------------------------------------------------------------------------------------


def test_the_command_line_wins_and_the_tag_says_so():
    found = composed("method=adalora", "task=glue/rte", "train.learning_rate=0.5", "method.alpha=7")
    assert (found.train.learning_rate, found.method["alpha"]) == (0.5, 7)
    assert found.recipe.tags["train.learning_rate"] == found.recipe.tags["method.alpha"] == "command line"
    assert found.recipe.tags["train.epochs"] == "paper"


def test_a_missing_recipe_is_said_and_recipes_can_be_switched_off():
    assert composed("method=ia3", "task=glue/rte").recipe.name == "fallback"
    assert "no recipe for ia3" in composed("method=ia3", "task=glue/rte").recipe.note
    off = composed("method=adalora", "task=glue/rte", "~recipe")
    assert off.recipe.name == "none" and off.recipe.tags == {}


@cache
def yaml(method):
    return OmegaConf.load(CONF / f"method/{method}.yaml")


def test_every_value_of_a_paper_has_a_tag_and_every_key_exists():
    for name, found in recipe.files().items():
        for row in found:
            assert row.keys() - {"set", "source"} <= {*recipe.CONDITIONS, "tag", "tags", "search", "seeds"}
            assert name in (recipe.FALLBACK, "demo") or row.get("tag") in recipe.TAGS[:-1], (name, row)
            for method in rows.patterns(row, "method"):
                if method == "*":
                    continue
                assert method in compose.options("method"), f"{name}: {method} is no method"
                section = yaml(method)
                keys = {key.removeprefix("method.") for key in row["set"] if key.startswith("method.")}
                keys -= {"init_normal"}  # harness.model.attach
                assert keys <= section.keys(), f"{name}: {keys - section.keys()} are no fields of {method}"
    for row in level.sizes():
        for method in rows.patterns(row, "method"):
            section = yaml(method)
            assert {key.removeprefix("method.") for key in row["set"]} <= section.keys()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[rows]]\nsource="s"\nset={}\ntag="guessed"', "tags are script, paper"),
        ('[[rows]]\nsource="s"\nset={}\n[rows.tags]\n"a.b"="script"', "only for keys that the row sets"),
        ("[[rows]]\nset={}", "needs source"),
        ('[[rows]]\nsource="s"', "needs set"),
        ('[[rows]]\nsource="s"\nset={}\nmethud="lora"', "unknown key methud"),
        ("[[rows", "is not TOML"),
    ],
)
def test_a_malformed_row_is_one_message(tmp_path, text, says):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        recipe._checked(tmp_path / "bad.toml")


def test_conditions_are_patterns_or_lists_of_them():
    row = {"method": ["lora", "q*"], "task": "glue/*"}
    assert rows.fits(row, {"method": "qlora", "task": "glue/rte"}) and rows.fits(
        row, {"method": "lora", "task": "glue/x"}
    )
    assert not rows.fits(row, {"method": "ia3", "task": "glue/rte"})
    assert not rows.fits(row, {"method": "lora", "task": "xsum"})


# Rows of papers' tables that no recipe covers, and why; all others must have one, or two rows would be compared
# whose settings nobody chose.
WITHOUT_RECIPE = {
    (
        "adalora_summarization",
        "full",
    ): "CNN/DailyMail quoted from the BART paper, XSum from nobody knows where; no settings are given",
    ("propetl_glue_multi", "hyperformer"): "no such method here yet",
}


@pytest.mark.parametrize("name", [name for name in published.names() if published.load(name).can_run])
def test_every_row_of_a_papers_table_has_a_recipe(name, monkeypatch):
    monkeypatch.setattr(recipe, "files", cache(recipe.files))
    table, lacking = published.load(name), set()
    variant = next((word.partition("=")[2] for word in table.words if word.startswith("recipe_variant=")), "script")
    for row in table.rows.values():
        for column, cell in row.cells.items():
            run = {"method": row.method, "model": cell.setting.model, "budget": row.budget,
                   "task": table.columns[column].task, "variant": variant}  # fmt: skip
            run["budget"] = level.resolve(run)
            if cell.value is not None and recipe.matching(run)[0] in ("none", recipe.FALLBACK):
                lacking.add((name, row.method))
    assert lacking == {row for row in WITHOUT_RECIPE if row[0] == name}
