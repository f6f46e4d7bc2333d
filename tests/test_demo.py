"""The demo from end to end, on few clips: the commands it types, its table and its pictures."""

import contextlib
import json

import jax
import pytest

from halp_jax import demo
from halp_jax.datasets import synthetic_graphs

SMALL = {
    "train.epochs": 3, "train.batch_size": 20, "encoder.width": 8, "encoder.num_layers": 1,
    "moco.queue_size": 40, "halp.start_epoch": 1, "halp.queue_entries": 40,
    "halp.num_prototypes": 4, "halp.update_every": 2, "views.num_frames": 8,
    "linear.epochs": 2, "linear.num_crops": 1, "linear.batch_size": 20,
    "cmd.topk": 20, "train.num_devices": 1, "checkpoint.every_epochs": 1, "checkpoint.keep": 5,
    "knn.every_epochs": 0,
}  # fmt: skip


@pytest.fixture
def compile_fast():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("compile_fast")
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize("variant", ["halp", pytest.param("halp_cmd", marks=pytest.mark.long)])
def test_demo_prepares_trains_evaluates_and_draws(tmp_path, monkeypatch, capsys, variant):
    monkeypatch.setattr(demo, "NUM_CLIPS", 120)
    arguments = [f"--config.{name}={value}" for name, value in SMALL.items()]
    assert demo.main([f"--workdir={tmp_path}", f"--variant={variant}", *arguments]) == 0
    shown = capsys.readouterr().out
    rows = ["raw coordinates", "random encoder", "pre-trained"]
    if variant == "halp":
        rows = ["raw coordinates", "raw coordinates, motion", "random encoder, motion"]
        for name in ("baseline", "HaLP"):
            assert f"{name} of motion, data xsub, pre-trained, motion" in shown
        steps = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert json.loads(steps[0])["step"] == 3  # MoCo's state after its first epoch
        assert "--config.init_from=" in shown
    else:
        rows += ["pre-trained, motion", "pre-trained, bone"]
        assert "pre-trained, concat" in shown and "pre-trained, ensemble" in shown
    for row in rows:
        (line,) = [line for line in shown.splitlines() if f"data xsub, {row}  " in line]
        values = [float(value) for value in line.split(f"{row} ")[1].split()]
        assert len(values) == 3 and all(0 <= value <= 100 for value in values)
    assert "configs/halp.py:ntu60_xsub" in shown  # what to do next
    for picture in ("clips.png", "positives.png", "walk.png"):
        assert (tmp_path / picture).stat().st_size > 10_000
    assert "data xsub, raw coordinates |" in (tmp_path / "table.md").read_text()


OF_GRAPHS = {
    "train.epochs": 2, "encoder.num_layers": 1, "encoder.width": 8, "svm.draws": 1,
    "halp.num_prototypes": 5, "train.num_devices": 1, "train.batch_size": 30,
}  # fmt: skip


@pytest.mark.long
@pytest.mark.usefixtures("compile_fast")
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_demo_of_graphs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(synthetic_graphs, "COUNT", 60)
    arguments = [f"--config.{name}={value}" for name, value in OF_GRAPHS.items()]
    assert demo.main([f"--workdir={tmp_path}", "--variant=graphs", *arguments]) == 0
    shown = capsys.readouterr().out
    untrained = ["molecules all, sums of node features", "molecules all, random encoder"]
    trained = [f"{name}, molecules all, pre-trained" for name in ("graphcl", "graphcl+HaLP")]
    for row in untrained + trained:
        (line,) = [line for line in shown.splitlines() if line.startswith(f"{row}  ")]
        seeds, *values = map(float, line.removeprefix(row).split())
        assert seeds == 1 and len(values) == 2 and all(0 <= value <= 100 for value in values)
    for picture in ("graphs.png", "positives.png", "walk.png", "map.png"):
        assert (tmp_path / picture).stat().st_size > 10_000
    assert "--source=MUTAG.zip" in shown  # what to do next


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--clips=5"], "unknown argument '--clips=5'"),
        (["--source=MUTAG.zip"], "--source is of --variant=graphs"),
        (["--variant=graphs", "--source=none.zip"], "none.zip is no archive"),
    ],
)
def test_demo_refuses_what_it_does_not_know(arguments, line, capsys, tmp_path):
    with pytest.raises(SystemExit) if "none.zip" in line else contextlib.nullcontext():
        assert demo.main([f"--workdir={tmp_path}", *arguments]) == 1
    assert line in capsys.readouterr().err
