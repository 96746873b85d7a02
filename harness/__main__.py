"""`python -m harness [group=option] [key=value] ...`: one run, or with -m a sweep. Prints one honest line a run.

Exit codes: 0 done (now or before), 1 a run failed or diverged, 2 bad input, 128 + n stopped by signal n with a
checkpoint: the same command goes on. Torch is imported only to make a run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from harness import compose, distributed, make, pack, preview, sweep
from harness.errors import ConfigError, HarnessError, reader_left
from harness.paths import CONF


def one(config: DictConfig) -> None:
    """The single run that Hydra composed."""
    try:
        sweep.refuse_launcher(config)
        checked = compose.checked(config)
        pack.alone(checked)
        make.make(checked)
    except HarnessError as error:
        bad_input(str(error))


def bad_input(message: str) -> NoReturn:
    """Say what is wrong and what to do, without a traceback. Of several processes of a run the first one speaks."""
    if distributed.rank() == 0:
        print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def ordered(words: list[str]) -> list[str]:
    """The same command with its values first: Hydra's parser refuses those on both sides of `-m`.

    Raises ConfigError for a value that is written as an option.
    """
    known, left = get_args_parser().parse_known_args(words)
    if dashed := [word for word in left if word.startswith("-")]:
        name, _, value = dashed[0].lstrip("-").partition("=")
        after = words[words.index(dashed[0]) + 1 :]
        value = value or (after[0] if after and after[0][:1].isalnum() and "=" not in after[0] else "VALUE")
        raise ConfigError(
            f"unknown option {dashed[0]}; values are written without dashes: {name}={value}; --help shows all"
        )
    values = [*known.overrides, *left]
    return words if not left else [*values, *(word for word in words if word not in values)]


def main() -> None:
    """Compose, run or sweep; every mistake on the command line ends here in one message and exit code 2."""
    compose.register()
    sweep.register()
    if Path(sys.argv[0]).name == "__main__.py":
        sys.argv[0] = "python -m harness"  # as the usage line has it
    try:
        sys.argv[1:] = ordered(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(one)()
        if preview.asked(sys.argv[1:]):
            for line in preview.solved(sys.argv[1:]):
                print(line)
        sys.stdout.flush()
    except HarnessError as error:
        bad_input(str(error))
    except compose.COMPOSITION_ERRORS as error:
        bad_input(compose.explain(error))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(reader_left()) from None
    raise SystemExit(1 if make.failed else 0)


if __name__ == "__main__":
    main()
