"""The evaluate command and the tables, on an untrained run and a data set in memory."""

import json
import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from _clips import FakeDataset, make_state, patch_pipeline, tiny_config
from _files import little_room

from halp_jax import datasets, evaluate
from halp_jax.datasets.atomic_write import atomic_write
from halp_jax.errors import UserError
from halp_jax.evaluation import load, protocols, result_files
from halp_jax.skeletons.layout import NTU25
from halp_jax.training import checkpoint

# ml_collections loads config files in a way that Python 3.11 frowns upon.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

KEYS = {
    "protocol", "encoder", "stream", "split", "top1", "top5", "best_top1", "step", "seed",
    "part", "unlabelled", "num_train", "num_test", "seconds", "joined", "config", "per_class", "confusion",
}  # fmt: skip


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run with a checkpoint at step 7."""
    path, config = tmp_path_factory.mktemp("run"), tiny_config()
    checkpoint.save_config(path, config)
    with checkpoint.open_manager(path, config) as manager:
        checkpoint.save(manager, 7, make_state(config, NTU25, 7), {"layout": "ntu25"})
    return path


@pytest.fixture(autouse=True)
def fake_data(monkeypatch):
    patch_pipeline(monkeypatch)

    def open_dataset(path):
        if path != "fake":
            raise UserError(f"{path} does not exist")
        return FakeDataset()

    monkeypatch.setattr(datasets, "open_dataset", open_dataset)
    monkeypatch.setattr(
        load, "methods", SimpleNamespace(create_state=lambda c, spec: make_state(c, spec.layout))
    )


def run(workdir, *options):
    return evaluate.main([f"--workdir={workdir}", *options])


def read(workdir, name):
    return json.loads((workdir / "eval" / f"{name}.json").read_text())


def test_the_weights_of_the_checkpoint_that_is_asked_for_are_evaluated(tmp_path):
    config = tiny_config()
    checkpoint.save_config(tmp_path, config)
    start = make_state(config, NTU25)
    with checkpoint.open_manager(tmp_path, config) as manager:
        for step in (3, 7):
            params = jax.tree.map(lambda x, step=step: x + step, start.params)
            state = start.replace(step=start.step + step, params=params)
            checkpoint.save(manager, step, state, {"layout": "ntu25"})
    for asked, step in ((None, 7), (3, 3)):
        _, (params, _), found = load.load_encoder("trained", config, NTU25, tmp_path, step=asked)
        assert found == step
        jax.tree.map(
            lambda x, first, step=step: np.testing.assert_array_equal(x, first + step),
            params, start.params,
        )  # fmt: skip


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_without_labels_is_refused_before_any_work(part, monkeypatch, tmp_path):
    dataset = FakeDataset()
    dataset.labels[dataset.indices("xsub", part)] = -1
    monkeypatch.setattr(datasets, "open_dataset", lambda _: dataset)
    for protocol in ("knn", "linear", "finetune"):
        with pytest.raises(UserError, match=f"fake, split xsub has no {part} clips with a label:"):
            protocols.run(tiny_config(), tmp_path, protocol, encoder="random")


def test_encoders_and_protocols_and_their_table(workdir, capsys):
    runs = [("knn", "raw"), ("knn", "random"), ("knn", "trained"), ("linear", "trained")]
    for protocol, encoder in runs:
        assert run(workdir, f"--protocol={protocol}", f"--encoder={encoder}") == 0
        out = capsys.readouterr().out
        assert "top1" in out and (", checkpoint 7, " in out) == (encoder == "trained")
    assert sorted(path.name for path in (workdir / "eval").glob("*.json")) == [
        "knn.json", "knn_random.json", "knn_raw.json", "linear.json",
    ]  # fmt: skip
    result = read(workdir, "linear")
    assert set(result) == KEYS | {"history"} and set(read(workdir, "knn")) == KEYS
    assert (result["step"], result["seed"], result["split"]) == (7, 0, "xsub")
    assert (result["num_train"], result["num_test"], result["stream"]) == (14, 8, "joint")
    assert result["config"]["linear"]["epochs"] == 12
    assert result["per_class"].keys() == {"class 0", "class 1", "class 2"}
    assert result["confusion"]["class_names"] == ["class 0", "class 1", "class 2"]
    assert np.sum(result["confusion"]["counts"]) == 8
    # The checkpoint holds the encoder before its first step: trained and random are one.
    for name in ("top1", "top5", "confusion"):
        assert read(workdir, "knn")[name] == read(workdir, "knn_random")[name]
    assert read(workdir, "knn_random")["step"] == 0 and read(workdir, "knn_raw")["step"] is None


def test_clips_without_a_label_are_left_out_with_their_count(workdir, capsys, monkeypatch):
    monkeypatch.setattr(FakeDataset, "hidden", (0, 3, 20), raising=False)
    assert run(workdir, "--protocol=knn") == 0
    result = read(workdir, "knn")
    assert (result["num_train"], result["num_test"], result["unlabelled"]) == (12, 7, 3)
    assert (
        "7 test clips of xsub, 3 of train and test without a label left out"
        in capsys.readouterr().out
    )


def test_clips_that_are_in_both_parts_are_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(protocols.PROTOCOLS, "knn", lambda *_: {})
    monkeypatch.setattr(FakeDataset, "indices", lambda *_: np.arange(7))
    assert protocols.run(tiny_config(), tmp_path, "knn", encoder="raw") == []
    assert caplog.messages == ["7 clips are in train and in test: accuracies will be too high"]


def test_another_part_than_test(workdir, capsys, monkeypatch):
    def test_on(dataset, benchmark, part):
        assert (benchmark, part) == ("xsub", "val")
        monkeypatch.setattr(dataset, "hidden", tuple(range(17, 22)))
        return dataset

    monkeypatch.setattr(FakeDataset, "test_on", test_on, raising=False)
    assert run(workdir, "--protocol=knn", "--part=val") == 0
    assert "3 val clips of xsub" in capsys.readouterr().out
    assert read(workdir, "knn_val")["part"] == "val"


def test_settings_of_the_command_line_reach_the_protocol(workdir):
    options = ("--config.linear.epochs=2", "--config.linear.milestones=(1,)", "--config.seed=4")
    assert run(workdir, "--protocol=linear", "--step=7", *options) == 0
    result = json.loads((workdir / "eval/history.jsonl").read_text().splitlines()[-1])
    assert result["seed"] == 4
    assert result["config"]["linear"]["milestones"] == [1]
    assert [epoch for epoch, _ in result["history"]] == [2]


def test_untrained_encoders_need_no_run(tmp_path):
    options = ["--protocol=knn", "--encoder=raw", "--config=configs/default.py"]
    options += ["--config.data.dir=fake", "--config.data.max_frames=12", "--stream=concat"]
    assert run(tmp_path / "new", *options) == 0
    result = read(tmp_path / "new", "knn_raw_concat")
    assert result["top1"] > 0.7 and result["stream"] == "concat"


@pytest.mark.parametrize(
    "options, message",
    [
        (["--protocol=knn", "--config.knn.kk=1"], "kk"),
        (["--protocol=knn", "--config.knn.k=one"], "knn.k is one"),
        (["--protocol=knn", "--config.knn.k=99"], "knn.k is 99"),
        (["--protocol=knn", "--config.data.dir=nowhere"], "nowhere does not exist"),
        (["--protocol=knn", "--stream=bone"], "no stream 'bone'"),
        (["--protocol=knn", "--stream=ensemble"], "--stream=mean or concat"),
        (["--protocol=knn", "--join=nowhere"], "nowhere"),
        (["--protocol=knn", "--encoder=raw", "--join=nowhere"], "joins trained runs"),
        (["--protocol=knn", "--config.encoder.direction=bidirectional"], "config.encoder is not"),
        (["--protocol=knn", "--config.streams=('bone',)"], "config.streams is not"),
        (["--protocol=knn", "--step=3"], "step 3"),
        (["--protocol=knn", "--unknown=3"], "unknown"),
        (["--protocol=knn", "nonsense"], "nonsense"),
        (["--protocol=knn", "--config=configs/default.py"], "its run's config"),
        (["--protocol=knn", "--encoder=raw", "--config=no.py"], "no.py"),
        (["--protocol=knn", "--encoder=raw", "--config=configs/default.py"], "data.dir is not set"),
    ],
)
def test_errors_are_one_line_and_status_1(workdir, capsys, options, message):
    assert run(workdir, *options) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]


def test_clips_that_are_cut_are_counted_at_the_start(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(protocols.PROTOCOLS, "knn", lambda *_: {})
    for max_frames, count in ((12, 0), (8, 2)):
        caplog.clear()
        config = tiny_config(data__max_frames=max_frames)
        assert protocols.run(config, tmp_path, "knn", encoder="raw") == []
        assert len(caplog.messages) == count
    for part, line in zip(("train", "test"), caplog.messages, strict=True):
        lengths = FakeDataset().lengths[FakeDataset().indices("xsub", part)]
        assert line.startswith(f"{(lengths > 8).sum()} of {len(lengths)} {part} clips are longer")


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setitem(protocols.PROTOCOLS, "finetune", lambda *_, **__: pytest.fail("it trains"))
    (tmp_path / "file").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "eval").touch()
    for name in ("file/run", "run"):
        with pytest.raises(UserError, match="cannot write to .*: make it writable, or choose"):
            protocols.run(tiny_config(), tmp_path / name, "finetune", encoder="random")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=f"cannot write to {tmp_path}: make it"):
        protocols.run(tiny_config(), tmp_path / "new", "finetune", encoder="random")


def test_a_folder_without_a_run_is_named(tmp_path, capsys):
    assert run(tmp_path, "--protocol=knn") == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert run(tmp_path, "--protocol=knn", "--encoder=raw") == 1
    assert "give --config=FILE" in capsys.readouterr().err


CONFIG = {"knn": {"k": 1}, "streams": ["joint", "bone"]}


def result(top1, **changes):
    fields = {"protocol": "knn", "encoder": "trained", "split": "xsub", "stream": "joint"}
    return {**fields, "top1": top1, "config": CONFIG, **changes}


def test_an_interrupted_write_leaves_the_old_result(tmp_path):
    result_files.write_result(tmp_path, result(0.5))
    with pytest.raises(TypeError):
        result_files.write_result(tmp_path, result(object()))
    assert read(tmp_path, "knn")["top1"] == 0.5


def test_where_there_is_no_room_the_older_result_stays_with_what_is_beside_it(tmp_path):
    def beside(text, room=True):
        def write(path):
            with atomic_write(path, "make room") as stream:
                stream.write(text if room else bytes(10**7))

        return write

    result_files.write_result(tmp_path, result(0.5), False, beside(b"of 0.5"))
    (tmp_path / "eval/history.jsonl").write_text("{}\n" * 300)
    before = {path.name: path.read_bytes() for path in (tmp_path / "eval").iterdir()}
    for size, named in ((0, "knn.json"), (len(before["history.jsonl"]) + 9, "history.jsonl")):
        with (
            little_room(size),
            pytest.raises(UserError, match=f"{named} .File too large.; make room"),
        ):
            result_files.write_result(tmp_path, result(0.7), False, beside(b"of 0.7"))
        assert before == {path.name: path.read_bytes() for path in (tmp_path / "eval").iterdir()}
    with little_room(10**6), pytest.raises(UserError, match="knn.npz .File too large.; make room"):
        result_files.write_result(tmp_path, result(0.7), False, beside(b"of 0.7", room=False))
    assert sorted(path.name for path in (tmp_path / "eval").iterdir()) == sorted(before)
    assert read(tmp_path, "knn")["top1"] == 0.5
    assert (tmp_path / "eval/knn.npz").read_bytes() == b"of 0.5"


def test_results_of_other_settings_have_names_of_their_own(tmp_path):
    config = {"knn": {"k": 1}, "data": {"dir": "data/a", "split": "xsub"}, "streams": ["joint"]}
    (tmp_path / "config.json").write_text(json.dumps(config))

    def name(older=False, protocol="knn", k=1, **data):
        own = config | {"knn": {"k": k}, "data": config["data"] | data}
        result = {
            "encoder": "trained",
            "stream": "joint",
            "protocol": protocol,
            "step": 3,
            "config": own,
        }
        return result_files.write_result(tmp_path, result, older).name

    assert name() == name(dir="/elsewhere/a") == "knn.json"
    assert name(k=5) == "knn_k5.json" and name(protocol="linear", k=5) == "linear.json"
    assert name(split="xview", dir="data/b.npz", older=True) == "knn_b_xview_step3.json"
    config["linear"] = {"epochs": 80, "milestones": [50], "eval_every": 5}
    (tmp_path / "eval/linear.json").unlink()
    linear = name(protocol="linear")
    config["linear"] = {"epochs": 80, "milestones": (50,), "eval_every": 1}
    assert name(protocol="linear") == linear == "linear.json"
    others = []
    for epochs in (40, 20):
        config["linear"] = config["linear"] | {"epochs": epochs}
        others.append(name(protocol="linear"))
    assert len(set(others)) == 2 and "linear.json" not in others
    assert name(protocol="transfer", dir="data/c") == "transfer.json"
    assert name(protocol="transfer", dir="data/d") != "transfer.json"
    assert name(dir="data/a.v2") == "knn_a.v2.json"
    config["semi"] = {"draw": "plain", "runs": 5}
    semi = name(protocol="semi")
    config["semi"] = {"draw": "balanced", "runs": 5}
    assert name(protocol="semi") != semi
    history = (tmp_path / "eval/history.jsonl").read_text().splitlines()
    assert [json.loads(line)["config"]["knn"]["k"] for line in history[:5]] == [1, 1, 5, 5, 1]


def test_results_of_runs_that_were_joined_stand_beside_one_another(tmp_path):
    config = {
        "knn": {"k": 1, "batch_size": 256},
        "data": {"dir": "a", "split": "xsub"},
        "streams": ["joint"],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))

    def name(joined, batch_size=256, frames=16):
        own = config | {"knn": {"k": 1, "batch_size": batch_size}, "views": {"num_frames": frames}}
        result = {"encoder": "trained", "stream": "concat", "protocol": "knn", "step": 3}
        return result_files.write_result(tmp_path, result | {"config": own, "joined": joined}).name

    first = name(["runs/motion"])
    assert first == name(["runs/motion"], batch_size=64) == "knn_concat.json"
    assert len({first, name(["runs/bone"]), name(["../s1/motion"])}) == 3
    first = name([], frames=32)
    assert first == name([], frames=32) != name([], frames=64)


def test_classes_of_one_name_stay_apart():
    figures = {"per_class": [0.1, 0.2, 0.3], "confusion": np.eye(3)}
    named = result_files.name_classes(figures, ["wave", "sit", "wave"])["per_class"]
    assert named == {"wave (0)": 0.1, "sit": 0.2, "wave (2)": 0.3}


def test_a_class_without_test_clips_has_no_accuracy():
    figures = result_files.summarize(np.array([0, 2, 2]), np.array([0, 0, 2]), 3, top5=1.0)
    assert figures["per_class"] == [0.5, None, 1.0]
    np.testing.assert_array_equal(figures["confusion"], [[1, 0, 1], [0, 0, 0], [0, 0, 1]])
    assert figures["top1"] == pytest.approx(2 / 3)
