"""Where a table or page goes, and in which format: by option, by the suffix of `-o`, or Markdown on the screen."""

from __future__ import annotations

import html
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from harness import atomic
from harness.errors import ConfigError, unknown
from harness.layout import FORMATS, WIDTH, latex_text

if TYPE_CHECKING:
    import pandas as pd


WORDS = ("method", "model", "budget", "task", "settings", "device", "first", "second", "verdict", "over")


def chosen(name: str | None, output: Path | None) -> str:
    """The format asked for, or the one of the file's suffix, or Markdown."""
    if name or output is None:
        return name or "markdown"
    suffixes = {writer.suffix: name for name, writer in FORMATS.items()}
    if output.suffix not in suffixes:
        raise ConfigError(f"-o {output}: {unknown('suffix', output.suffix, suffixes)}; or say --format")
    return suffixes[output.suffix]


def show(text: str, output: Path | None) -> None:
    """Print a text, or write it to a file."""
    if output is None:
        print(text)
        return
    try:
        atomic.write(output, f"{text}\n".encode())
    except OSError as error:
        reason = f"{error.strerror}; choose an existing, writable folder"
        raise ConfigError(f"-o {output} cannot be written: {reason}") from error


def deliver(tables: dict[str, str], name: str, output: Path | None) -> None:
    """Print or write a table and those beneath it, in the format `name`. `tables`: text by key, the main one's "" first.

    CSV holds one table a file: FILE.csv, and the others beside it as FILE.KEY.csv.
    """
    main, *others = [key for key, text in tables.items() if text or not key]
    if name != "csv":
        end = "\n</html>" if name == "html" and others else ""
        text = "\n\n".join([tables[main].removesuffix(end), *(tables[key] for key in others)])
        show(text + end, output)
        return
    if others and output is None:
        asked = " and ".join(f"--{key}" for key in others)
        raise ConfigError(
            f"CSV holds one table, {asked} adds another; give -o FILE.csv: it goes to FILE.{others[0]}.csv"
        )
    for key in (main, *others):
        show(tables[key], output.with_suffix(f".{key}{output.suffix}") if output and key else output)


def frame(table: pd.DataFrame, note: str, name: str) -> str:
    """A plain frame of strings in the format `name`, its note beneath (CSV: without)."""
    if name == "csv":
        plain = table.replace(r"(?<=\d),(?=\d{3})", "", regex=True)  # 437,760 is for eyes
        return plain.to_csv(index=False).rstrip("\n")
    if table.empty and name == "html":
        return f"<p>{html.escape(note)}</p>"
    if table.empty:
        return textwrap.fill(note, WIDTH)
    if name == "html":
        return f"{table.to_html(index=False, border=0)}\n<p>{html.escape(note)}</p>"
    if name == "latex":
        lines = [[latex_text(str(text)) for text in line] for line in [table.columns, *table.values]]
        body = [" & ".join(line) + r" \\" for line in lines]
        columns = "".join("l" if name in WORDS else "r" for name in table)
        head = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", body[0], r"\midrule"]
        beneath = rf"\par\noindent\footnotesize {latex_text(note)}"
        return "\n".join([*head, *body[1:], r"\bottomrule", r"\end{tabular}", beneath])
    sides = ["left" if name in WORDS else "right" for name in table]
    written = table.to_markdown(index=False, disable_numparse=True, colalign=sides)
    return f"{written}\n\n{textwrap.fill(note, WIDTH)}".rstrip()
