"""One run, whole: what README's figure shows. Below this file there is no configuration object of Hydra's any more."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness import device, directory, identity, model, provenance, publish, record, remarks, selection, task
from harness.claim import Claim
from harness.config import RunConfig
from harness.distributed import Group
from harness.errors import ConfigError
from harness.mirror import Mirror
from harness.record import DONE, Record
from harness.task import Task


@dataclass(frozen=True)
class Plan:
    """A run that is known and not yet made: everything that decides its id, nothing heavy."""

    config: RunConfig
    task: Task
    directory: Path
    identity: dict[str, Any]
    id: str
    folder: Path
    device: str
    precision: str


def plan(config: RunConfig) -> Plan:
    """Read the task, find the backbone, and give the run its name. Imports neither torch nor peft."""
    rows = task.cut(task.load(config.task, config.data.root), config.data.max_train_rows, config.data.max_eval_rows)
    at = directory.locate(config.model)
    where = device.resolve(config.device)
    precision = device.precision(config.train.precision, where)
    weights = directory.fingerprint(at, config.model.init, directory.shaped(config.model, at))
    known = identity.identity(config, data=rows.fingerprint, weights=weights, device=where, precision=precision)
    name = identity.run_id(known)
    return Plan(config, rows, at, known, name, Path(config.results.root) / name, where, precision)


def finished(plan: Plan) -> Record | None:
    """The stored record, if this run is done and need not be made again (`rerun` says when it must)."""
    stored = record.read(plan.folder)
    if stored is None or stored.state != DONE or plan.config.rerun == "always":
        return None
    return None if plan.config.rerun == "stale" and provenance.stale(stored) else stored


def run(plan: Plan, group: Group | None = None) -> Record:
    """Make the run, from its checkpoint where it has one, and store its record.

    Whatever stops it is in the store before it leaves this function; a signal leaves it as `interrupt.Stopped`. Of
    several processes (`distributed.joined`) the first one owns the run and its record; the others follow.
    """
    device.check_threads(plan.config.threads)
    group = group or Group()
    with group.interrupt:
        return lead(plan, group) if group.leads else follow(plan, group)


def follow(plan: Plan, group: Group) -> Record:
    """Train beside the first process, which says what it found in the store. Raises ConfigError for another run."""
    said = group.tell()
    if said["id"] != plan.id:
        raise ConfigError(f"this process would make {plan.id}, the first one {said['id']}: other files or command line")
    return Record(**said) if said["state"] == DONE else experiment(plan, Record(**said), group)


def lead(plan: Plan, group: Group) -> Record:
    """Own the run, make it, write it."""
    with Claim(plan.folder, plan.config.results.heartbeat_seconds) as claim:
        if stored := finished(plan):  # somebody made it while we waited
            group.tell(asdict(stored))
            return stored
        attempts = publish.supersede(plan.folder)
        begun = Record(
            plan.id, record.RUNNING, plan.identity, asdict(plan.config), asdict(plan.config.recipe),
            code=provenance.code(plan.config.method, plan.identity["quantization"]),
            provenance=provenance.begin() | ({"attempts": attempts} if attempts else {}),
            remarks=remarks.of(plan.config, plan.task, plan.device),
        )  # fmt: skip
        record.write(plan.folder, begun)
        mirror = Mirror(plan.folder, plan.id, plan.identity, plan.config.wandb, plan.config.model.path)
        with publish.failures(plan.folder, begun), mirror:
            group.tell(asdict(begun))
            done = experiment(plan, begun, group, mirror)
            mirror.finish(DONE, {"scores": done.science["scores"], "params": done.science["params"], "cost": done.cost})
        publish.publish(plan.folder, done, claim.held)
    return done


def experiment(plan: Plan, begun: Record, group: Group, mirror: Mirror | None = None) -> Record:
    """The experiment itself, in the order of design and README: load, attach, train, evaluate, save."""
    import methods.hooks  # first: it hushes what bitsandbytes says while peft is imported
    from harness import budget, frozen, latency, preflight, probe, progress, quantization
    from harness.checkpoint import Checkpoints
    from harness.cost import Meter
    from harness.evaluate import Evaluation, score
    from harness.tokens import Tokens
    from harness.train import train

    config, rows, seed = plan.config, plan.task, plan.config.seed
    name = device.use(plan.device, config.threads)
    sized, solved = budget.solve(config.budget, config.method, config.model, plan.directory, rows)
    backbone, tokenizer = model.load(config.model, plan.directory, rows, seed=seed,
                                     quantization=config.quantization, precision=plan.precision)  # fmt: skip
    footprint = quantization.footprint(backbone)
    method = model.method_config(sized, config.model, rows.kind, backbone)
    bare = probe.shared(backbone, everything=True)

    def attach(to: Any, seed: int) -> Any:
        return model.attach(to, method, seed=seed, init_normal=sized.get("init_normal"), lean=sized.get("lean", True))

    tuned = attach(backbone, seed).to(plan.device)
    planned = budget.check(config.budget, tuned, sized)

    scored, tokens = dict.fromkeys((rows.selects, rows.reports, *rows.also_reports)), Tokens(tokenizer)
    splits = {split: tokens.of(rows, split, config.data.lengths) for split in ("train", *scored)}
    checked, preflown = preflight.check(config, lambda: probe.Probe(
        config, rows, splits, tuned, lambda seed: attach(probe.shared(bare, everything=True), seed),
        lambda: budget.by_shapes(sized, config.model, plan.directory, rows), tokenizer, plan.precision))  # fmt: skip
    backbone_bits, meter = frozen.sums(tuned), Meter(plan.device)

    # What is scored while it trains; at the end every row is.
    brief = task.cut(rows, None, config.generation.validation_rows)
    watched_rows = tokens.of(brief, rows.selects, config.data.lengths)

    def scores_on(split: str, of: Any = rows, encoded: Any = None) -> Evaluation:
        with meter.evaluating():
            return score(tuned, encoded or splits[split], of, split, batch_size=config.data.eval_batch_size,
                         device=plan.device, precision=plan.precision, tokenizer=tokenizer,
                         generation=config.generation, shown=config.progress)  # fmt: skip

    watched = progress.Bar(plan.id, shown=config.progress and group.leads, folder=plan.folder if group.leads else None,
                           every_seconds=config.results.heartbeat_seconds, mirror=mirror)  # fmt: skip
    with meter.training(), watched as bar:
        settings = replace(config.train, precision=plan.precision)
        checkpoints = Checkpoints(plan.folder / "checkpoints" if config.pack == 1 else None,
                                  identity.digest([plan.identity, begun.code]),
                                  config.results.checkpoint_seconds, beside={"cost": meter})  # fmt: skip
        outcome = train(tuned, splits["train"], settings, seed=seed, device=plan.device, buckets=config.data.buckets,
                        validate=lambda: selection.observed(scores_on(rows.selects, brief, watched_rows)),
                        main=rows.score, progress=bar, checkpoints=checkpoints, group=group)  # fmt: skip
    unmoved = frozen.check(tuned, backbone_bits, config.method)
    if not group.leads:
        return begun
    evaluations = {split: scores_on(split) for split in scored}
    science = {
        "main": {"split": rows.reports, "metric": rows.score, "score": evaluations[rows.reports].scores[rows.score]},
        "scores": {split: found.scores for split, found in evaluations.items()},
        "predictions": {split: publish.save_predictions(plan.folder, split, found) for split, found in evaluations.items()},
        "params": asdict(model.count(tuned, methods.hooks.find(tuned).active_params())) | planned,
        "adapter_sha256": publish.save_adapter(plan.folder, tuned, config.model.hub_id or config.model.name),
        "truncated_rows": {split: part.truncated_rows for split, part in splits.items()},
        "losses": outcome.losses, "curve": outcome.curve, "steps": outcome.steps, "best": outcome.best, "trace": outcome.trace,
    }  # fmt: skip
    cost = asdict(meter.cost(outcome, stored=plan.folder / "adapter")) | asdict(footprint)
    # Last of all: where the method can be merged, this uses the model up.
    cost |= latency.measure(tuned, splits[rows.reports], device=plan.device, precision=plan.precision)
    cost["processes"] = group.size
    if not config.results.keep_adapter:  # its size and digest are known; the weights need not stay
        publish.drop_adapter(plan.folder)
    made = provenance.ended(begun.provenance, device=name) | {
        "resumed_at": outcome.resumed_at,
        "processes": group.size,
        "preflight": preflown,
        "frozen_tensors_unchanged": unmoved,
        **({"packed_with": group.beside} if group.beside else {}),
    }
    told = [
        *begun.remarks,
        *solved,
        *checked,
        *remarks.cut_short(splits),
        *outcome.remarks,
        *remarks.shared(group.size),
    ]
    return replace(begun, state=DONE, science=science, cost=cost, provenance=made, remarks=told)
