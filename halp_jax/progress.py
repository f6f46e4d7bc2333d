"""How far a long command is: one live line on a terminal, a plain line every few seconds in a log.

Shared by the three commands. Works on any text stream and needs nothing but the standard library.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

TERMINAL_INTERVAL = 0.1  # seconds between redrawings of the live line
LOG_INTERVAL = 10.0  # seconds between lines of a log


class Progress:
    """Counts units of work up to `total` and says the rate, the time left and the last figures.

    Args:
        total: how many units make the whole.
        label: what is going on, one word: the line starts with it.
        start: units that an earlier run has done; they do not count towards the rate.
        unit: what one unit is called, in the plural.
        stream: where to write, anything with write and flush; standard error if None.
        interval: seconds between two lines; if None, short on a terminal and long in a log.
        clock: seconds that never run backwards; for tests.

    Use it as a context manager, so that the last line is written and the cursor left on a new one.
    """

    def __init__(
        self,
        total: int,
        label: str,
        *,
        start: int = 0,
        unit: str = "steps",
        stream: Any = None,
        interval: float | int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.label, self.unit = total, label, unit
        self.done = self._start = start
        self.figures: dict[str, object] = {}
        self._stream = sys.stderr if stream is None else stream
        self._live = bool(getattr(self._stream, "isatty", lambda: False)())
        self._interval = interval
        if interval is None:
            self._interval = TERMINAL_INTERVAL if self._live else LOG_INTERVAL
        self._clock = clock
        self._begin = self._shown_at = clock()
        self._width = 0
        self._shown = -1

    def update(self, amount: int = 1, **figures: object) -> None:
        """`amount` more units are done; `figures` replace the ones of the same name in the line."""
        self.done += amount
        self.figures.update(figures)
        if self._clock() - self._shown_at >= self._interval:
            self._show()

    def note(self, line: str) -> None:
        """Writes a line of its own, above the live one."""
        self._erase()
        print(line, file=self._stream, flush=True)

    def line(self) -> str:
        """What is shown, e.g. "train 120/400 steps (30 %), 8.1/s, 35s left, loss 4.21"."""
        seconds = self._clock() - self._begin
        rate = (self.done - self._start) / seconds if seconds > 0 else 0.0
        parts = [f"{self.label} {self.done:,}/{self.total:,} {self.unit}"]
        if self.total:
            parts[0] += f" ({100 * self.done // self.total} %)"
        if rate:
            parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
            left = self.total - self.done
            parts.append(f"{duration(left / rate)} left" if left > 0 else f"{duration(seconds)}")
        for name, value in self.figures.items():
            parts.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
        return ", ".join(parts)

    def _show(self) -> None:
        self._shown_at, self._shown = self._clock(), self.done
        text = self.line()
        if self._live:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def _erase(self) -> None:
        if self._live and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._shown != self.done:
            self._show()
        if self._live and self._width:
            self._stream.write("\n")
            self._stream.flush()


def duration(seconds: float | int) -> str:
    """Seconds as people say them: "45s", "3m20s", "2h05m", "3d04h"."""
    whole = int(round(seconds))
    for big, small, size, rest in (("d", "h", 86400, 3600), ("h", "m", 3600, 60)):
        if whole >= size:
            return f"{whole // size}{big}{whole % size // rest:02d}{small}"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"
