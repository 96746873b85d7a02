"""Signals that ask a run to stop: noted while an update is being made, answered at its end, when all is on disk.

SIGTERM (preemption, scancel), SIGINT (Ctrl-C), SIGUSR1 and SIGUSR2 (a batch system's warning before a time limit) end a
run with a checkpoint, a record that says PREEMPTED or TIMEOUT, and exit code 128 + the signal's number, which means: the
same command goes on where this one stopped. A second Ctrl-C does not wait for the update's end; a second one of the
others does, since a launcher may pass on to its processes what they were sent already.

    with Interrupt() as interrupt:              # the handlers that stood before come back at its end
        ...                                     # here a signal raises Stopped at once: there is nothing to save
        with interrupt.deferred():
            ...                                 # here it is noted:
            if interrupt.number is not None: save(); raise Stopped(interrupt.number)

A launcher with a handler of its own (submitit: requeue the job, then exit) is served by `hand_on(stopped)`, called by
whoever caught the `Stopped` that left `harness.run.run`.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

PREEMPTED, TIMEOUT = "PREEMPTED", "TIMEOUT"  # states of the run's record
STATES = {
    signal.SIGTERM: PREEMPTED,
    signal.SIGINT: PREEMPTED,
    signal.SIGUSR1: TIMEOUT,
    signal.SIGUSR2: TIMEOUT,
}


class Stopped(SystemExit):
    """A signal ended the run; it can go on. As a SystemExit it carries the exit code, 128 + the signal's number.

    Args:
        number: the signal.
        where: how far the run was, for people.
    """

    def __init__(self, number: int, where: str = "") -> None:
        super().__init__(128 + number)
        self.number, self.where, self.state = number, where, STATES[signal.Signals(number)]
        self.reason = f"stopped by {signal.Signals(number).name}{where and f' {where}'}"

    def __str__(self) -> str:
        return self.reason


class Interrupt:
    """Notes the signals of `STATES` while it is entered. Outside the main thread it does nothing: Python allows no more."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._deferred = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in STATES}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        insists = number == signal.SIGINT and self.number == signal.SIGINT
        self.number = self.number or number
        if insists or not self._deferred:
            raise Stopped(self.number)
        print(f"{signal.Signals(number).name}: stopping after this update", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def deferred(self, on: bool = True) -> Iterator[None]:
        """Inside, a signal is noted and the code goes on; with `on=False` it raises at once, also within the former."""
        before, self._deferred = self._deferred, on
        try:
            if not on and self.number is not None:
                raise Stopped(self.number)
            yield
        finally:
            self._deferred = before


def hand_on(stopped: Stopped) -> None:
    """Call the handler that stood before ours for the signal, where there is one (submitit's requeues and exits)."""
    handler = signal.getsignal(stopped.number)
    if callable(handler) and handler is not signal.default_int_handler:
        handler(stopped.number, None)
