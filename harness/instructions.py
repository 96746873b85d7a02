"""Super-NaturalInstructions: a file a task, with a definition, examples and instances (Wang et al., 2022).

The prompt is Tk-Instruct's (its `ni_collator`, default options of its scripts): definition, two positive examples
without explanations, the instance. An example that would make the source too long is left out, so that the instance
is never cut first: every row carries the shorter prompts too. As there, a task gives its first 100 instances; of
several right outputs the first one is learnt (there: a random one), and all of them count in the score.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

from harness.errors import DataError
from harness.shapes import Found, Row

INSTANCES = 100
EXAMPLES = 2


def files(path: Path) -> list[Path]:
    """The task files that a directory holds, or that a list (`train_tasks.txt`) names in the `tasks` folder above it.

    Raises DataError where there is none, or a task that is named is missing.
    """
    if path.is_dir():
        found = sorted(path.glob("*.json"))
        if not found:
            raise DataError(f"{path} holds no task (*.json)")
        return found
    folder = next((above / "tasks" for above in path.parents if (above / "tasks").is_dir()), path.parent / "tasks")
    found = [folder / f"{name}.json" for name in path.read_text(encoding="utf-8").split()]
    if missing := [one for one in found if not one.is_file()]:
        raise DataError(f"{path} names {missing[0].stem}, and there is no {missing[0]}")
    return found


def rows(path: Path) -> list[Row]:
    """One row an instance. Raises DataError with file and entry."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a task of Super-NaturalInstructions: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: an object with Definition, Positive Examples and Instances is expected")
    task = Found(str(path), content)
    definition = content.get("Definition")
    # Early files have the definition as a text, later ones in a list.
    task.content["Definition"] = definition[0] if isinstance(definition, list) and definition else definition
    opening = f"Definition: {_closed(task.text('Definition'))}\n\n"
    examples = [_example(at, one) for at, one in enumerate(task.parts("Positive Examples")[:EXAMPLES], start=1)]
    found = []
    for instance in task.parts("Instances")[:INSTANCES]:
        outputs = instance.content.get("output")
        if not isinstance(outputs, list) or not all(isinstance(one, str) and one.strip() for one in outputs or [""]):
            raise DataError(f"{instance.where}: output is {repr(outputs)[:40]}; a list of texts is expected")
        # An input may be empty in a few official tasks: the definition says all there is to do.
        asked = f"Now complete the following example -\nInput: {_closed(instance.get('input', str))}\nOutput: "
        prompts = [opening + "".join(examples[:count]) + asked for count in range(len(examples), -1, -1)]
        # Always as many prompts: a task with one example repeats its last.
        prompts += prompts[-1:] * (EXAMPLES + 1 - len(prompts))
        found.append({"text": prompts[0], "shorter": prompts[1:], "target": outputs[0], "truth": outputs})
    return found


def _example(number: int, found: Found) -> str:
    asked, answer = (_closed(found.get(name, str)) for name in ("input", "output"))
    return f" Positive Example {number} -\nInput: {asked}\n Output: {answer}\n\n"


def _closed(text: str) -> str:
    """Stripped, with a full stop where it ends in no punctuation."""
    text = text.strip()
    return text if text[-1:] in (*string.punctuation,) else f"{text}."
