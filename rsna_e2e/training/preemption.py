"""Being asked to stop: schedulers send a signal some time before they take a machine away."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

MARKER = "preempted"  # file in a run folder that was left because of a signal, after saving
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # USR1: what Slurm's --signal is mostly told to send


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yield what tells whether SIGTERM or SIGUSR1 has come; until the block ends they do nothing else.

    Of the main thread only, as Python's signal handlers are.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
