"""Every YAML composes; every mistake gets one message with the nearest right name, before anything heavy is imported."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from harness import __main__, compose, model, recipe, rows
from harness.config import RunConfig
from harness.errors import ConfigError
from harness.paths import CONF


@pytest.fixture(scope="module", autouse=True)
def hydra_here():
    compose.register()
    from harness import sweep

    sweep.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*words: str) -> RunConfig:
    return compose.checked(hydra_compose("config", overrides=list(words)))


@pytest.mark.parametrize("group", ["model", "task", "method", "budget"])
def test_every_option_composes(group):
    assert compose.options(group), f"conf/{group} is empty"
    for name in compose.options(group):
        words = [f"{group}={name}"]
        if group == "model" and composed(*words).model.family in ("bart", "t5"):
            words.append("task=demo/summarization")
            words.append(f"model={name}")
        if name == "multi":
            words.append("task.tasks=[glue/rte]")
        chosen = composed(*words)
        name = {"multi": "multi/rte", "glue/multi": "propetl/multi"}.get(name, name)
        assert (chosen.method["name"] if group == "method" else getattr(chosen, group).name) == name


def test_a_task_brings_its_backbone_and_the_command_line_wins():
    assert composed("task=glue/rte").model.name == "deberta_v3_base"
    assert composed("task=glue/rte", "model=roberta_base").model.name == "roberta_base"
    assert composed("task=demo/summarization").model.name == "demo_bart"


def test_the_command_line_wins_over_a_recipe():
    assert composed("train.learning_rate=0.5").train.learning_rate == 0.5


def test_a_missing_recipe_is_said():
    told = composed("task=glue/wnli", "model=minilm").recipe
    assert told.name == "fallback"
    assert "lora on minilm and glue/wnli" in told.note
    assert composed("~recipe").recipe.name == "none"


def test_every_recipe_row_sets_keys_that_exist():
    whole = {m: hydra_compose("config", overrides=[f"method={m}", "~recipe"]) for m in compose.options("method")}
    for name, found in recipe.files().items():
        for row in found:
            assert row["source"], name
            for method in [m for m in compose.options("method") if rows.fits(row, {"method": m})]:
                for key in row["set"].keys() - {"method.init_normal"}:  # a key that harness.model.attach takes
                    node = whole[method]
                    for part in key.removeprefix("model.config.").split(".") if "model.config." not in key else ():
                        assert part in node, f"{name}: {key} is no key of {method}"
                        node = node[part]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method=lorra"], "Did you mean lora"),
        (["task=rte"], "Did you mean glue/rte"),
        (["task=glue/rtx"], "Did you mean glue/rte"),
        (["metod=lora"], "Did you mean method"),
        (["train.lerning_rate=1"], "Did you mean train.learning_rate"),
        (["seed=x"], "seed: Value 'x'"),
        (["seed=0,1"], "add -m"),
        (["seed"], "key=value"),
        (["model=null"], "must be a name"),
        (["++train.foo=1"], "unknown key 'train.foo'"),
        (
            ["model.config.hidden_act=foo"],
            "model.config is empty. What it may hold is added with a plus: +model.config.hidden_act=",
        ),
        (["wandb.tags.x=1"], "entries of a list are numbered (wandb.tags.0): 'x' is no number"),
        (["train.batch_size=-1"], "train.batch_size=-1 is below 1"),
        (["train.accumulation_steps=3"], "equal micro-batches"),
        (["train.schedule=cosine"], "Allowed: constant, linear"),
        (["hydra/launcher=lokal"], "Did you mean local"),
        (["task=_glue"], "none itself. Allowed: cnn_dailymail"),
        (["task=demo/summarization", "model=demo_roberta"], "text to text"),
        (["method.name=null"], "method.name is missing"),
        (["train.compile=true", "train.cuda_graphs=true"], "leave train.compile=true out"),
        (["train.clip_norm=0"], "null switches clipping off"),
        (["table"], "a command of its own: python -m harness.table"),
        (["method=LoRA"], "Did you mean lora"),
        (["lr=1e-3"], "Did you mean train.learning_rate"),
        (["r=4"], "Did you mean method.r"),
        (["train.bs=4"], "Did you mean train.batch_size"),
        (["device=gpu"], "Did you mean cuda"),
        (["data.root=d\u00f6nn\u00e9es"], """cannot read the override data.root=d\u00f6nn\u00e9es. Write key=value"""),
        (["preflight.skip=padding"], "it takes a list, in brackets: preflight.skip=[...]"),
        (["preflight.skip=[paddings]"], "Did you mean padding"),
        (["~train.learning_rate"], "train.learning_rate cannot be taken away"),
        (["~method"], "a run has one method: give method=NAME"),
        (["task=[glue/rte,glue/cola]"], "a run has one task: give task=NAME (several runs: -m task=A,B)"),
    ],
)
def test_a_mistake_gets_one_message(words, says):
    with pytest.raises((ConfigError, *compose.COMPOSITION_ERRORS)) as caught:
        composed(*words)
    message = str(caught.value) if isinstance(caught.value, ConfigError) else compose.explain(caught.value)
    assert says in message
    assert "\n" not in message


def test_a_mistake_costs_no_heavy_import_and_exits_with_two():
    probe = (
        "import sys\nsys.argv = ['harness', 'task=glue/rtx']\n"
        "from harness.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"
        "heavy = {'torch', 'peft', 'transformers', 'evaluate', 'wandb', 'datasets', 'pandas'} & set(sys.modules)\n"
        "print(code, sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "2 []", done.stderr
    assert done.stderr.startswith("error: unknown task 'glue/rtx'. Did you mean glue/rte?")


@pytest.mark.parametrize(
    ("words", "ordered"),
    [
        (["seed=1", "-m", "pack=2", "method=lora"], ["seed=1", "pack=2", "method=lora", "-m"]),
        (["seed=1", "--cfg", "job", "seed=2"], ["seed=1", "seed=2", "--cfg", "job"]),
        (["-m", "seed=1"], ["-m", "seed=1"]),
        ([], []),
    ],
)
def test_values_may_stand_on_both_sides_of_a_switch(words, ordered):
    assert __main__.ordered(words) == ordered


@pytest.mark.parametrize("words", [["--seed", "3"], ["--seed=3"], ["method=lora", "--seed", "3", "-m"]])
def test_a_value_written_as_an_option_is_shown_as_it_should_be(words):
    with pytest.raises(ConfigError, match="values are written without dashes: seed=3"):
        __main__.ordered(words)


def test_a_whole_number_with_a_point_is_the_same_run():
    assert composed("method.r=4.0").method["r"].__class__ is int
    with pytest.raises(ConfigError, match=r"method\.r=4\.5 must be a whole number"):
        model.method_config(composed("method.r=4.5").method, composed().model, "classification", None)


def test_a_sweep_of_nothing_is_a_mistake():
    words = [sys.executable, "-m", "harness", "-m", "seed=range(0,0)"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no run is left: one of the words holds no value")


def test_what_options_share_is_no_option():
    for word in ("task=_glue", "model=_t5"):
        with pytest.raises(ConfigError, match=f"{word.split('=')[0]}=_... is what several options share"):
            composed(word)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method.r=x"], "method.r=x must be a number, as in lora.yaml: 8"),
        (["method=adalora", "method.beta1=true"], "method.beta1=True must be a number, as in adalora.yaml: 0.85"),
        (["method=prefix", "method.reparameterize=3"], "must be true or false, as in prefix.yaml: false"),
    ],
)
def test_a_method_s_option_of_another_kind_is_refused_before_peft_is_imported(words, says):
    with pytest.raises(ConfigError) as stop:
        composed(*words)
    assert says in str(stop.value)


def test_a_method_s_options_may_be_null_whole_or_broken_numbers():
    found = composed("method.lora_dropout=1", "method=lora", "method.target_modules=all-linear")
    assert (found.method["lora_dropout"], found.method["target_modules"]) == (1, "all-linear")
