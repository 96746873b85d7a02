"""What every test may need: no network, and where the shared real data lies.

Being here, this file also puts `tests/` on the path: `from hub import Hub`, `from specs import task`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["HARNESS_CACHE"] = tempfile.mkdtemp(prefix="harness-cache-")  # never the user's own


@pytest.fixture(scope="session")
def glue() -> Path:
    """Real GLUE data in the official layout, `$HARNESS_SHARED/data/GLUE`; it cannot be part of the repository."""
    folder = os.environ.get("HARNESS_SHARED")
    if not folder:
        pytest.skip("HARNESS_SHARED is not set: no real data here")
    return Path(folder) / "data" / "GLUE"
