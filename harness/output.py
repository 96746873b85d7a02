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


def beneath(text: str, more: str, name: str) -> str:
    """A table and another one beneath it, in the format `name`; a page ends where it ended."""
    end = "\n</html>" if name == "html" else ""
    return f"{text.removesuffix(end)}\n\n{more}{end}" if more else text


def frame(table: pd.DataFrame, note: str, name: str) -> str:
    """A plain frame of strings in the format `name`, its note beneath (CSV: without)."""
    if table.empty and name == "html":
        return f"<p>{html.escape(note)}</p>"
    if table.empty:
        return textwrap.fill(note, WIDTH)
    if name == "csv":
        return table.to_csv(index=False).rstrip("\n")
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
