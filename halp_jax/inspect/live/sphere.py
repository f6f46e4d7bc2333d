"""The newest sphere of runs that may be training, drawn aside: the page that shows it never waits.

A process of its own, of lowest priority and on the CPU alone, restores the checkpoint, embeds some
clips and draws, one sphere at a time. It stays, since a second run of the same shape needs no second
compilation. A checkpoint that training deletes meanwhile costs a message, and the next one is drawn.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from halp_jax.inspect import page
from halp_jax.inspect.live.files import Run

CLIPS, ANCHORS, POSITIVES = 300, 4, 12
RETRY = 60.0  # seconds until what could not be drawn is tried again, without a newer checkpoint
GLOBE = {"light": "#d5d7da", "dark": "#454a51"}
OFF = "HaLP is not on at this step: real clips alone, no prototypes and no positives"


class Sphere(NamedTuple):
    """What the panel of one run shows: a picture, a message, or both while a newer one is drawn."""

    step: int | None = None
    title: str = ""
    pictures: dict[str, Any] | None = None  # theme -> plotly figure, as plain data
    message: str = ""


class Spheres:
    """The newest sphere of each run that is asked for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._lock = clock, threading.Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._drawn: dict[tuple[Path, str], Sphere] = {}
        self._tried: dict[tuple[Path, str], tuple[int, float]] = {}
        self._asked: dict[tuple[Path, str], tuple[int, Future]] = {}

    def ask(self, run: Run, stream: str = "") -> Sphere:
        """What there is now; a newer checkpoint is begun with, and shown when asked again later."""
        place = run.workdir, stream if stream in run.streams else ""
        with self._lock:
            self._collect(place)
            shown = self._drawn.get(place, Sphere())
            if run.checkpoint is None:
                nothing = "no checkpoint yet: the sphere is drawn from the first one"
                return shown if shown.pictures else Sphere(message=nothing)
            step, tried = self._tried.get(place, (None, 0.0))
            again = shown.message and self._clock() - tried > RETRY
            if place not in self._asked and (step != run.checkpoint or again):
                if self._pool is None:
                    spawn = multiprocessing.get_context("spawn")
                    self._pool = ProcessPoolExecutor(1, spawn, initializer=_stand_back)
                try:
                    drawing = self._pool.submit(plot_sphere, *place, run.checkpoint)
                    self._asked[place] = run.checkpoint, drawing
                except BrokenProcessPool:  # its process was killed, for memory perhaps
                    self._pool = None
            if place in self._asked:
                first = "; the first one takes some ten seconds" if not self._drawn else ""
                return shown._replace(message=f"drawing step {self._asked[place][0]}{first} …")
            return shown

    def close(self) -> None:
        """Ends the process, at work or not."""
        with self._lock:
            if self._pool:
                workers = list((self._pool._processes or {}).values())
                self._pool.shutdown(wait=False, cancel_futures=True)
                for worker in workers:
                    worker.terminate()
            self._pool = None

    def _collect(self, place: tuple[Path, str]) -> None:
        """Takes what has been drawn, or why it could not be."""
        if place not in self._asked or not self._asked[place][1].done():
            return
        step, future = self._asked.pop(place)
        self._tried[place] = step, self._clock()
        try:
            self._drawn[place] = future.result()
        except Exception as error:  # of many kinds: a checkpoint may vanish anywhere
            if isinstance(error, BrokenProcessPool):
                self._pool = None
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            shown = self._drawn.get(place, Sphere())
            self._drawn[place] = shown._replace(message=f"step {step} is not drawn: {reason}")


def plot_sphere(workdir: Path, stream: str, step: int) -> Sphere:
    """The sphere of one checkpoint, in both themes. Takes seconds, the first time tens of them.

    Raises:
        UserError: the data set or the checkpoint is not there.
    """
    from halp_jax.inspect import anchors, plots3d

    run = anchors.open_run(workdir, stream=stream, step=step, max_clips=CLIPS)
    scene = plots3d.project_sphere(run, anchors.choose_clips(run, ANCHORS), count=POSITIVES)
    about = f"{run.stream}, {len(run.anchors)} {run.unit}s. "
    # GraphCL keeps no prototypes: those shown are clustered like its own.
    if run.origin == "the run" or (run.unit == "graph" and run.config.halp.mu):
        title = about + plots3d.describe(scene).replace("\n", "; ")
    else:
        made = ("prototypes", "arcs", "positives", "positive_labels", "kept")
        bare = {field: getattr(scene, field)[:0] for field in made}
        scene, title = scene._replace(**bare), about + OFF
    eye = scene.clips.mean(0)  # looked at from above the middle of the clips
    eye = 1.25 * eye / max(float(np.linalg.norm(eye)), 1e-6) + [0.0, 0.0, 0.35]
    pictures = {}
    for theme, globe in GLOBE.items():
        ink = page.INK[theme]
        figure = plots3d.plot_scene(scene, ink, page.PAPER[theme])
        figure.update_traces(line_color=globe, selector={"name": "unit sphere"})
        for trace in figure.data:  # the legend names each class once, and nothing that is not there
            said = trace.name == "unit sphere" or trace.name.startswith("kept: ")
            trace.showlegend = len(trace.x) > 0 and not said
        figure.update_layout(
            title=None, margin={"l": 0, "r": 0, "t": 0, "b": 0}, paper_bgcolor="rgba(0,0,0,0)",
            font={"color": ink, "size": 11}, uirevision="sphere",
            scene_camera={"eye": dict(zip("xyz", map(float, eye), strict=True))}, hoverlabel={"namelength": -1},
            legend={"orientation": "h", "y": 0, "yanchor": "top", "itemsizing": "constant"},
        )  # fmt: skip
        pictures[theme] = figure.to_plotly_json()
    return Sphere(step, title, pictures)


def _stand_back() -> None:
    """In the drawing process: lowest priority, no accelerator, and an end with the page's own."""
    os.nice(19)
    import jax

    from halp_jax.datasets import pipeline

    jax.config.update("jax_platforms", "cpu")
    pipeline.quiet_tensorflow()

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
