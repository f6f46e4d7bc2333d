"""The live page: what it reads of runs at work, and that a real browser shows it as it grows."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path

import jax
import numpy as np
import pytest
from _steps import change, create_state

from halp_jax import watch
from halp_jax.errors import UserError
from halp_jax.inspect import page as looks
from halp_jax.inspect.live import charts, files, page, sphere
from halp_jax.training import checkpoint
from tests import _runs

ROOT = Path(__file__).parents[1]
CONFIG = {"streams": ["joint"], "train": {"epochs": 4, "batch_size": 8}}


def make_line(step, **more):
    line = {"step": step, "epoch": step / 10, "loss": 5 - step / 10, "mu": 0.0, "clips_per_s": 80.0}
    return line | {"contrast_accuracy": 0.25} | more


def write_run(folder, steps=(), config=CONFIG, **more):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if steps:
        text = "".join(json.dumps(make_line(step, **more)) + "\n" for step in steps)
        (folder / "metrics.jsonl").write_text(text)
    return folder


def append(folder, text):
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(text)


def look(folder):
    (run,) = files.Watcher([folder]).look()
    return run


@pytest.mark.parametrize(
    "config, line",
    [
        (CONFIG | {"streams": 3}, {}), (CONFIG | {"streams": [["joint"]]}, {}),
        (CONFIG | {"train": {"epochs": "x", "batch_size": []}}, {}), (CONFIG | {"train": 1}, {}),
        (CONFIG, {"loss": [1], "epoch": "x", "mu": {}}), (CONFIG, {"loss": 10**400, "kept": "a"}),
        (CONFIG, {"step": -1}), (CONFIG, {"step": 10**30}),
    ],
)  # fmt: skip
def test_a_strange_run_costs_only_itself(tmp_path, config, line):
    write_run(tmp_path / "a", (10,), config)
    append(tmp_path / "a", json.dumps(make_line(20) | line) + "\n")
    write_run(tmp_path / "b", (10, 20))
    app = page.make_app(files.Watcher([tmp_path]), sphere.Spheres())
    assert app.layout() is not None
    runs = files.Watcher([tmp_path]).look()
    assert [charts.summarize(run).step for run in runs][1] == 20
    assert page.make_table(runs, "") is not None
    for panel in charts.PANELS:
        for axis in charts.AXES:
            charts.plot_panel(panel, runs, [], axis, "", "light")


def test_pipes_and_files_without_an_end_are_not_read(tmp_path):
    for name in ("pipe", "zero"):
        write_run(tmp_path / name)
    os.mkfifo(tmp_path / "pipe/metrics.jsonl")
    (tmp_path / "pipe/eval").mkdir()
    os.mkfifo(tmp_path / "pipe/eval/knn.json")
    (tmp_path / "zero/metrics.jsonl").symlink_to("/dev/zero")
    write_run(tmp_path / "good", (10,))
    assert [len(run.records) for run in files.Watcher([tmp_path]).look()] == [1, 0, 0]


def test_a_half_written_line_is_read_once_it_is_whole(tmp_path):
    folder = write_run(tmp_path / "run", (10,))
    watcher, line = files.Watcher([folder]), json.dumps(make_line(20))
    append(folder, line[:30])
    assert [r["step"] for r in watcher.look()[0].records] == [10]
    append(folder, line[30:] + "\nnonsense\n[3]\n" + '{"step": "x"}\n')
    assert [r["step"] for r in watcher.look()[0].records] == [10, 20]


def test_lines_that_a_resumed_run_drops_are_forgotten(tmp_path):
    folder = write_run(tmp_path / "run", (10, 20, 30))
    watcher = files.Watcher([folder])
    assert charts.summarize(watcher.look()[0]).step == 30
    other = tmp_path / "other"
    other.write_text(json.dumps(make_line(10, loss=1.0)) + "\n")
    os.replace(other, folder / "metrics.jsonl")  # as truncate_metrics does
    assert charts.read_series(watcher.look()[0], "loss").value.tolist() == [1.0]
    append(folder, json.dumps(make_line(20, loss=2.0)) + "\n")
    assert charts.read_series(watcher.look()[0], "loss").value.tolist() == [1.0, 2.0]
    append(folder, json.dumps(make_line(20, loss=3.0)) + "\n")  # a step twice: the later counts
    assert charts.read_series(watcher.look()[0], "loss").value.tolist() == [1.0, 3.0]
    (folder / "metrics.jsonl").unlink()
    assert charts.summarize(watcher.look()[0]).state == charts.NOT_STARTED


def test_figures_of_one_stream_and_of_all(tmp_path):
    config = CONFIG | {"streams": ["joint", "bone"]}
    more = {"mu": 1.0, "kept": 0.5, "kept_joint": 0.6, "kept_bone": 0.4, "knn_top1": 0.3}
    run = look(write_run(tmp_path / "run", (10, 20), config, **more))
    for stream, value in (("", 0.5), ("joint", 0.6), ("bone", 0.4)):
        assert charts.read_series(run, "kept", stream).value.tolist() == [value] * 2
        assert charts.summarize(run, stream).kept == value
    assert not len(charts.read_series(run, "kept", "motion").step)
    assert charts.summarize(run, "bone").knn is None  # training looks at the first stream alone
    single = look(write_run(tmp_path / "single", (10,), **(more | {"kept_joint": None})))
    assert charts.summarize(single, "joint").kept == 0.5


def test_figures_of_halp_count_where_it_is_on(tmp_path):
    folder = write_run(tmp_path / "run", (10,), kept=1.0, loss_halp=-2.0)
    assert charts.summarize(look(folder)).kept is None
    append(folder, json.dumps(make_line(20, mu=1.0, kept=0.9, loss_halp=-7.0)) + "\n")
    run = look(folder)
    assert charts.summarize(run).kept == 0.9
    assert charts.read_series(run, "loss_halp").step.tolist() == [20]
    assert charts.read_series(run, "loss_halp").epoch.tolist() == [2.0]


def test_the_newest_evaluation_counts(tmp_path):
    folder = write_run(tmp_path / "run", (10, 20), knn_top1=0.3)
    (folder / "eval").mkdir()
    config = {"knn": {"k": 1}}
    result = {"encoder": "trained", "stream": "joint", "top1": 0.7, "step": 20, "config": config}
    (folder / "eval" / "knn.json").write_text(json.dumps(result))
    random = result | {"encoder": "random", "top1": 0.1}
    (folder / "eval" / "knn_random.json").write_text(json.dumps(random))
    (folder / "eval" / "knn_bone.json").write_text('{"half')
    for name, other in (("val", {"part": "val"}), ("k20", {"config": {"knn": {"k": 20}}})):
        (folder / "eval" / f"knn_{name}.json").write_text(
            json.dumps(result | other | {"top1": 0.9})
        )
    run = look(folder)
    assert charts.summarize(run).knn == 0.7
    append(folder, json.dumps(make_line(30, knn_top1=0.4)) + "\n")
    assert charts.summarize(look(folder)).knn == 0.4


def test_long_curves_are_thinned_and_keep_their_ends(tmp_path):
    run = look(write_run(tmp_path / "run", range(1, 5001)))
    series = charts.read_series(run, "loss")
    assert len(series.step) == charts.MAX_POINTS
    assert (series.step[0], series.step[-1]) == (1, 5000)


def test_a_sweep_shows_every_run_and_those_that_start_later(tmp_path):
    write_run(tmp_path / "sweep" / "a", (10,))
    (tmp_path / "sweep" / "a" / "checkpoints" / "10").mkdir(parents=True)
    write_run(tmp_path / "sweep" / "a" / "checkpoints" / "10")  # no run, though it looks like one
    watcher = files.Watcher([tmp_path / "sweep", tmp_path / "sweep" / "a"])
    assert [run.name for run in watcher.look()] == ["a"]
    write_run(tmp_path / "sweep" / "more" / "b")
    assert [(run.name, run.checkpoint) for run in watcher.look()] == [("a", 10), ("more/b", None)]
    shutil.rmtree(tmp_path / "sweep" / "a")
    assert [run.name for run in watcher.look()] == ["b"]


def test_states(tmp_path):
    clock = [0.0]
    folder = write_run(tmp_path / "run")
    watcher = files.Watcher([folder], clock=lambda: clock[0])

    def state():
        return charts.summarize(watcher.look()[0])

    assert (state().state, state().steps) == (charts.NOT_STARTED, None)
    append(folder, "".join(json.dumps(make_line(step)) + "\n" for step in (10, 20)))
    row = state()
    assert (row.state, row.step, row.steps, row.epoch) == (charts.TRAINING, 20, 40, 2.0)
    assert row.left == pytest.approx(20 * 8 / 80)
    written = (folder / "metrics.jsonl").stat().st_mtime
    os.utime(folder / "metrics.jsonl", (written - 900, written - 900))
    assert state().state == charts.TRAINING  # it grew before our eyes, whatever its date says
    clock[0] += 901
    assert state().state == charts.STOPPED and state().left is None
    assert "no line for 15m" in charts.write_row(state())[1]
    assert (
        charts.summarize(look(folder)).state == charts.STOPPED
    )  # at the first look the date tells
    append(folder, json.dumps(make_line(30)) + "\n")
    assert state().state == charts.TRAINING
    append(folder, json.dumps(make_line(40)) + "\n")
    assert state().state == charts.FINISHED


def test_slow_lines_are_waited_for(tmp_path):
    folder = write_run(tmp_path / "run", (10, 20), clips_per_s=0.8)  # 100 s a line
    written = (folder / "metrics.jsonl").stat().st_mtime
    os.utime(folder / "metrics.jsonl", (written - 300, written - 300))
    assert charts.summarize(look(folder)).state == charts.TRAINING
    os.utime(folder / "metrics.jsonl", (written - 700, written - 700))
    assert charts.summarize(look(folder)).state == charts.STOPPED


def test_what_is_wrong_is_said(tmp_path):
    folder = write_run(tmp_path / "run", range(1, 11), contrast_accuracy=0.5)
    append(folder, "".join(json.dumps(make_line(s, mu=1.0)) + "\n" for s in range(11, 22)))
    assert "fell from 50.0%" in charts.summarize(look(folder)).warning
    append(folder, json.dumps(make_line(22, loss=None)) + "\n")
    assert "no longer finite at step 22" in charts.summarize(look(folder)).warning


def test_nothing_is_written_into_a_run(tmp_path):
    folder = write_run(tmp_path / "run", (10,))
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    charts.summarize(look(folder))
    assert {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]} == before


def test_four_and_twenty_runs_look_different():
    assert len({charts.style_run(place) for place in range(24)}) == 24
    for place in range(23):
        here, there = charts.style_run(place), charts.style_run(place + 1)
        assert here[0] != there[0] and here[1] != there[1]


def test_wrong_folders_and_a_taken_port_cost_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for folder, words in (("nowhere", "is no folder"), ("empty", "no run in")):
        assert watch.main([str(tmp_path / folder), "--no-browser"]) == 1
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    run = write_run(tmp_path / "run")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        pytest.importorskip("dash")
        assert watch.main([str(run), f"--port={port}", "--no-browser"]) == 1
    error = capsys.readouterr().err
    assert f"port {port}" in error and "--port" in error and error.count("\n") == 1


@pytest.mark.parametrize(("name", "opened"), [("w3m", []), ("xdg-open", ["URL"]), ("", [])])
def test_no_browser_of_the_terminal_is_waited_for(monkeypatch, name, opened):
    shown = []

    class Browser(webbrowser.BaseBrowser):
        def open(self, url, new=0, autoraise=True):
            shown.append(url)

    def get():
        if not name:
            raise webbrowser.Error("there is none")
        return Browser(name)

    monkeypatch.setattr(webbrowser, "get", get)
    watch.open_browser("URL")
    assert shown == opened


def test_without_dash_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dash", None)
    with pytest.raises(UserError, match="pip install dash.*'inspect'"):
        page.make_app(files.Watcher([write_run(tmp_path)]), sphere.Spheres())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two tiny runs with a checkpoint each: prototypes in the second alone."""
    folder = tmp_path_factory.mktemp("watch")
    config = _runs.small_config(_runs.pack_clips(folder / "clips.npz"))
    state = create_state(config)
    state = state.replace(step=state.step + 6)
    prototypes = jax.random.normal(jax.random.key(0), state.extra["prototypes"].shape)
    prototypes /= np.linalg.norm(prototypes, axis=-1, keepdims=True)
    on = change(state, prototypes=prototypes)
    for name, saved in (("baseline", state), ("halp", on)):
        checkpoint.save_config(folder / name, config)
        with checkpoint.open_manager(folder / name, config) as manager:
            checkpoint.save(manager, 6, saved, {"layout": "ntu25"})
    return folder


def test_a_sphere_is_drawn_from_files(trained):
    pytest.importorskip("plotly")
    drawn = sphere.plot_sphere(trained / "halp", "", 6)
    names = {each["name"]: each for each in drawn.pictures["dark"]["data"]}
    assert len(names["prototypes"]["text"]) == 4 and "positives kept" in drawn.title
    bare = sphere.plot_sphere(trained / "baseline", "", 6)
    names = {each["name"]: each for each in bare.pictures["light"]["data"]}
    assert not names["prototypes"]["showlegend"] and names["real clips"]["showlegend"]
    assert sphere.OFF in bare.title
    with pytest.raises(UserError, match="no checkpoint of step 5"):  # deleted meanwhile
        sphere.plot_sphere(trained / "halp", "", 5)
    moved = trained / "moved"
    (trained / "clips.npz").rename(moved)
    with pytest.raises(UserError, match="clips.npz"):
        sphere.plot_sphere(trained / "halp", "", 6)
    moved.rename(trained / "clips.npz")


class Pool:
    """Draws when it is told to."""

    def __init__(self):
        self.given = []

    def submit(self, function, *arguments):
        self.given.append(sphere.Future())
        return self.given[-1]


def test_spheres_are_asked_for_once_each(tmp_path):
    run = look(write_run(tmp_path / "run", (10,)))
    clock = [0.0]
    spheres = sphere.Spheres(clock=lambda: clock[0])
    spheres._pool = pool = Pool()
    assert "no checkpoint yet" in spheres.ask(run).message and not pool.given
    run = run._replace(checkpoint=10)
    assert "drawing step 10" in spheres.ask(run).message
    assert "drawing step 10" in spheres.ask(run).message and len(pool.given) == 1
    pool.given[0].set_result(sphere.Sphere(10, "title", {"light": {}}))
    assert spheres.ask(run).step == 10 and len(pool.given) == 1
    newer = run._replace(checkpoint=20)
    shown = spheres.ask(newer)  # the old picture stays while the new one is drawn
    assert shown.pictures and "drawing step 20" in shown.message and len(pool.given) == 2
    pool.given[1].set_exception(UserError("it is\ngone"))
    shown = spheres.ask(newer)
    assert shown.pictures and shown.message == "step 20 is not drawn: it is gone"
    assert len(pool.given) == 2
    clock[0] += sphere.RETRY + 1
    assert "drawing step 20" in spheres.ask(newer).message and len(pool.given) == 3


@pytest.fixture
def served(tmp_path):
    """The page of one run, on a port of its own: (address, workdir)."""
    pytest.importorskip("dash")
    folder = write_run(tmp_path / "run", (10, 20))
    spheres = sphere.Spheres()
    app = page.make_app(files.Watcher([folder]), spheres)
    with watch.bind(0) as listener:
        server = watch.serve(app, listener)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield app, listener.getsockname(), folder
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_callbacks_answer_with_what_is_new(served):
    app, address, folder = served
    assert address[0] == "127.0.0.1"
    key = next(key for key in app.callback_map if "chart-loss.figure" in key)
    dependencies = app.callback_map[key]
    values = {"axis": "step", "stream": "all", "hidden": None, "theme": "dark", "tick": 1}

    def ask(seen):
        outputs = [
            {"id": part.rsplit(".", 1)[0], "property": part.rsplit(".", 1)[1]}
            for part in key.strip(".").split("...")
        ]
        inputs = [each | {"value": values[each["id"]]} for each in dependencies["inputs"]]
        state = [each | {"value": seen} for each in dependencies["state"]]
        body = {
            "output": key, "outputs": outputs, "inputs": inputs, "state": state,
            "changedPropIds": ["tick.n_intervals"],
        }  # fmt: skip
        request = urllib.request.Request(
            f"http://127.0.0.1:{address[1]}/_dash-update-component",
            json.dumps(body).encode(), {"Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())["response"]

    assert "chart-knn_top1.figure" in key
    first = ask(None)
    curve = first["chart-loss"]["figure"]["data"][0]
    assert curve["x"] == [10, 20] and curve["y"] == [4.0, 3.0] and curve["name"] == "run"
    layout = first["chart-loss"]["figure"]["layout"]
    assert layout["font"]["color"] == looks.INK["dark"]
    assert layout["xaxis"]["title"]["text"] == "step (batches)"
    assert "20 of 40" in json.dumps(first["table"])
    again = ask(first["seen"]["data"])
    assert "table" in again and "chart-loss" not in again  # nothing new: nothing is redrawn
    append(folder, json.dumps(make_line(30)) + "\n")
    grown = ask(first["seen"]["data"])
    assert grown["chart-loss"]["figure"]["data"][0]["x"] == [10, 20, 30]
    values["hidden"] = ["run"]
    figure = ask(grown["seen"]["data"])["chart-loss"]["figure"]
    assert not figure["data"] and figure["layout"]["annotations"]


def test_another_host_name_is_refused(served):
    url = f"http://127.0.0.1:{served[1][1]}/"
    with urllib.request.urlopen(url) as answer:
        assert b"halp_jax.watch" in answer.read()
    with pytest.raises(urllib.error.HTTPError, match="400") as error:
        urllib.request.urlopen(urllib.request.Request(url, headers={"Host": "evil.example"}))
    error.value.close()


@pytest.fixture
def browser():
    pytest.importorskip("selenium", reason="no selenium: pip install selenium")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no Chromium with its chromedriver: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1500,1400",
                   "enable-unsafe-swiftshader"):  # fmt: skip
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver))
    yield driver
    driver.quit()


def test_a_real_browser_shows_a_run_as_it_grows(tmp_path, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    pytest.importorskip("dash")
    folder = write_run(tmp_path / "runs" / "first", (10, 20))
    command = [sys.executable, "-m", "halp_jax.watch", str(folder.parent), "--port=0"]
    with open(tmp_path / "errors", "w") as errors:
        process = subprocess.Popen(
            [*command, "--every=0.5", "--no-browser"],
            stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT,
        )  # fmt: skip
    try:
        url = process.stdout.readline().split()[0]
        wait = WebDriverWait(browser, 30)

        def points(driver):
            return driver.execute_script(
                "const plot = document.querySelector('#chart-loss .js-plotly-plot');"
                "return plot && plot.data ? plot.data.map(curve => curve.x.length) : [];"
            )

        browser.get(url)
        wait.until(lambda d: points(d) == [2])
        height = "return document.querySelector('#chart-loss').getBoundingClientRect().height"
        assert browser.execute_script(height) > 200
        append(folder, json.dumps(make_line(30)) + "\n" + json.dumps(make_line(40))[:9])
        wait.until(lambda d: points(d) == [3])
        write_run(tmp_path / "runs" / "second", (10,))
        wait.until(lambda d: points(d) == [3, 1])
        table = browser.execute_script("return document.querySelector('table').innerText")
        assert "first" in table and "second" in table and "30 of 40" in table
        text = browser.execute_script("return document.body.innerText")
        assert "no checkpoint yet" in text
        bad = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
        assert bad == []
        messages = [json.loads(x["message"])["message"] for x in browser.get_log("performance")]
        asked = [
            m["params"]["request"]["url"]
            for m in messages
            if m["method"] == "Network.requestWillBeSent"
        ]
        assert len(asked) > 5
        assert [u for u in asked if not u.startswith((url, "data:", "blob:", "chrome:"))] == []
        assert sorted(p.name for p in folder.iterdir()) == ["config.json", "metrics.jsonl"]
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(20)
        with contextlib.suppress(OSError):
            process.stdout.close()
    assert status == 0 and (tmp_path / "errors").read_text() == ""
