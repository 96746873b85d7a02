"""`python -m harness.predict RUN_DIR --root DIR`: what a finished run says of the rows whose labels are hidden.

    python -m harness.predict results/runs/glue-rte.deberta_v3_base.lora.default.s0.0123456789ab --root glue_data
    python -m harness.predict RUN_DIR --root superglue_data --output submission

The files are those that the GLUE and SuperGLUE servers take (RTE.tsv, CB.jsonl, ...); zip them for upload. `--task`
predicts another task of the same labels (MNLI's model on `superglue/cb`, say). Exit code 0, or 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness import atomic, device, directory, record, task
from harness.config import RunConfig
from harness.errors import ConfigError, HarnessError, ModelError, RecordError
from harness.record import DONE, Record
from harness.schema import TaskConfig

if TYPE_CHECKING:
    from peft import PeftModel

    from harness.splits import Split
    from harness.tokens import Tokens


def predict(folder: Path, root: str | None, output: Path, named: str | None) -> list[Path]:
    """Write the submission files of a run; returns their paths.

    Args:
        folder: the run's directory in the store.
        root: where the hidden rows are; default: the run's own `data.root`.
        output: the folder to write to.
        named: another task, by name; default: the run's own.

    Raises:
        HarnessError: no finished run with its adapter there, another backbone than then, no hidden rows.
    """
    stored, config = _stored(folder)
    spec = config.task if named is None else _task(named, config.task)
    root = root or config.data.root
    if root is None:
        raise ConfigError("where are the rows to predict? Give --root DIR with the official files (DIR/RTE/test.tsv)")
    specs = spec.parts or {spec.name: spec}
    hidden = {name: task.hidden(one, root) for name, one in specs.items()}
    where = device.resolve(config.device)
    # Not before all that a user can get wrong was looked at: they bring torch along.
    from harness.mixture import choose
    from harness.tokens import Tokens

    model, tokenizer = _model(folder, stored, config)
    model, tokens, made = model.to(where), Tokens(tokenizer), list[Path]()
    output.mkdir(parents=True, exist_ok=True)
    for name, one in specs.items():
        if spec.parts:
            choose(model, name)
        made += _write(one, hidden[name], model, tokens, config, stored.identity["train"]["precision"], output)
    return made


def _write(
    spec: TaskConfig, splits: dict[str, Split], model: PeftModel, tokens: Tokens, config: RunConfig, precision: str,
    output: Path,
) -> list[Path]:  # fmt: skip
    """The files of one task; returns their paths."""
    from harness.evaluate import predict as predicted
    from harness.submission import written

    made = []
    for name, split in splits.items():
        columns = predicted(
            model, tokens.encode(split, kind=spec.kind, **config.data.lengths),
            batch_size=config.data.eval_batch_size, device=model.device.type, precision=precision,
            tokenizer=tokens.tokenizer, generation=config.generation,
        )  # fmt: skip
        file, content = written(spec, name, split, _labels(spec, columns))
        atomic.write(output / file, content.encode())
        made.append(output / file)
    return made


def _stored(folder: Path) -> tuple[Record, RunConfig]:
    """The record and its configuration. Raises RecordError for a run that is not done, or from another version."""
    stored = record.read(folder)
    if stored is None or stored.state != DONE:
        state = "no record" if stored is None else f"a record that is {stored.state}"
        raise RecordError(f"{folder} holds {state}; give the directory of a finished run")
    if not (folder / "adapter").is_dir():
        raise RecordError(f"{folder} has no adapter (results.keep_adapter=false); run again with it kept")
    try:
        found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), stored.config))
    except OmegaConfBaseException as error:
        raise RecordError(f"{folder} was made by another version of the harness: {error}") from error
    if not isinstance(found, RunConfig):
        raise RecordError(f"{folder}/record.json holds no configuration of a run")
    return stored, found


def _task(name: str, own: TaskConfig) -> TaskConfig:
    """Another task's configuration. Raises ConfigError unless it has the same labels and form."""
    from hydra import compose as composed
    from hydra import initialize_config_dir

    from harness import compose, sweep
    from harness.paths import CONF

    compose.register()
    sweep.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            found = compose.checked(composed("config", overrides=[f"task={name}"])).task
        except compose.COMPOSITION_ERRORS as error:
            raise ConfigError(compose.explain(error)) from error
    if (found.kind, sorted(found.labels)) != (own.kind, sorted(own.labels)):
        ours, theirs = ", ".join(own.labels) or own.kind, ", ".join(found.labels) or found.kind
        raise ConfigError(f"--task {name}: its labels are {theirs}; the run's ({own.name}) are {ours}")
    found.submitted = [found.submitted[found.labels.index(label)] for label in own.labels] if found.submitted else []
    found.labels, found.prompt, found.answers = own.labels, own.prompt, own.answers
    return found


def _model(folder: Path, stored: Record, config: RunConfig) -> tuple[PeftModel, Any]:
    """The backbone with the run's adapter and head. Raises ModelError where the backbone is another one than then."""
    from harness import model
    from methods import saved

    at = directory.locate(config.model)
    if (
        directory.fingerprint(at, config.model.init, directory.shaped(config.model, at))
        != (stored.identity["content"]["weights"])
    ):
        raise ModelError(f"{at} is not the backbone that {folder} was trained on: its files have changed")
    backbone, tokenizer = model.load(
        config.model, at, task.empty(config.task), seed=config.seed, quantization=config.quantization,
        precision=stored.identity["train"]["precision"],
    )  # fmt: skip
    return saved.load(backbone, folder / "adapter", autocast_adapter_dtype=True), tokenizer


def _labels(spec: TaskConfig, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Generated answers as labels; what is no label becomes -1."""
    from harness.answers import UNPARSABLE, Answers

    if spec.prompt is None or spec.nature == "text":
        return columns
    answers = Answers(tuple(spec.answers or spec.labels))
    read = [answers.parse(text) for text in columns["prediction"]]
    return columns | {"prediction": [UNPARSABLE if one is None else one for one in read]}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.predict", allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="a finished run in the store")
    parser.add_argument("--root", help="directory with the official files; default: the run's data.root")
    parser.add_argument("--task", help="predict another task of the same labels")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: RUN_DIR/submission")
    options = parser.parse_args(argv)
    try:
        made = predict(options.run, options.root, options.output or options.run / "submission", options.task)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path in made:
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
