"""Watches a run for what loss curves hide: HaLP switched on before MoCo has learnt anything.

HaLP's loss has no negatives. On a weak encoder it pulls all queries together, the contrast accuracy
falls to a few per cent and stays there, and nothing is learnt any more, while the loss falls.
"""

from collections.abc import Sequence
from typing import Any

ACCURACY, WEIGHT = "contrast_accuracy", "mu"
WINDOW = 10  # lines of metrics.jsonl that are averaged
FALL = 0.7  # clearly below what it was
WEAK = 0.05  # a MoCo that has learnt something is far above


def find_collapse(records: Sequence[dict[str, Any]]) -> str | None:
    """What is wrong with the current stretch of mu > 0, in one line, or None.

    Args:
        records: the lines of metrics.jsonl so far, in order.
    """
    lines = [line for line in records if line.get(ACCURACY) is not None and WEIGHT in line]
    start = len(lines)
    while start and lines[start - 1][WEIGHT]:
        start -= 1
    before, during = lines[max(0, start - WINDOW) : start], lines[start:]
    if len(during) < WINDOW or not before:
        return None
    was, now = _average(before), _average(during[-WINDOW:])
    advice = (
        "try a later --config.halp.start_epoch, a smaller --config.halp.mu, "
        "or --config.halp.ramp_epochs=20"
    )
    step = during[0]["step"]
    if now < FALL * was:
        return (
            f"contrast accuracy fell from {was:.1%} before HaLP came on (step {step}) "
            f"to {now:.1%}: {advice}"
        )
    if now < WEAK:
        return (
            f"contrast accuracy is {now:.1%} with HaLP on (since step {step}, {was:.1%} before): "
            f"MoCo has not learnt enough yet; {advice}"
        )
    return None


def _average(lines: Sequence[dict[str, Any]]) -> float:
    return sum(line[ACCURACY] for line in lines) / len(lines)
