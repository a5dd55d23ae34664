"""How programs end that were told to: as if they had come to their end, so that nothing temporary stays."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_ENDING = (signal.SIGTERM, signal.SIGHUP)  # of schedulers and containers; of a terminal or ssh session that is closed
_OF_SIGNAL = 128  # plus its number: the exit code of a program that a signal ended, by shells' convention


@contextmanager
def ends_at_signals() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM and SIGHUP end the program as if it had come to its end, so that what is temporary goes. Yields
    what says whether one came. A signal that is ignored, as SIGHUP under nohup, stays so."""
    came: list[int] = []

    def stop(number: int, _: object) -> None:
        if came and number == signal.SIGHUP:  # a shell passes on what the terminal has sent: once is enough
            return
        came.append(number)
        sys.exit(_OF_SIGNAL + number)

    numbers = [number for number in _ENDING if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield lambda: bool(came)
    except Exception:
        if came:  # libraries that were called just then may make another exception of it
            sys.exit(_OF_SIGNAL + came[0])
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
