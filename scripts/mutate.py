"""Breaks the arithmetic line by line, to see whether a test notices: `python scripts/mutate.py [--only adalora]`.

For every line of a module one operator, comparison, number or reduction after another is exchanged, or a statement left
out (at most `--per-line` mutants a line), and the tests that concern the module run until the first failure, in a
process forked from one that has imported torch already. A mutant that no test kills is printed as line, before, after.
Messages, annotations and declarations are left alone: they are no arithmetic.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ADALORA = ("tests/methods/test_adalora.py",)
INCRELORA = ("tests/methods/test_increlora.py",)
PROPETL = ("tests/methods/test_propetl.py", "tests/methods/test_propetl_training.py")
CODES = ("tests/harness/test_codes.py", "tests/harness/test_quantization.py", "tests/harness/test_packed.py")
MODULES = {
    "methods.reparameterized.adalora": ADALORA, "methods.reparameterized.allocator": ADALORA,
    "methods.reparameterized.svd_form": (*ADALORA, *INCRELORA), "methods.reparameterized.growing": INCRELORA,
    "methods.reparameterized.increlora": INCRELORA, "methods.hybrid.masks": PROPETL, "methods.hybrid.propetl": PROPETL,
    "methods.hybrid.propetl_lora": PROPETL, "methods.hybrid.propetl_prefix": PROPETL, "methods.hybrid.prototype": PROPETL,
    "harness.codes": CODES, "harness.packed": CODES, "harness.quantization": CODES,
}  # fmt: skip
SECONDS = 90  # a mutant that takes longer hangs, and that is noticed
OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
    ast.Mod: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
CALLS = {
    "sum": "mean", "mean": "sum", "max": "min", "min": "max", "amax": "amin", "amin": "amax", "ceil": "floor",
    "floor": "ceil", "add_": "sub_", "sub_": "add_", "mul_": "div_", "div_": "mul_", "sqrt": "square", "abs": "neg",
    "ones": "zeros", "zeros": "ones", "ones_like": "zeros_like", "zeros_like": "ones_like", "detach": "clone",
    "sort": "argsort", "round": "floor",
}  # fmt: skip


def _exchanged(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in place of one node of an expression."""
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OPERATORS:
        yield _with(node, op=OPERATORS[type(node.op)]())
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        yield _with(node, ops=[OPERATORS[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield _with(node, value=not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield _with(node, value=node.value + 1)
    elif isinstance(node, ast.Attribute) and node.attr in CALLS:
        yield _with(node, attr=CALLS[node.attr])
    elif isinstance(node, ast.Name) and node.id in ("min", "max"):
        yield _with(node, id=CALLS[node.id])


def _with(node: ast.AST, **changes: Any) -> ast.AST:
    made = copy.copy(node)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def _arithmetic(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements in functions, and the module's numbers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            inside = [one for one in ast.walk(node) if isinstance(one, ast.stmt) and one is not node]
            skipped = ast.Raise | ast.FunctionDef | ast.Import
            yield from (
                one for one in inside if not isinstance(one, skipped) and not _line(one).startswith("warnings.")
            )
    yield from (one for one in tree.body if isinstance(one, ast.Assign))


def _own(statement: ast.stmt) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Where the expressions of a statement stand, without the statements inside it: parent, field, place in a list."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        parent = waiting.pop()
        for name, value in ast.iter_fields(parent):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for place, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(node, ast.expr) and not isinstance(node, ast.JoinedStr):
                    yield parent, name, place
                    waiting.append(node)
                elif isinstance(node, ast.comprehension | ast.keyword | ast.withitem):
                    waiting.append(node)


def _dispensable(statement: ast.stmt) -> bool:
    """A statement that is there for its effect."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Call)
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return isinstance(statement, ast.AugAssign) or any(
        isinstance(one, ast.Attribute | ast.Subscript) for one in targets
    )


def mutants(source: str, per_line: int) -> Iterator[tuple[int, str, str, str]]:
    """Every mutant of a source: line, the statement before, after, and the whole source."""
    tree = ast.parse(source)
    seen: dict[int, int] = {}
    said: set[tuple[int, str]] = set()
    for statement in dict.fromkeys(_arithmetic(tree)):
        for line, before, after, whole in _of(tree, statement):
            if (line, after) in said or seen.get(line, 0) >= per_line:
                continue
            said.add((line, after))
            seen[line] = seen.get(line, 0) + 1
            yield line, before, after, whole


def _of(tree: ast.Module, statement: ast.stmt) -> Iterator[tuple[int, str, str, str]]:
    before = _line(statement)
    places = list(_own(statement))
    if isinstance(statement, ast.AugAssign):
        kept: Any = statement.op
        statement.op = OPERATORS[type(kept)]()  # type: ignore[assignment]
        yield statement.lineno, before, _line(statement), ast.unparse(tree)
        statement.op = kept
    for parent, name, place in places:
        held = getattr(parent, name)
        node = held if place is None else held[place]
        for other in _exchanged(node):
            _put(parent, name, place, other)
            yield getattr(node, "lineno", statement.lineno), before, _line(statement), ast.unparse(tree)
            _put(parent, name, place, node)
    if _dispensable(statement):
        held, place = _place(tree, statement)
        held[place] = ast.Pass()
        yield statement.lineno, before, "left out", ast.unparse(tree)
        held[place] = statement


def _put(parent: ast.AST, name: str, place: int | None, node: ast.AST) -> None:
    if place is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[place] = node


def _place(tree: ast.Module, statement: ast.stmt) -> tuple[list[Any], int]:
    """The list of statements that holds one, and where in it."""
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            held: Any = getattr(node, name, None)
            for place, one in enumerate(held if isinstance(held, list) else []):
                if one is statement:
                    return held, place
    raise LookupError(ast.unparse(statement))


def _line(statement: ast.stmt) -> str:
    return ast.unparse(statement).split("\n")[0]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module another source."""

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, source

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """The module's specification, with this as its loader."""
        at = ROOT.joinpath(*fullname.split(".")).with_suffix(".py")
        return importlib.util.spec_from_file_location(fullname, at, loader=self) if fullname == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        """Run the other source."""
        exec(compile(self.source, str(module.__file__), "exec"), module.__dict__)  # noqa: S102


def passes(module: str, source: str, tests: tuple[str, ...]) -> bool:
    """Whether all tests pass with a module of this source, in a forked process."""
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))  # of a processor: others may be busy as well
        sys.meta_path.insert(0, _Finder(module, source))
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            import pytest

            code = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--no-header", "--tb=no", *tests])
        os._exit(int(code))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def main() -> None:
    """Every module's mutants, and a table of those killed."""
    parser = argparse.ArgumentParser(prog="python scripts/mutate.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", help="modules with one of these words, commas between, in their names")
    parser.add_argument("--per-line", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="a sample: one mutant of so many")
    parser.add_argument("--count", action="store_true", help="only say how many there are")
    chosen = parser.parse_args()
    os.chdir(ROOT)
    if not chosen.count:
        for name in ("torch", "transformers", "peft", "pytest", "numpy", "hydra", "pandas", "bitsandbytes"):
            importlib.import_module(name)
    print(f"{'module':<40}{'lines':>7}{'mutants':>9}{'killed':>8}{'survived':>10}{'seconds':>9}")
    for module, tests in MODULES.items():
        if not any(word in module for word in chosen.only.split(",")):
            continue
        source = ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
        every = list(mutants(source, chosen.per_line))[:: chosen.every]
        began, survived = time.monotonic(), 0
        if not chosen.count:
            if not passes(module, ast.unparse(ast.parse(source)), tests):
                raise SystemExit(f"error: {', '.join(tests)} fail without any mutant")
            for line, before, after, other in every:
                if passes(module, other, tests):
                    survived += 1
                    print(f"  {module}, line {line}: {before}\n      -> {after}", flush=True)
        lines, killed = len({line for line, *_ in every}), 0 if chosen.count else len(every) - survived
        print(
            f"{module:<40}{lines:>7}{len(every):>9}{killed:>8}{survived:>10}{time.monotonic() - began:>9.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
