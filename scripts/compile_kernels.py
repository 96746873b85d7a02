"""Compile the kernels of fused attention for GPUs, which needs none: registers, stack and shared memory a program uses.

    python scripts/compile_kernels.py                # needs triton, which torch's builds for CUDA bring

A stack means that a thread's values do not fit its registers, which costs more than anything else in such a kernel; the
exit status is 1 then, or where shared memory does not suffice. float32 without tf32 is there for comparisons, and may
have one. Shapes are DeBERTaV3's: heads of 64, with dropout.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

try:
    import triton
except ModuleNotFoundError:
    sys.exit("error: triton is not installed; torch's builds for CUDA bring it, beside others: pip install triton")
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from methods import disentangled_kernel as kernels

GPUS = {"A100": 80, "H100, H200": 90}
SHARED_BYTES = 99 * 1024  # of a block on the smallest of them that is still current (8.6, 8.9)
TYPES = {"bf16": "bfloat16", "fp32": "float32"}  # the latter without tf32
OTHERS = {"SEED": "*i64", "MASK": "*i1", "TOP": "*fp32", "TOTAL": "*fp32", "DELTA": "*fp32", "dropout": "fp32"}
HEAD = 64


def source(kernel: Any, dtype: str) -> ASTSource:
    """A kernel with the types that a launch would give it."""
    fixed = {
        "HAS_C": True, "HAS_P": True, "DROPS": True, "D": HEAD, "WIDE": HEAD, "ROWS": kernels.BLOCK,
        "COLUMNS": kernels.BLOCK, "SUM": tl.float32, "PRECISION": "ieee",
    }  # fmt: skip
    signature = {}
    for name in kernel.arg_names:
        pointer = f"*{dtype}" if name.isupper() else "i32"
        signature[name] = "constexpr" if name in fixed else OTHERS.get(name, pointer)
    return ASTSource(kernel, signature, fixed)


def used(kernel: Any, dtype: str, capability: int) -> dict[str, int]:
    """Registers a thread, bytes of stack a thread, bytes of shared memory a program."""
    options = {"num_warps": kernels.WARPS, "num_stages": kernels.STAGES}
    made: Any = triton.compile(source(kernel, dtype), target=GPUTarget("cuda", capability, 32), options=options)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = dict(re.findall(r"(REG|STACK):(\d+)", said.stdout + said.stderr))
    return {"registers": int(found["REG"]), "stack": int(found["STACK"]), "shared": int(made.metadata.shared)}


def main() -> None:
    """Compile all and print what each uses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", nargs="+", choices=GPUS, default=list(GPUS))
    options = parser.parse_args()
    fits = True
    print(f"triton {triton.__version__}, blocks of {kernels.BLOCK}, heads of {HEAD}")
    print(f"{'GPU':12}{'kernel':20}{'type':10}{'registers':>10}{'stack':>7}{'shared':>9}")
    for gpu, kernel, dtype in itertools.product(options.gpus, kernels.KERNELS, TYPES):
        found = used(kernel, dtype, GPUS[gpu])
        fits &= (found["stack"] == 0 or dtype == "fp32") and found["shared"] <= SHARED_BYTES
        print(f"{gpu:12}{kernel.__name__:20}{TYPES[dtype]:10}{found['registers']:>10}{found['stack']:>7}"
              f"{found['shared']:>9,}", flush=True)  # fmt: skip
    if not fits:
        sys.exit("a program does not fit: values on the stack, or too much shared memory")


if __name__ == "__main__":
    main()
