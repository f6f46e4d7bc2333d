"""How far a long command is: tqdm's bar on a terminal, a plain line every ten seconds in a log."""

import contextlib
import sys
from typing import Any

from tqdm import tqdm

LOG_INTERVAL = 10.0  # seconds between lines of a log
CONTROLS = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"
}
LINE = "{desc} {n:,}/{total:,} {unit} ({percentage:.0f} %){speed}{postfix}"


class Progress(tqdm):
    """Counts units of work up to `total` and shows the rate, the time left and the last metrics.

    Args:
        total: how many units make the whole.
        label: what is going on, one word: the line starts with it.
        start: units that an earlier run has done; they do not count towards the rate.
        unit: what one unit is called, in the plural.
        stream: where to write; standard error if None.

    Use it as a context manager, so that the last line is written and the cursor left on a new one.
    """

    monitor_interval = 0  # no thread that redraws what does not move

    def __init__(
        self, total: int, label: str, *, start: int = 0, unit: str = "steps", stream: Any = None
    ):
        stream = getattr(sys.stderr, "plain", sys.stderr) if stream is None else stream
        self.live = live = getattr(stream, "isatty", lambda: False)()
        self.metrics: dict[str, object] = {}
        super().__init__(
            total=total, desc=label, initial=start, unit=unit, dynamic_ncols=live, miniters=1,
            file=stream if live else Lines(stream), mininterval=0.1 if live else LOG_INTERVAL,
            bar_format=LINE.replace("{speed}", " {bar:10}{speed}") if live else LINE,
            delay=1e-9,  # no line before the first unit is done
        )  # fmt: skip

    def update(self, amount: int = 1, **metrics: object) -> None:
        """`amount` more units are done; `metrics` replace the ones of the same name in the line."""
        self.metrics.update(metrics)
        shown = {n: f"{v:.4g}" if isinstance(v, float) else v for n, v in self.metrics.items()}
        self.set_postfix_str(", ".join(f"{n} {v}" for n, v in shown.items()), refresh=False)
        super().update(amount)

    def restart(self, amount: int) -> None:
        """`amount` more units are done; the rate, and the time left, are of what comes from here on."""
        self.n += amount
        self.initial = self.last_print_n = self.n
        self.start_t = self.last_print_t = self._time()
        self.refresh()

    def note(self, line: str) -> None:
        """Writes a line of its own, above the bar."""
        line = escape_controls(line)
        if self.live:
            self.write(line, file=self.fp)
        else:
            self.fp.write(line)

    @property
    def format_dict(self) -> dict[str, Any]:
        """What tqdm fills the line with, and the average speed with the time left."""
        values = super().format_dict
        seconds, left = values["elapsed"], self.total - self.n
        rate = (self.n - self.initial) / seconds if seconds > 0 else 0.0
        rest = f"{duration(left / rate)} left" if left > 0 and rate else duration(max(0, seconds))
        speed = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"
        return values | {"speed": f", {speed}, {rest}" if rate else ""}


class Lines:
    """A stream of lines for what redraws one line; one that is full or closed ends no work."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if text.strip():
                self._stream.write(text.strip() + "\n")

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.flush()


class Shown:
    """A stream of text for people: what names hold moves no cursor and sets no title.

    Args:
        plain: the stream below, for a bar that moves the cursor itself.
        log: that it is full or closed ends no work.
    """

    def __init__(self, plain: Any, log: bool = False):
        self.plain, self._lost = plain, (OSError,) if log else ()

    def write(self, text: str) -> None:
        with contextlib.suppress(*self._lost):
            self.plain.write(escape_controls(text))

    def flush(self) -> None:
        with contextlib.suppress(*self._lost):
            self.plain.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)


def escape_controls(text: str) -> str:
    r"""Text with its control characters, but tabs and ends of lines, as Python writes them: \x1b."""
    return text.translate(CONTROLS)


def duration(seconds: float | int) -> str:
    """Seconds as people say them: "45s", "3m20s", "2h05m", "3d04h"."""
    whole = int(round(seconds))
    for big, small, size, rest in (("d", "h", 86400, 3600), ("h", "m", 3600, 60)):
        if whole >= size:
            return f"{whole // size}{big}{whole % size // rest:02d}{small}"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"
