"""Writes README's tables and figure from what runs left in results; `--check` fails where README differs.

    python scripts/readme.py            rewrite the blocks between the markers, and results/figures/demo.svg
    python scripts/readme.py --check    exit code 1 if README's tables or figure are not what the records give

Scores come from records: method, seeds and interval with them; speeds from the file that this command leaves:

    python scripts/bench_training.py --models deberta_v3_base roberta_base --tasks rte mrpc --sides a b --batch 16 \
        --batches 3 --repeats 3 --json > results/speed.json
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from harness import record, stats
from harness.record import DONE, Record

ROOT = Path(__file__).resolve().parents[1]
STORE = ROOT / "results/reference"
SPEED = ROOT / "results/speed.json"
NAMES = {"deberta_v3_base": "DeBERTaV3-base", "roberta_base": "RoBERTa-base", "rte": "RTE", "mrpc": "MRPC"}
FIGURE = ROOT / "results/figures/demo.svg"
ORDER = ("head", "ia3", "bitfit", "lora", "full")


def table() -> str:
    """The table as `python -m harness.table` prints it, for the embedded entailment task."""
    words = [
        sys.executable,
        "-m",
        "harness.table",
        "--root",
        str(STORE.relative_to(ROOT)),
        "--task",
        "demo/entailment",
        "--as-made",
    ]
    return subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def speed() -> str:
    """How many times our seconds a step the peers take: the median of several passes, the lowest and the highest."""
    lines = ["| backbone, lengths of | Trainer + peft | the same, grouped by length |", "|:--|--:|--:|"]
    for row in json.loads(SPEED.read_text(encoding="utf-8"))["rows"]:
        cells = []
        for side in ("a", "b"):
            found = row["sides"][side]
            ratios = found["processor_ratios"]
            cells.append(f"{found['processor_ratio']:.2f} [{min(ratios):.2f}, {max(ratios):.2f}] ({len(ratios)})")
        lines.append(f"| {NAMES[row['model']]}, {NAMES[row['task']]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def scores() -> dict[str, dict[str, list[float]]]:
    """Main scores on demo/entailment: backbone -> method -> one a seed."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in record.read_all(STORE):
        if not isinstance(one, Record) or one.state != DONE or one.identity["task"]["name"] != "demo/entailment":
            continue
        backbone = one.identity["model"]
        if backbone["init"] == "pretrained":
            found[backbone["name"]][one.identity["method"]["name"]].append(one.science["main"]["score"])
    return found


def drawing() -> bytes:
    """Accuracy by method and backbone: every seed a dot, the mean and its 95 % interval a bar. SVG."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {"svg.hashsalt": "readme", "svg.fonttype": "none", "font.size": 10, "font.family": "sans-serif"}
    )
    by_backbone = scores()
    panels = sorted(by_backbone)
    figure, axes = plt.subplots(1, len(panels), figsize=(2.6 * len(panels) + 0.6, 2.8), sharex=True, squeeze=False)
    for axis, name in zip(axes[0], panels, strict=True):
        methods = [method for method in ORDER if method in by_backbone[name]]
        for place, method in enumerate(methods):
            values = by_backbone[name][method]
            axis.plot(values, [place] * len(values), "o", color="#7aa6c2", markersize=4, alpha=0.8, zorder=2)
            if len(values) > 1:
                low, high = stats.confidence_interval(values)
                axis.plot([low, high], [place, place], color="#1d3f58", linewidth=2, zorder=3)
            axis.plot(stats.mean(values), place, "D", color="#1d3f58", markersize=5, zorder=4)
        axis.set_yticks(range(len(methods)), methods if axis is axes[0][0] else [""] * len(methods))
        axis.set_title(name.removeprefix("demo_"), fontsize=10)
        axis.axvline(50, color="#999999", linewidth=0.8, linestyle=":")
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("accuracy, %")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "scripts/readme.py"}, facecolor="white")
    plt.close(figure)
    return buffer.getvalue()


def numbers(svg: bytes) -> list[str]:
    """What a figure shows, whatever version of matplotlib wrote it: where its marks stand, to a tenth of a point."""
    return [f"{float(found):.1f}" for found in re.findall(rb'<use [^>]*x="([\d.]+)"', svg)]


def replaced(text: str, block: str, content: str) -> str:
    """README with one generated block's content replaced."""
    start, end = f"<!-- generated by scripts/readme.py: {block} -->", "<!-- end -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"README.md has no block '{start}'")
    return pattern.sub(lambda _: f"{start}\n{content}\n{end}", text)


def page(text: str) -> str:
    """README as the records give it."""
    image = (
        f"![Accuracy on the embedded entailment task by method: seeds, mean, 95 % interval]({FIGURE.relative_to(ROOT)})"
    )
    for block, content in {"table": table(), "figure": image, "speed": speed()}.items():
        text = replaced(text, block, content)
    return text


def main() -> None:
    """Rewrite README and the figure, or check README."""
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = page(old)
    if "--check" in sys.argv[1:]:
        if old != new:
            raise SystemExit("README.md differs from what results/reference gives; run python scripts/readme.py")
        if not FIGURE.is_file() or numbers(FIGURE.read_bytes()) != numbers(drawing()):
            raise SystemExit(f"{FIGURE.name} differs from what results/reference gives; run python scripts/readme.py")
        return
    readme.write_text(new, encoding="utf-8")
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    FIGURE.write_bytes(drawing())
    print(f"wrote README.md and {FIGURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
