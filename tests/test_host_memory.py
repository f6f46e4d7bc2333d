"""What benchmarks/memory.py measures with: it sees the memory of processes that others started."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from halp_jax.datasets.clip import check_clip
from halp_jax.datasets.source import Item
from halp_jax.skeletons.layout import NTU25

SIZE = 64 * 2**20
# Holds SIZE bytes, says so, and waits to be told to end.
HOLDER = f"data = bytes(range(256)) * {SIZE // 256}; print('ready', flush=True); input()"


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import memory

    return memory


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux's /proc")
def test_the_memory_of_a_grandchild_is_seen_while_it_lives(memory):
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLDER!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        found = memory.look(process.pid)
        process.stdin.close()
    assert found["processes"] == 2
    assert SIZE < found["largest"] < found["pss"] < 2 * SIZE
    assert found["pss"] <= found["rss"]
    gone = memory.look(process.pid)
    assert gone == {"pss": 0, "rss": 0, "largest": 0, "processes": 0}


def test_the_clips_are_sound_and_like_those_of_ntu(memory):
    source = memory.open_source(114_000)
    clips = [source.read(Item("x", index))[0] for index in range(0, 114_000, 997)]
    for clip in clips:
        check_clip(clip, NTU25, 120)
    lengths = [len(clip.frames) for clip in clips]
    assert 70 < np.mean(lengths) < 90 and min(lengths) >= 30 and max(lengths) <= 300
    assert len({clip.name for clip in clips}) == len(clips)
    splits = source.splits([clip.info for clip in clips])
    assert set(splits) == {"xsub", "xset"} and all(splits["xsub"].values())
