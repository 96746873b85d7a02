"""Is the embedded entailment task hard enough that methods differ, and is pre-training what helps? Measured, not hoped.

    python scripts/demo_hardness.py                    make what the store lacks, then print the verdict of every claim
    python scripts/demo_hardness.py --backbones demo_deberta,demo_roberta --seeds 5 --root results/reference
    python scripts/demo_hardness.py --every-method --seeds 3 --root DIR      every method beside training only the head

The claims, on the test split of demo/entailment, means over seeds: full fine-tuning between 75 and 97 %; a bag-of-words
classifier (scikit-learn) under 65 %; LoRA at least 15 points above training only the head, and at least 10 above LoRA on
a backbone with random weights; at least three methods pairwise separable (paired t over seeds, Holm).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from itertools import combinations
from pathlib import Path

from harness import record, stats
from harness.paths import CONF
from harness.record import DONE, Record

METHODS = ("head", "ia3", "bitfit", "lora", "full")
EVERY_METHOD = tuple(sorted(path.stem for path in (CONF / "method").glob("[!_]*.yaml")))
MARGIN = 5  # points that a method should be above the head alone
TASKS = Path(__file__).resolve().parents[1] / "harness/embedded/tasks/entailment"


def sweep(root: str, backbone: str, seeds: int, methods: tuple[str, ...], *words: str) -> None:
    """Make the runs that the store lacks, as a user would."""
    command = [sys.executable, "-m", "harness", "-m", f"model={backbone}", f"method={','.join(methods)}"]
    command += [f"seed={','.join(str(seed) for seed in range(seeds))}", f"results.root={root}", *words]
    subprocess.run([*command, "results.keep_adapter=false", "progress=false"], check=True, stdout=subprocess.DEVNULL)


def scores(root: str, backbone: str, seeds: int) -> dict[str, list[float]]:
    """Test accuracy by method, in the order of seeds; `lora, random weights` for a backbone without pre-training."""
    found: dict[str, dict[int, float]] = {}
    for one in record.read_all(Path(root)):
        if not isinstance(one, Record) or one.state != DONE or one.identity["model"]["name"] != backbone:
            continue
        if one.identity["task"]["name"] == "demo/entailment" and one.identity["seed"] < seeds:
            random = one.identity["model"]["init"] == "random"
            name = one.identity["method"]["name"] + (", random weights" if random else "")
            found.setdefault(name, {})[one.identity["seed"]] = one.science["main"]["score"]
    return {name: [by_seed[seed] for seed in sorted(by_seed)] for name, by_seed in found.items()}


def bag_of_words() -> float:
    """Test accuracy of logistic regression over the words of both sentences, marked by their side, and their overlap."""
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def features(split: str) -> tuple[list[dict[str, float]], list[str]]:
        rows = [line.split("\t") for line in (TASKS / f"{split}.tsv").read_text().splitlines()[1:]]
        return [_words(first, second) for _, first, second, _ in rows], [row[3] for row in rows]

    train, labels = features("train")
    test, truth = features("test")
    model = make_pipeline(DictVectorizer(), LogisticRegression(max_iter=2000)).fit(train, labels)
    return 100 * model.score(test, truth)


def _words(first: str, second: str) -> dict[str, float]:
    one, two = first.rstrip(".").split(), second.rstrip(".").split()
    found = {f"1 {word}": 1.0 for word in one} | {f"2 {word}": 1.0 for word in two}
    found |= {f"both {word}": 1.0 for word in set(one) & set(two)}
    return found | {
        "overlap": len(set(one) & set(two)) / len(set(one) | set(two)),
        "longer": float(len(two) - len(one)),
    }


def separable(by_method: dict[str, list[float]]) -> list[str]:
    """The largest set of methods that all differ pairwise (paired t over seeds, Holm over all pairs, 5 %)."""
    pairs = list(combinations([name for name in by_method if "random" not in name], 2))
    adjusted = stats.holm([stats.paired_t(by_method[a], by_method[b]).p for a, b in pairs])
    differ = {frozenset(pair) for pair, p in zip(pairs, adjusted, strict=True) if p < 0.05}
    names = sorted({name for pair in pairs for name in pair})
    sets = [s for size in range(len(names), 0, -1) for s in combinations(names, size)]
    return list(next(s for s in sets if all(frozenset(pair) in differ for pair in combinations(s, 2))))


def report(backbone: str, by_method: dict[str, list[float]]) -> None:
    """Print every method's mean with its interval, and whether each claim holds."""
    print(f"\n{backbone}")
    for name, values in sorted(by_method.items(), key=lambda item: stats.mean(item[1])):
        low, high = stats.confidence_interval(values)
        print(f"  {name:<22} {stats.mean(values):6.2f}  [{low:.2f}, {high:.2f}]  n={len(values)}")
    mean = {name: stats.mean(values) for name, values in by_method.items()}
    different = separable(by_method)
    claims = {
        f"full fine-tuning between 75 and 97: {mean['full']:.2f}": 75 <= mean["full"] <= 97,
        f"LoRA minus head at least 15: {mean['lora'] - mean['head']:.2f}": mean["lora"] - mean["head"] >= 15,
        f"LoRA minus LoRA on random weights at least 10: {mean['lora'] - mean['lora, random weights']:.2f}": mean[
            "lora"
        ]
        - mean["lora, random weights"]
        >= 10,
        f"methods that differ pairwise, at least three: {', '.join(different)}": len(different) >= 3,
    }
    for claim, holds in claims.items():
        print(f"  {'holds ' if holds else 'FAILS '} {claim}")


def matrix(root: str, backbones: list[str], seeds: int) -> None:
    """Print every method's mean on every backbone and how far it is above the head; `!` where it is not by MARGIN."""
    print(f"\n| method | {' | '.join(backbones)} |\n|---|{'---|' * len(backbones)}")
    columns = [scores(root, backbone, seeds) for backbone in backbones]
    for method in EVERY_METHOD:
        cells = []
        for column in columns:
            if method not in column:
                cells.append("-")
                continue
            mean, above = stats.mean(column[method]), stats.mean(column[method]) - stats.mean(column["head"])
            short = " !" if method != "head" and above < MARGIN else ""
            cells.append(f"{mean:.1f} ({above:+.1f}, n={len(column[method])}){short}")
        print(f"| {method} | {' | '.join(cells)} |")


def main() -> None:
    """Make the runs, print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="results/reference")
    parser.add_argument("--backbones", default="demo_deberta,demo_roberta,demo_bart,demo_t5")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--every-method", action="store_true", help="all methods of conf/method, as a matrix")
    options = parser.parse_args()
    backbones = options.backbones.split(",")
    if options.every_method:
        for backbone in backbones:
            sweep(options.root, backbone, options.seeds, EVERY_METHOD)
        matrix(options.root, backbones, options.seeds)
        return
    words = bag_of_words()
    print(f"bag of words: {words:.2f} on test ({'holds' if words < 65 else 'FAILS'}: under 65)")
    for backbone in backbones:
        sweep(options.root, backbone, options.seeds, METHODS)
        sweep(options.root, backbone, options.seeds, ("lora",), "model.init=random")
        report(backbone, scores(options.root, backbone, options.seeds))


if __name__ == "__main__":
    main()
