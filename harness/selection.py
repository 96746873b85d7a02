"""Which checkpoint is reported: what every evaluation of a run got right, and what choosing among them adds.

A run keeps, in each row of its learning curve, one bit for each row of the selecting split. From these the same run tells its
last score, the best one on the rows that chose it, and what that choice is worth on rows that did not.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.evaluate import Evaluation
    from harness.itemwise import SelectionGap
    from harness.record import Record

MOST_ROWS = 2_000  # of a split; with more the gap is a tenth of a point or less, and the bits would be most of a record
METRIC = "accuracy"  # a mean over rows, so that bits say all


def observed(found: Evaluation) -> dict[str, Any]:
    """Scores for a row of the learning curve and, as `right`, "ROWS:BITS" (base64, in the order of the split).

    Without bits where the score is no mean over rows, or the rows are more than MOST_ROWS.
    """
    import numpy as np

    said, target = (found.predictions.get(name) or [] for name in ("prediction", "target"))
    right = np.array([one == other for one, other in zip(said, target, strict=False)])
    if METRIC not in found.scores or not 0 < right.size <= MOST_ROWS:
        return dict(found.scores)
    if abs(100 * right.mean() - found.scores[METRIC]) > 1e-6:  # a score of something else by that name
        return dict(found.scores)
    return found.scores | {"right": f"{right.size}:{base64.b64encode(np.packbits(right).tobytes()).decode()}"}


def gap(run: Record) -> SelectionGap | None:
    """Last, best-on-dev and held-out selection from the run's own evaluations; None where fewer than two kept bits."""
    import numpy as np

    from harness.itemwise import selection_gap

    rows = [row["right"] for row in run.science.get("curve") or [] if isinstance(row.get("right"), str)]
    try:
        kept = [_bits(text) for text in rows]
    except (ValueError, binascii.Error):
        return None
    if len(kept) < 2 or len({len(bits) for bits in kept}) > 1:
        return None
    return selection_gap(100.0 * np.stack(kept), rng=np.random.default_rng(0))


def _bits(text: str) -> Any:
    """An array of 0 and 1, shape [rows]. Raises ValueError where the text is none."""
    import numpy as np

    size, _, packed = text.partition(":")
    bits = np.unpackbits(np.frombuffer(base64.b64decode(packed, validate=True), dtype=np.uint8))
    if not 0 < int(size) <= bits.size:
        raise ValueError(f"{len(bits)} bits are not {size} rows")
    return bits[: int(size)]
