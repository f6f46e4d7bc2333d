"""The table command: which runs become one row, what stands in a cell, and how it is written."""

import csv
import importlib
import io
import json
import os

import pytest

from configs import cmd, default, halp, halp_cmd, small
from halp_jax import table as command
from halp_jax.errors import UserError
from halp_jax.evaluation import paper, result_files, table

NTU60 = {"split": "xsub", "classes": 60, "num_test": 16_487}


def make_config(**changes):
    """Of a HaLP run on NTU-60; dots as double underscores."""
    config = halp.get_config("ntu60_xsub")
    config.data.dir = "data/ntu60"
    return change(config, **changes)


def change(config, **changes):
    with config.unlocked():
        for name, value in changes.items():
            config.update_from_flattened_dict({name.replace("__", "."): value})
    return config


def make_result(config, *, top1=0.797, protocol="linear", classes=60, num_test=16_487, **more):
    config = config.to_dict()
    config["knn"] |= {"k": config["knn"]["k"][0]}  # a result is of one
    fields = {
        "protocol": protocol, "encoder": "trained", "stream": "joint", "joined": [],
        "split": config["data"]["split"], "top1": top1, "top5": min(1.0, top1 + 0.1),
        "best_top1": min(1.0, top1 + 0.01), "num_test": num_test, "step": 100,
        "per_class": {f"class {i}": top1 for i in range(classes)},
        "seed": config["seed"], "config": config,
    }  # fmt: skip
    return fields | more


def write_run(path, config, *results):
    """A workdir with config.json and the results, as train and evaluate leave them."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(config.to_json())
    for result in results:
        result_files.write_result(path, result)
    return path


def write_seeds(folder, top1s, protocol="linear", **changes):
    for seed, top1 in enumerate(top1s):
        config = make_config(seed=seed, **changes)
        write_run(folder / f"run_{seed}", config, make_result(config, top1=top1, protocol=protocol))


def tabulate(*folders, measure="top1", with_notes=False):
    runs, _ = table.find_runs(map(str, folders))
    records, skipped = table.read_results(runs, measure)
    assert not skipped
    cells, notes = table.tabulate(records)
    return (cells, notes) if with_notes else cells


def names(cells):
    return list(dict.fromkeys(cells.row))


def texts(cells):
    return command.arrange(cells).to_dict("index")


def test_seeds_become_one_row_with_mean_deviation_count_and_the_papers_figure(tmp_path, capsys):
    write_seeds(tmp_path / "halp", (0.78, 0.79, 0.80))
    assert command.main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["seeds", "linear"]
    assert lines[1] == "HaLP, ntu60 xsub, pre-trained     3  79.0 ± 1.0 [79.7]"
    assert "[ ]: the paper's number" in lines
    assert command.main([str(tmp_path), "--no-paper", "--measure=best_top1"]) == 0
    out = capsys.readouterr().out
    assert "80.0 ± 1.0\n" in out and "paper" not in out and "best top-1" in out


@pytest.mark.parametrize(
    "configs, expected",
    [
        (default, "baseline"), (halp, "HaLP"), (cmd, "CMD"), (halp_cmd, "HaLP+CMD"),
    ],
)  # fmt: skip
def test_methods_are_found_from_the_shipped_configs(configs, expected):
    config = configs.get_config(*() if configs is default else ("ntu60_xsub",))
    assert table.name_method(config.to_dict()) == expected


def test_halp_that_never_starts_is_the_baseline_and_its_settings_do_not_count(tmp_path):
    write_seeds(tmp_path / "a", (0.7,), halp__start_epoch=451)
    config = make_config(seed=1, halp__mu=0.0, halp__lam=0.3)
    write_run(tmp_path / "b", config, make_result(config, top1=0.8))
    found = tabulate(tmp_path)
    assert names(found) == ["baseline, ntu60 xsub, pre-trained"]
    assert found.seeds.tolist() == ["0 1"]


def test_names_say_what_differs_numbers_by_their_size(tmp_path):
    write_seeds(tmp_path / "a", (0.7, 0.8), encoder__width=128)
    write_seeds(tmp_path / "b", (0.6,), encoder__width=64, optim__learning_rate=0.1)
    write_seeds(tmp_path / "c", (0.5,), encoder__width=64, optim__learning_rate=0.02)
    found = tabulate(tmp_path)
    assert names(found) == [
        "HaLP, ntu60 xsub, pre-trained, encoder.width=64, optim.learning_rate=0.02",
        "HaLP, ntu60 xsub, pre-trained, encoder.width=64, optim.learning_rate=0.1",
        "HaLP, ntu60 xsub, pre-trained, encoder.width=128, optim.learning_rate=0.01",
    ]
    write_seeds(tmp_path / "d", (0.5,), encoder__width=32, moco__temperature=0.2)
    assert [name.split(", ")[3:] for name in names(tabulate(tmp_path / "a", tmp_path / "d"))] == [
        ["encoder.width=32", "moco.temperature=0.2"], ["encoder.width=128", "moco.temperature=0.07"],
    ]  # fmt: skip


def test_between_methods_the_encoder_alone_tells_rows_apart(tmp_path):
    """What makes a method itself is no news: within one, a change is."""
    for name, variants in {"aimclr": ("small", "small+skeletonclr"), "ascal": ("small",)}.items():
        module = importlib.import_module(f"configs.{name}")
        for variant in variants:
            config = change(module.get_config(variant), data__dir="data/mine", data__split="xsub")
            write_run(tmp_path / (name + variant), config, make_result(config, classes=8))
    for encoder in ("bigru", "stgcn"):
        config = change(small.get_config("moco"), data__dir="data/mine", data__split="xsub")
        config.encoder.name = encoder
        write_run(tmp_path / encoder, config, make_result(config, classes=8))
    shown = "mine xsub, pre-trained, aimclr.extreme_views="
    assert names(tabulate(tmp_path)) == [
        "baseline of joint+motion+bone, mine xsub, pre-trained, encoder.name=bigru",
        "baseline of joint+motion+bone, mine xsub, pre-trained, encoder.name=stgcn",
        f"aimclr, {shown}True, encoder.name=stgcn",
        "ascal, mine xsub, pre-trained, encoder.name=lstm",
        f"skeletonclr, {shown}False, encoder.name=stgcn",
    ]


def test_departures_from_the_paper_are_named_where_its_figure_stands(tmp_path):
    write_seeds(tmp_path, (0.7,), encoder__width=128, halp__solver="geodesic")
    assert names(tabulate(tmp_path)) == [
        "HaLP, ntu60 xsub, pre-trained, encoder.width=128, halp.solver=geodesic"
    ]
    assert names(tabulate(tmp_path, measure="top5")) == ["HaLP, ntu60 xsub, pre-trained"]


def test_where_things_lie_and_bookkeeping_do_not_tell_runs_apart(tmp_path):
    for seed, other in enumerate(("data/ntu60", "/scratch/17/ntu60", "../ntu60.npz")):
        config = make_config(
            seed=seed, data__dir=other, init_from=f"runs/base_{seed}/checkpoints/900",
            train__num_devices=seed, train__log_every=seed + 1, checkpoint__keep=seed + 1,
        )  # fmt: skip
        write_run(tmp_path / str(seed), config, make_result(config))
    assert tabulate(tmp_path).seeds.tolist() == ["0 1 2"]
    write_seeds(tmp_path / "other", (0.5,), init_from="runs/wide_3/checkpoints/100")
    assert [name.split(", ")[-1] for name in names(tabulate(tmp_path))] == [
        "init_from=runs/base@900", "init_from=runs/wide@100",
    ]  # fmt: skip


def test_configs_from_before_a_field_was_there_have_its_old_value(tmp_path):
    write_seeds(tmp_path, (0.7, 0.8))
    path = tmp_path / "run_0" / "eval" / "linear.json"
    result = json.loads(path.read_text())
    config = result["config"]
    del config["method"], config["train"]["precision"], config["cmd"], config["encoder"]["name"]
    path.write_text(json.dumps(result))
    assert len(tabulate(tmp_path)) == 1
    del result["config"]["moco"]["momentum"]
    path.write_text(json.dumps(result))
    assert [name.split(", ")[-1] for name in names(tabulate(tmp_path))] == [
        "moco.momentum=0.999", "moco.momentum=unset",
    ]  # fmt: skip


def test_splits_data_sets_and_their_sizes_are_rows_of_their_own(tmp_path):
    write_seeds(tmp_path / "a", (0.7,))
    write_seeds(tmp_path / "b", (0.8,), data__split="xview")
    write_seeds(tmp_path / "c", (0.9,), data__dir="data/mine")
    config = make_config(seed=1)
    write_run(tmp_path / "d", config, make_result(config, num_test=7))
    assert names(tabulate(tmp_path)) == [
        "HaLP, mine xsub, pre-trained",
        "HaLP, ntu60 xsub, pre-trained, num_test=7",
        "HaLP, ntu60 xsub, pre-trained, num_test=16487",
        "HaLP, ntu60 xview, pre-trained",
    ]


def test_looks_at_one_run_with_another_k_split_step_or_data_set_are_told_apart(tmp_path):
    own = make_config()
    k5 = make_result(own, protocol="knn")
    k5["config"]["knn"]["k"] = 5
    write_run(
        tmp_path / "run", own, make_result(own, protocol="knn"), k5, make_result(own, step=50),
        make_result(make_config(data__split="xview")), make_result(make_config(data__dir="data/pku2")),
        make_result(make_config(linear__epochs=9)),
    )  # fmt: skip
    result_files.write_result(tmp_path / "run", make_result(own, step=40), older=True)
    cells = tabulate(tmp_path)
    begin, end = "HaLP, ntu60 xsub", ", pre-trained"
    assert sorted(zip(cells.row, cells.protocol, strict=True)) == [
        (f"{begin} to ntu60 xview{end}", "linear"), (f"{begin} to pku2 xsub{end}", "linear"),
        (begin + end, "1-NN"), (begin + end, "5-NN"),
        (f"{begin}{end}, linear.epochs=80, step=40", "linear"),
        (f"{begin}{end}, linear.epochs=80, step=50", "linear"),
        (f"{begin}{end}, linear.epochs=9, step=100", "linear"),
    ]  # fmt: skip
    assert cells["count"].eq(1).all()


def test_one_seed_twice_is_refused(tmp_path, capsys):
    write_seeds(tmp_path / "a", (0.7, 0.8))
    write_seeds(tmp_path / "b", (0.6,))
    again, first = (tmp_path / name / "run_0" for name in "ba")
    assert command.main([str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    for part in (again, first, "seed 0", "HaLP, ntu60 xsub"):
        assert str(part) in line
    assert tabulate(first, tmp_path / "a", first).seeds.tolist() == ["0 1"]


def test_evaluations_with_other_settings_are_never_averaged(tmp_path):
    for seed, (epochs, step) in enumerate([(80, 100), (80, 100), (40, 100), (80, 50)]):
        config = make_config(seed=seed)
        other = make_config(seed=seed, linear__epochs=epochs, linear__eval_every=seed + 1)
        results = make_result(other, step=step), make_result(config, protocol="knn")
        write_run(tmp_path / str(seed), config, *results)
    cells = tabulate(tmp_path)
    seeds = {(c.row.partition("pre-trained")[2], c.protocol): c.seeds for c in cells.itertuples()}
    assert seeds == {
        ("", "1-NN"): "0 1 2 3",
        (", linear.epochs=80, step=100", "linear"): "0 1",
        (", linear.epochs=40, step=100", "linear"): "2",
        (", linear.epochs=80, step=50", "linear"): "3",
    }


def test_rows_of_unlike_evaluations_are_noted(tmp_path):
    write_seeds(tmp_path / "a", (0.7,))
    write_seeds(tmp_path / "b", (0.7,), halp__mu=0.0, linear__learning_rate=0.1)
    _, notes = tabulate(tmp_path, with_notes=True)
    assert notes == ["not all rows were evaluated alike: linear.learning_rate"]


def test_untrained_encoders_are_one_row_whichever_run_they_lie_beside(tmp_path):
    for seed in range(2):
        for name, mu in (("halp", 2.0), ("moco", 0.0)):
            config = make_config(seed=seed, halp__mu=mu)
            results = [
                make_result(config, top1=0.1 + 0.01 * seed, encoder="random", protocol="knn"),
                make_result(config, top1=0.3, encoder="raw", stream="motion", protocol="knn"),
                make_result(config, top1=0.4, encoder="raw", stream="concat", protocol="knn"),
                make_result(config, top1=0.5, protocol="knn"),
            ]
            write_run(tmp_path / f"{name}_{seed}", config, *results)
    found = tabulate(tmp_path)
    assert names(found) == [
        "ntu60 xsub, raw coordinates, concat",
        "ntu60 xsub, raw coordinates, motion",
        "ntu60 xsub, random encoder",
        "baseline, ntu60 xsub, pre-trained",
        "HaLP, ntu60 xsub, pre-trained",
    ]
    assert found["mean"][2] == pytest.approx(0.105) and found["count"][2] == 2
    assert found.sd[2] == pytest.approx(0.00707, abs=1e-5)
    assert found.paper.fillna(0).tolist() == [0, 0, 0, 0.636, 0.658]
    path = tmp_path / "moco_0" / "eval" / "knn_random.json"
    path.write_text(path.read_text().replace('"top1": 0.1,', '"top1": 0.2,'))
    with pytest.raises(UserError, match="knn_random.json are both of seed 0"):
        tabulate(tmp_path)


def test_another_part_than_test_is_a_row_of_its_own(tmp_path):
    config = make_config()
    results = [make_result(config), make_result(config, top1=0.9, part="val")]
    write_run(tmp_path / "a", config, *results)
    found = tabulate(tmp_path)
    assert names(found) == ["HaLP, ntu60 xsub, pre-trained", "HaLP, ntu60 xsub val, pre-trained"]
    assert found["mean"].tolist() == [0.797, 0.9]


def test_raw_coordinates_that_are_prepared_otherwise_are_rows_of_their_own(tmp_path):
    for name in ("ascal", "aimclr"):
        config = importlib.import_module(f"configs.{name}").get_config("small")
        config = change(config, data__dir="data/mine", data__split="xsub")
        write_run(tmp_path / name, config, make_result(config, encoder="raw", classes=8))
    assert len(names(tabulate(tmp_path))) == 2


def test_columns_streams_and_counts(tmp_path):
    config = make_config(streams=("motion", "joint"))
    looks = [make_result(config, stream=look, protocol="knn") for look in ("joint", "motion")]
    fine = [make_result(config, protocol=name) for name in ("transfer", "finetune", "linear")]
    draws = {"fraction": 0.05, "top1_runs": [0.4, 0.6], "top1_sd": 0.1414}
    semi = make_result(config, top1=0.5, protocol="semi", **draws)
    write_run(tmp_path / "0", config, *looks, *fine, semi)
    name = "HaLP of motion+joint, ntu60 xsub, pre-trained"
    found = texts(tabulate(tmp_path))
    assert list(found) == [name, f"{name}, motion"]
    row = found[name]
    assert list(row) == ["seeds", "1-NN", "linear", "finetune", "semi 5 %", "transfer"]
    assert row["semi 5 %"] == "50.0 ± 14.1 (2 draws)"
    config = make_config(streams=("motion", "joint"), seed=1)
    semi = make_result(config, top1=0.6, protocol="semi", **draws)
    write_run(tmp_path / "1", config, semi)
    row = texts(tabulate(tmp_path))[name]
    assert row["semi 5 %"] == "55.0 ± 7.1"  # over the seeds' means
    assert row["finetune"] == "79.7 (1)"


def test_streams_are_named_where_they_are_not_the_methods_own(tmp_path):
    three = ("joint", "motion", "bone")
    for number, (nu, streams) in enumerate([(0, ("joint",)), (0, three), (1, three)]):
        write_seeds(tmp_path / str(number), (0.7,), cmd__nu=float(nu), streams=streams)
    assert names(tabulate(tmp_path)) == [
        "HaLP, ntu60 xsub, pre-trained",
        "HaLP of joint+motion+bone, ntu60 xsub, pre-trained",
        "HaLP+CMD, ntu60 xsub, pre-trained",
    ]


def test_transfer_names_both_data_sets_and_has_the_papers_number(tmp_path):
    own = make_config()
    there = change(make_config(), data__dir="data/pku2")
    result = make_result(there, protocol="transfer", classes=51, num_test=1_613)
    write_run(tmp_path / "run", own, result)
    found = tabulate(tmp_path)
    assert names(found) == ["HaLP, ntu60 xsub to pku2 xsub, pre-trained"]
    assert found.paper.tolist() == [0.548]


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, 0.797), ({"protocol": "knn"}, 0.658), ({"num_test": 16_560}, 0.797),
        ({"num_test": 7}, None), ({"classes": 61}, None), ({"stream": "bone"}, None),
        ({"encoder": "random"}, None), ({"protocol": "finetune"}, None),
        ({"classes": 120}, None), ({"classes": 120, "num_test": 50_919}, 0.711),
        ({"classes": 51, "num_test": 1_613}, 0.435), ({"classes": 51, "num_test": 2_700}, None),
        ({"protocol": "knn", "classes": 51, "num_test": 1_613}, None),
    ],
)  # fmt: skip
def test_a_number_of_the_paper_needs_its_data_split_stream_and_protocol(changes, expected):
    result = make_result(make_config(), **changes)
    source = result["config"]["data"]
    assert paper.find_number(result, "HaLP", source) == expected
    assert paper.find_number(result, "HaLP", source, "top5") is None
    assert paper.find_number(result, "HaLP", {"dir": "data/pku1", "split": "xsub"}) is None
    if changes.get("protocol") == "knn":
        result["config"]["knn"]["k"] = 5
        assert paper.find_number(result, "HaLP", source) is None


def test_split_decides_which_number():
    result = make_result(make_config(data__split="xview"), num_test=18_932)
    found = [paper.find_number(result, m, result["config"]["data"]) for m in paper.METHODS]
    assert found[:4] == [0.855, 0.868, 0.869, 0.886]
    assert found[4:] == [0.852, 0.851, None, 0.593, 0.648, 0.838, 0.797, None]
    assert paper.find_set("xset", 120, 59_477) == "NTU-120"
    assert paper.find_set("xview", 120, 59_477) is None


@pytest.mark.parametrize(
    "folder, expected",
    [
        ("data/ntu60", 0.548), ("/d/NTU_120.npz", 0.554), ("nturgb+d-60", 0.548),
        ("data/ntu600", None), ("ntu60/mine", None), (None, None),
    ],
)  # fmt: skip
def test_the_source_of_a_transfer_is_read_from_its_folder(folder, expected):
    there = make_config(data__dir="data/pku2")
    result = make_result(there, protocol="transfer", classes=51, num_test=1_613)
    assert paper.find_number(result, "HaLP", {"dir": folder, "split": "xsub"}) == expected
    assert paper.find_number(result, "HaLP", {"dir": folder, "split": "xview"}) is None


def test_runs_without_results_are_named_and_none_at_all_is_an_error(tmp_path, capsys):
    for name in ("a", "b"):
        write_run(tmp_path / name, make_config())
    (tmp_path / "nothing").mkdir()
    assert command.main([str(tmp_path), str(tmp_path / "nothing")]) == 1
    empty, error = capsys.readouterr().err.splitlines()
    assert empty == f"no results in {tmp_path / 'a'}, {tmp_path / 'b'}, {tmp_path / 'nothing'}"
    assert error.startswith("error: no result of halp_jax.evaluate in ")
    write_seeds(tmp_path / "c", (0.5,))
    assert command.main([str(tmp_path)]) == 0
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert command.main([str(tmp_path / "missing")]) == 1
    assert "is no folder" in capsys.readouterr().err


def test_a_link_back_up_is_not_followed_for_ever(tmp_path):
    write_seeds(tmp_path / "runs", (0.5,))
    (tmp_path / "runs" / "loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "runs")
    runs, empty = table.find_runs([str(tmp_path), str(tmp_path / "again")])
    assert len(runs) == 1 and not empty


def test_damaged_and_foreign_files_are_named_and_skipped(tmp_path, capsys):
    write_seeds(tmp_path, (0.5, 0.6))
    folder = tmp_path / "run_0" / "eval"
    texts = {"a": "", "b": "[1]", "c": '{"protocol": "knn"}', "d": "\0"}
    for name, text in texts.items():
        (folder / f"{name}.json").write_text(text)
    (folder / "f.json").mkdir()
    (folder / "g.json").write_bytes(b"\xff\xfe")
    assert command.main([str(tmp_path)]) == 0
    captured = capsys.readouterr()
    lines = [line.split(": ")[0] for line in captured.err.splitlines()]
    assert lines == [f"left out {folder / name}.json" for name in "abcdfg"]
    assert "55.0 ± 7.1" in captured.out


def test_csv_is_one_line_a_cell(tmp_path, capsys):
    write_seeds(tmp_path / "a", (0.7, 0.8))
    write_seeds(tmp_path / "b", (0.6,), protocol="knn", halp__mu=0.0)
    assert command.main([str(tmp_path), "--format=csv"]) == 0
    first, second = csv.DictReader(capsys.readouterr().out.splitlines())
    assert first["row"] == "baseline, ntu60 xsub, pre-trained" and first["protocol"] == "1-NN"
    assert (first["sd"], first["sd_over"], first["count"]) == ("", "", "1")
    assert float(second["mean"]) == pytest.approx(0.75)
    assert float(second["sd"]) == pytest.approx(0.0707, abs=1e-4)
    assert second["seeds"] == "0 1" and second["paper"] == "0.797" and second["sd_over"] == "seeds"
    assert second["workdirs"] == ";".join(str(tmp_path / "a" / f"run_{i}") for i in (0, 1))


def test_a_name_is_no_command_to_the_terminal_and_no_formula(tmp_path, capsys):
    config = make_config(data__dir="=1+1", data__split="\x1b[2J\x1b]0;owned\x07x")
    write_run(tmp_path / "run", config, make_result(config, encoder="random", seed=0))
    out = tmp_path / "table.csv"
    for options in ([], ["--format=csv"], [f"--out={out}"]):
        assert command.main([str(tmp_path), *options]) == 0
        printed = capsys.readouterr().out
        assert all(each.isprintable() for each in printed.splitlines())
    assert next(csv.DictReader(out.read_text().splitlines()))["row"] == (
        r"'=1+1 \x1b[2J\x1b]0;owned\x07x, random encoder"
    )


def test_latex_and_markdown_escape_what_they_must(tmp_path):
    write_seeds(tmp_path / "a", (0.7, 0.8), data__dir="data/a_b & 50% #1|{x}")
    write_seeds(tmp_path / "b", (0.7,), data__dir="data/z", halp__mu=0.0)
    found = tabulate(tmp_path).assign(measure="top1")
    lines = command.format_latex(found, []).splitlines()
    body = [line for line in lines if not line.startswith("%")]
    assert body[0] == r"\begin{tabular}{lrr}" and body[-1] == r"\end{tabular}"
    assert body[1:4] == [r"\toprule", r" & seeds & linear \\", r"\midrule"]
    assert body[4] == (
        r"HaLP, a\_b \& 50\% \#1\textbar{}\{x\} xsub, pre-trained & 2 & 75.0 $\pm$ 7.1 {[}79.7{]} \\"
    )
    assert body[5] == r"\midrule" and body[-2] == r"\bottomrule"
    markdown = command.format_markdown(found, []).splitlines()
    assert markdown[2].startswith(r"| HaLP, a_b & 50% #1\|{x} xsub")


def test_a_run_whose_name_is_not_in_utf8_is_in_the_table(tmp_path, capsys):
    write_seeds(tmp_path / os.fsdecode(b"gepr\xfcft"), (0.7, 0.8))
    assert command.main([str(tmp_path), "--format=csv"]) == 0
    assert "gepr\\udcfcft/run_0" in capsys.readouterr().out


def test_a_terminal_of_ascii_and_one_that_is_closed_end_no_command(tmp_path, monkeypatch):
    write_seeds(tmp_path, (0.7, 0.8))
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    assert command.main([str(tmp_path)]) == 0
    assert b"75.0 \\xb1 7.1 [79.7]" in out.buffer.getvalue()
    monkeypatch.setattr("sys.stdout", None)  # as Python has it after >&-
    assert command.main([str(tmp_path)]) == 0
    assert command.main([str(tmp_path), f"--out={tmp_path / 'table.md'}"]) == 0
    assert "75.0 ± 7.1" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_a_full_disk_behind_the_output_is_told_and_behind_the_log_is_nothing(tmp_path, monkeypatch):
    write_seeds(tmp_path, (0.7, 0.8))
    (tmp_path / "run_0" / "eval" / "knn.json").write_text("{}")  # left out: a line of the log
    with open("/dev/full", "w") as full, io.StringIO() as log:
        monkeypatch.setattr("sys.stdout", full)
        monkeypatch.setattr("sys.stderr", log)
        assert command.main([str(tmp_path)]) == 1
        end = "error: table: not all could be printed (No space left on device)\n"
        assert log.getvalue().endswith(end)
    with open("/dev/full", "w", buffering=1) as full, io.StringIO() as out:
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setattr("sys.stderr", full)
        assert command.main([str(tmp_path)]) == 0 and "75.0 ± 7.1" in out.getvalue()
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), full.fileno()
        )  # what is left in it, as it is closed


def test_out_is_written_whole_in_the_format_of_its_ending(tmp_path, capsys):
    write_seeds(tmp_path / "runs", (0.7, 0.8))
    for name, start in (("t.tex", "% needs"), ("t.csv", "row,"), ("t.md", "| "), ("t", "  ")):
        file = tmp_path / "out" / name
        assert command.main([str(tmp_path / "runs"), f"--out={file}"]) == 0
        assert file.read_text().startswith(start)
        assert f"{file}: 1 rows" in capsys.readouterr().out
    old = file.read_text()
    (tmp_path / "runs" / "run_1" / "eval" / "linear.json").unlink()
    (tmp_path / "runs" / "run_0" / "eval" / "linear.json").unlink()
    assert command.main([str(tmp_path / "runs"), f"--out={file}"]) == 1
    assert file.read_text() == old and len(list(file.parent.iterdir())) == 4
    write_seeds(tmp_path / "more", (0.7,))
    assert command.main([str(tmp_path / "more"), f"--out={tmp_path / 'runs'}"]) == 1
    assert "choose another --out" in capsys.readouterr().err
