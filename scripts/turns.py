"""Several programs that take turns in one process, so that a machine that slows down slows all of them.

Each runs in a thread of its own and calls `pause` where a measured piece of work ends; the others stand still meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Pause = Callable[[], None]


@dataclass
class Side:
    """One program. What it does before its first `pause` is set-up and warm-up, and not kept.

    Args:
        program: calls the `pause` it is given after every piece of work, and returns when there is no more.
        wall, processor: seconds of each kept piece; the processor's are those of the whole process.
    """

    program: Callable[[Pause], None]
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    error: BaseException | None = None
    over: bool = False
    _go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _done: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def start(self) -> None:
        """Make the thread; it waits for its first turn."""
        threading.Thread(target=self._run, daemon=True).start()

    def turn(self) -> tuple[float, float]:
        """Let it work up to its next pause. Returns wall and processor seconds; raises what it raised."""
        wall, processor = time.perf_counter(), time.process_time()
        self._go.release()
        self._done.acquire()
        if self.error is not None:
            raise self.error
        return time.perf_counter() - wall, time.process_time() - processor

    def _run(self) -> None:
        self._go.acquire()
        try:
            self.program(self._pause)
        except BaseException as error:  # noqa: BLE001  # a thread's error has to reach the one who waits
            self.error = error
        self.over = True
        self._done.release()

    def _pause(self) -> None:
        self._done.release()
        self._go.acquire()


def alternate(sides: dict[str, Side]) -> None:
    """Turn after turn until every side is over, in an order that is reversed every round."""
    for side in sides.values():
        side.start()
        side.turn()
    order = list(sides.values())
    while waiting := [side for side in order if not side.over]:
        for side in waiting:
            wall, processor = side.turn()
            if not side.over:  # what follows the last pause is no piece of work
                side.wall.append(wall)
                side.processor.append(processor)
        order.reverse()
