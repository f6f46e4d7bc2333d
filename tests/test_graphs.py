"""Graphs as a data set: the TU reader, own graphs, batches; a run through the loop and its evaluation."""

import hashlib
import json
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from _graphs import SHARED, config

from halp_jax import datasets, embed, evaluate, export, methods, prepare
from halp_jax.datasets import graph_batches, graphs, synthetic_graphs, tu
from halp_jax.errors import UserError
from halp_jax.evaluation import svm
from halp_jax.inspect import __main__ as inspect
from halp_jax.inspect import anchors, graph_plots, history, maps, plots, plots3d
from halp_jax.methods.base import Spec
from halp_jax.training import checkpoint, loop, report

TINY = Path(__file__).parent / "golden" / "graphcl" / "tiny_tu"
SETS = ("MUTAG", "PROTEINS", "NCI1", "DD")
SVC = SHARED / "golden_graphcl" / "svc_mutag.npz"


def rings(count, seed=0):
    """Graphs of two classes: rings, and rings with a chord; labels of nodes at random."""
    rng = np.random.default_rng(seed)
    edges, kinds, classes = [], [], []
    for i in range(count):
        size = int(rng.integers(6, 12))
        ring = [(n, (n + 1) % size) for n in range(size)]
        edges.append(ring + [(0, size // 2), (1, size // 2 + 1)] * (i % 2))
        kinds.append(rng.integers(0, 3, size))
        classes.append(i % 2)
    return graphs.from_arrays(edges, classes, node_labels=kinds)


# --- reader -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_the_counts_of_the_released_reader(name):
    source = SHARED / "data" / f"tu_{name}.zip"
    if not source.exists():
        pytest.skip("../shared/data is not here")
    wanted = json.loads((TINY.parent / "tu.json").read_text())[name]
    dataset = tu.read(source)
    degrees = np.bincount(dataset.edges[:, 0], minlength=len(dataset.node_labels))
    found = {
        "nodes_per_graph": dataset.lengths, "edges_per_graph": np.diff(dataset.first_edge),
        "classes": dataset.labels, "node_labels": dataset.node_labels, "degrees": degrees,
    }  # fmt: skip
    for what, array in found.items():
        digest = hashlib.sha256(np.ascontiguousarray(array, np.int64).tobytes()).hexdigest()
        assert digest == wanted["sha256_int64"][what], what
    assert dataset.layout.num_features == wanted["feature_width"]
    assert np.bincount(dataset.labels).tolist() == wanted["classes"]


@pytest.mark.parametrize("name", ["PROTEINS", "NOLABELS"])
def test_small_files_with_all_that_can_be_in_them(golden, name):
    arrays = golden("graphcl/tiny_tu")
    dataset = tu.read(TINY / name)
    batch = graph_batches.make_batches(dataset, np.arange(len(dataset)), 8)[0]
    for i in range(int(arrays[f"{name}/num_graphs"])):
        x, nodes = arrays[f"{name}/{i}/x"], int(dataset.lengths[i])
        # The released reader loses isolated nodes at the end of a set without labels; we do not.
        assert nodes == len(x) + (name == "NOLABELS" and i == 4)
        first = dataset.first_node[i]
        labels = dataset.node_labels[first : first + len(x), 0]
        np.testing.assert_array_equal(np.eye(dataset.layout.num_features)[labels], x)
        np.testing.assert_array_equal(dataset.edges_of(i).T, arrays[f"{name}/{i}/edges"])
        assert dataset.class_names[dataset.labels[i]] is not None
        loops = arrays[f"{name}/{i}/edges_with_loops"][:, len(dataset.edges_of(i)) :][0]
        own = (batch["graph_of_node"][0] == i) & batch["node_mask"][0]
        np.testing.assert_array_equal(np.flatnonzero(batch["looped"][0][own]), np.sort(loops))
        assert int(dataset.labels[i]) == arrays[f"{name}/{i}/y"]


def test_an_archive_is_read_where_it_is(tmp_path):
    file = tmp_path / "own.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for path in (TINY / "PROTEINS").iterdir():
            archive.write(path, f"PROTEINS/{path.name}")
        archive.writestr("../climbs_A.txt", "1, 2\n")
    dataset = tu.read(file, attributes=True)
    assert dataset.layout == graphs.GraphLayout((7,), 2) and len(dataset) == 5
    assert list(tmp_path.iterdir()) == [file]
    with zipfile.ZipFile(file) as archive:  # unpacked, a folder within a folder
        archive.extractall(tmp_path / "unpacked", [m for m in archive.namelist() if ".." not in m])
    assert len(tu.read(tmp_path / "unpacked")) == 5


@pytest.mark.parametrize(
    ("file", "change", "line"),
    [
        ("A", "1, 2\n1, 99\n", "nodes run from 1 to"),
        ("A", "1, 2\n1, 9\n", "an edge leaves its graph"),
        ("A", "1, 2\n1, two\n", "could not convert"),
        ("graph_indicator", "1\n2\n1\n", "rising order"),
        ("node_labels", "1\n2\n", "it has 2 lines"),
        ("graph_labels", "", "it is empty"),
    ],
)
def test_damaged_files_are_named_in_one_line(tmp_path, file, change, line):
    for path in (TINY / "PROTEINS").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    bad = tmp_path / f"PROTEINS_{file}.txt"
    bad.write_text(change)
    with pytest.raises(UserError) as caught:
        tu.read(tmp_path)
    assert bad.name in str(caught.value) and line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_data_set_is_refused(tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 and no more")
    for path in (tmp_path / "bad.zip", tmp_path / "none.zip", tmp_path):
        with pytest.raises(UserError, match=path.name):
            tu.read(path)


# --- own graphs and batches -------------------------------------------------------------------------


def test_own_graphs_go_to_a_file_and_back(tmp_path):
    dataset = rings(6)
    folder = graphs.save(dataset, tmp_path / "rings")
    again = datasets.open_dataset(folder)
    assert datasets.is_dataset(folder) and again.unit == "graphs" and len(again) == 6
    assert again.layout == dataset.layout == graphs.GraphLayout((3,))
    for name in graphs.ARRAYS:
        np.testing.assert_array_equal(getattr(again, name), getattr(dataset, name))
    assert again.identity() == dataset.identity()
    assert len(again.edges_of(0)) == 2 * again.lengths[0]
    with pytest.raises(UserError, match="exists"):
        graphs.save(dataset, folder)


def test_edges_beyond_the_nodes_are_refused():
    with pytest.raises(UserError, match="graph 1: give its edges"):
        graphs.from_arrays([[(0, 1)], [(0, 3)]], node_labels=[[0, 1], [0, 1, 0]])


PAIR = [[(0, 1)]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"edges": [[(0, 1, 7)]]}, "graph 0: edges must be pairs"),
        ({"edges": [[(0, 1), (1,)]]}, "graph 0: edges must be pairs"),
        ({"edges": [[(0.0, 1.0)]]}, "graph 0: edges must be pairs"),
        ({"edges": PAIR, "node_labels": [["C", "O"]]}, "graph 0: node_labels must be a whole number"),
        ({"edges": PAIR, "node_labels": [[1.5, 0]]}, "graph 0: node_labels must be a whole number"),
        ({"edges": PAIR, "node_labels": [[10**10, 0]]}, "10000000001 features"),
        ({"edges": PAIR, "attributes": [[[1.0], [1.0, 2.0]]]}, "graph 0: attributes must be"),
        ({"edges": PAIR, "attributes": [[[1.0], [np.nan]]]}, "graph 0: attributes are not all finite"),
        ({"edges": PAIR * 2, "attributes": [[[1], [2]], [[1, 2], [3, 4]]]}, "equally many"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_graphs_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        graphs.from_arrays(**given)


class Triangle:
    """What networkx gives of a graph, as far as it is asked."""

    nodes = {"C": {"atom": "6"}, "N": {"atom": "5"}, "O": {"atom": "8"}}

    def edges(self):
        return [("C", "N"), ("N", "O"), ("O", "C")]

    def is_directed(self):
        return False


def test_graphs_of_networkx():
    dataset = graphs.from_networkx([Triangle()], [0], node_label="atom")
    assert dataset.node_labels.ravel().tolist() == [1, 0, 2]
    assert dataset.edges.tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]


def find_rings(edges, count):
    """(how many rings, atoms of rings): what is left when leaves are taken off again and again."""
    left = np.ones(count, bool)
    while True:
        own = edges[left[edges].all(1)]
        degrees = np.bincount(own[:, 0], minlength=count)
        if not (left & (degrees < 2)).any():
            return len(own) // 2 - int(left.sum()) + 1, int(left.sum())
        left &= degrees >= 2


def test_embedded_molecules_are_active_by_their_rule(tmp_path, capsys):
    assert (
        prepare.main(["--format=synthetic_graphs", f"--out={tmp_path / 'data'}", "--seed=3"]) == 0
    )
    assert f"{synthetic_graphs.COUNT} graphs of 2 classes" in capsys.readouterr().out
    dataset = datasets.open_dataset(tmp_path / "data")
    np.testing.assert_array_equal(dataset.edges, synthetic_graphs.read(seed=3).edges)
    for i, (first, count) in enumerate(zip(dataset.first_node, dataset.lengths, strict=False)):
        edges, atoms = dataset.edges_of(i), dataset.node_labels[first : first + count, 0]
        rings, members = find_rings(edges, count)
        degrees = np.bincount(edges[:, 0])
        assert 1 <= rings <= 4 and degrees.max() <= 3
        ends = edges[(atoms[edges[:, 1]] == synthetic_graphs.OXYGEN) & (degrees[edges[:, 1]] == 1)]
        oxygens = np.bincount(ends[:, 0], minlength=count)
        has_nitro = ((atoms == synthetic_graphs.NITROGEN) & (oxygens == 2)).any()
        assert dataset.labels[i] == (has_nitro and members < 6 * rings)
    assert 0.2 < dataset.labels.mean() < 0.5


def test_batches_have_one_size_and_every_graph_once():
    dataset = rings(11)
    options = {"batch_size": 4, "seed": 3, "num_devices": 2}
    read = graph_batches.training_batches(dataset, np.arange(11), **options)
    batches = [next(read) for _ in range(6)]
    assert len({json.dumps({n: b[n].shape for n in b}) for b in batches}) == 1
    epoch = [b["index"][b["graph_mask"]] for b in batches[:3]]
    assert sorted(np.concatenate(epoch)) == list(range(11))
    for first, second in zip(batches[:3], batches[3:], strict=True):  # they never change
        np.testing.assert_array_equal(first["index"], second["index"])
    later = graph_batches.training_batches(dataset, np.arange(11), start_step=5, **options)
    np.testing.assert_array_equal(next(later)["index"], batches[5]["index"])
    whole = graph_batches.training_batches(dataset, np.arange(11), batch_size=4, seed=3)
    np.testing.assert_array_equal(next(whole)["index"].ravel(), batches[0]["index"].ravel())


# --- the loop and the protocols ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three epochs of HaLP on rings -> (workdir, config, data set, final state)."""
    folder = tmp_path_factory.mktemp("run")
    dataset = rings(40)
    c = config("own+halp", data_dir=str(graphs.save(dataset, folder / "data")))
    c.train.batch_size, c.train.epochs, c.checkpoint.every_epochs = 16, 3, 1
    c.halp.num_prototypes, c.train.log_every, c.train.num_devices = 10, 1, 1
    c.svm.draws = c.encoder.num_layers = 1
    state = loop.train(c, folder / "run", dataset=datasets.open_dataset(c.data.dir))
    return folder / "run", c, dataset, state


def leaves(state):
    return jax.tree.leaves((state.params, state.opt_state, state.extra))


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(run, tmp_path):
    workdir, c, dataset, state = run
    short = c.copy_and_resolve_references()
    short.train.epochs = 1
    loop.train(short, tmp_path / "run", dataset=dataset)
    again = loop.train(c, tmp_path / "run", dataset=dataset)
    assert int(again.step) == int(state.step) == 9
    for one, other in zip(leaves(state), leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
    lines = report.read_metrics(workdir)
    assert lines[-1]["epoch"] == 3 and {"loss_cl", "loss_halp", "kept", "mu"} <= set(lines[-1])


def test_two_devices_see_what_one_does(run, tmp_path):
    """The first step: Adam's own first step is a sign, so rounding parts the ones after it."""
    workdir, c, dataset, _ = run
    c = c.copy_and_resolve_references()
    c.train.num_devices, c.train.epochs = 2, 1
    loop.train(c, tmp_path / "run", dataset=dataset)
    first = [report.read_metrics(folder)[0] for folder in (workdir, tmp_path / "run")]
    assert first[0]["step"] == first[1]["step"] == 1
    for name in ("loss", "loss_cl", "contrast_accuracy", "grad_norm"):
        np.testing.assert_allclose(first[0][name], first[1][name], rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("protocol", ["svm", "knn"])
def test_evaluation_in_ten_folds(run, protocol, capsys):
    workdir, *_ = run
    assert evaluate.main([f"--workdir={workdir}", f"--protocol={protocol}"]) == 0
    result = json.loads((workdir / "eval" / f"{protocol}.json").read_text())
    assert result["num_test"] == 40 and result["step"] == 9 and 0.4 < result["top1"] <= 1
    assert np.sum(result["confusion"]["counts"]) == 40
    assert "40 test graphs of all" in capsys.readouterr().out


def test_what_does_not_fit_is_said(run, capsys, tmp_path):
    workdir, c, *_ = run
    assert evaluate.main([f"--workdir={workdir}", "--protocol=finetune"]) == 1
    assert "not for graphs; use one of svm, knn, linear" in capsys.readouterr().err
    other = graphs.save(graphs.from_arrays([[(0, 1)]] * 4, [0, 1, 0, 1]), tmp_path / "other")
    options = [f"--workdir={workdir}", "--protocol=knn", f"--config.data.dir={other}"]
    assert evaluate.main(options) == 1
    assert "evaluate it on the data set of its training" in capsys.readouterr().err
    for options, line in (
        (["knn", "--config.knn.k=0"], "knn.k is 0; choose it"),
        (["svm", "--config.svm.draws=0"], "config.svm.draws=0: it must be at least 1"),
        (["linear", "--config.linear.epochs=0"], "config.linear.epochs=0: it must be at least 1"),
        (["knn", "--part=val"], "--part means nothing to graphs"),
        (["knn", "--stream=bone"], "--stream means nothing to graphs"),
    ):
        options = [f"--workdir={workdir}", f"--protocol={options[0]}", *options[1:]]
        assert evaluate.main(options) == 1 and line in capsys.readouterr().err
    assert not (workdir / "eval" / "linear.json").exists()
    frames = np.random.default_rng(0).normal(size=(2, 9, 1, 25, 3))
    clips = datasets.pack(
        datasets.from_arrays(list(frames), None, layout="ntu25"), tmp_path / "c.npz"
    )
    with pytest.raises(UserError, match=f"c.npz holds clips; {workdir} was trained on graphs"):
        anchors.open_run(workdir, data=clips)
    assert embed.main([f"--workdir={workdir}", "--input=x.npy", "--neighbours=0"]) == 1
    assert "is a run of graphs; embed takes clips" in capsys.readouterr().err
    assert export.main([f"--data={other}", f"--out={tmp_path / 'x.npz'}"]) == 1
    assert "holds graphs, which lie in one file already" in capsys.readouterr().err
    options = ["--format=synthetic_graphs", f"--out={tmp_path / 'y'}", "--as-layout=kinect20"]
    assert prepare.main(options) == 1
    assert "--as-layout is of clips; leave it out" in capsys.readouterr().err
    c = c.copy_and_resolve_references()
    c.train.precision = "bfloat16"
    with pytest.raises(UserError, match="config.train.precision='bfloat16': use one of float32"):
        methods.find_method(c).check_config(c)
    c.train.precision, c.graphcl.augmentation = "float32", "random5"
    with pytest.raises(UserError, match="random2"):
        loop.train(c, tmp_path / "run", dataset=rings(40))


def test_a_checkpoint_tells_what_it_is_of(run):
    workdir, *_ = run
    assert checkpoint.load_info(workdir)["layout"] == {"graphs": {"labels": [3], "attributes": 0}}
    assert int(checkpoint.restore_state(workdir)[0].step) == 9


# --- what is seen of a run --------------------------------------------------------------------------


def test_drawn_edges_are_of_one_length():
    hexagon = np.array([(i, (i + 1) % 6) for i in range(6)])
    path = np.array([(i, i + 1) for i in range(5)])
    for edges, count, far in ((hexagon, 6, 2), (path, 6, 5)):
        places = graph_plots.place_nodes(edges, count)
        apart = np.linalg.norm(places[:, None] - places, axis=2)
        np.testing.assert_allclose(apart[tuple(edges.T)], apart[tuple(edges.T)].mean(), rtol=0.1)
        assert apart.max() / apart[tuple(edges.T)].mean() == pytest.approx(far, rel=0.1)
    parts = graph_plots.place_nodes(path[:2], 4)  # the fourth is a part of its own
    assert np.linalg.norm(parts[0] - parts[3]) > np.linalg.norm(parts[0] - parts[2])
    assert np.isfinite(graph_plots.place_nodes(path[:0], 1)).all()


def test_graphs_are_drawn_node_by_node():
    dataset = rings(4)
    figure = graph_plots.plot_graphs(dataset, range(4))
    for number, axes in enumerate(figure.axes):
        assert axes.get_title() == dataset.class_names[dataset.labels[number]]
        assert sum(len(line.get_xdata()) for line in axes.lines) == dataset.lengths[number]
        assert len(axes.collections[0].get_segments()) == len(dataset.edges_of(number))
    (axes,) = graph_plots.plot_graphs(graphs.from_arrays([[(0, 150)]], [0]), [0]).axes
    assert [text.get_text() for text in axes.texts] == ["151 nodes"] and not axes.lines


@pytest.mark.long
def test_a_run_is_inspected(run, tmp_path, capsys):
    workdir, c, dataset, state = run
    opened = anchors.open_run(workdir)
    assert opened.unit == "graph" and opened.origin == "10 clustered from the graphs"
    [batch] = graph_batches.make_batches(dataset, np.arange(40), 40)
    method = methods.make_method(c, Spec(dataset.layout))
    wanted = jax.jit(method.embed)(state.params, state.extra, batch)[0]
    np.testing.assert_allclose(opened.anchors, wanted, atol=1e-4)
    np.testing.assert_array_equal(opened.names, [dataset.class_names[x] for x in dataset.labels])

    assert inspect.main([f"--workdir={workdir}", "--anchor=7", f"--out={tmp_path}"]) == 0
    shown = capsys.readouterr().out.splitlines()
    walk = anchors.walk(opened, 7)
    assert shown[0] == "step 9, 40 graphs, prototypes: 10 clustered from the graphs"
    assert f"of prototype {walk.nearest}: toward prototype {walk.selected}, " in shown[1]
    near = [line.split(" nearest to graph ")[1].split(" ")[0] for line in shown[2:-1]]
    changed = np.flatnonzero(np.diff(walk.neighbour, prepend=-1))
    assert near == [str(walk.neighbour[i]) for i in changed]
    for name in ("walk_7", "positives_7", "sphere", "map"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000

    _, curves, *drawn = plots.plot_walk(opened, walk).axes
    assert "the nearest real graph" in [t.get_text() for t in curves.get_legend().get_texts()]
    for axes, stop in zip(drawn, np.linspace(0, 100, 7).round().astype(int), strict=True):
        nodes = sum(len(line.get_xdata()) for line in axes.lines)
        assert nodes == dataset.lengths[walk.neighbour[stop]]
    assert maps.plot_map(opened).axes[0].get_title() == "40 graphs, step 9"
    assert "length of graphs and" in plots3d.describe(plots3d.project_sphere(opened, [0], count=2))


def test_what_graphs_have_not_is_said_in_a_line(run, capsys):
    workdir, *_, state = run
    for option, line in (
        ("--stream=bone", "no stream 'bone'; use graph"),
        ("--part=test", "has 0 test graphs"),
        ("--anchor=40", "there is no graph 40; give 0 to 39"),
    ):
        assert inspect.main([f"--workdir={workdir}", option]) == 1
        assert line in capsys.readouterr().err
    opened = anchors.open_run(workdir)
    with pytest.raises(UserError, match="no frames or poses: draw them with graph_plots"):
        anchors.read_clips(opened, [0])
    with pytest.raises(UserError, match="keeps no prototypes from step to step"):
        history.read_moves(workdir)
    found = plots.plot_history(history.read_history(workdir))
    unsaid = [axes.get_title() for axes in found.axes if axes.texts]
    assert unsaid == ["alignment (squared distance)", "uniformity (log)"]
    bank = state.replace(extra={"prototypes": np.ones((3, 24), np.float32)})
    assert history.read_prototypes(bank, 0).shape == (3, 24)


def test_svm_folds_of_scikit_learn():
    if not SVC.exists():
        pytest.skip("../shared/golden_graphcl is not here")
    arrays = dict(np.load(SVC))
    labels = arrays["labels"].astype(int)
    folds = svm.make_folds(labels, int(arrays["random_state"]))
    for name in ("epoch0", "epoch20"):
        values = arrays[f"{name}/embedding"]
        distances = svm.squared_distances(values)
        for i, fold in enumerate(folds):
            np.testing.assert_array_equal(np.flatnonzero(arrays["fold_test_mask"][i]), fold[1])
            found, c, inner = svm.predict_fold(values, distances, labels, fold)
            assert np.mean(found == labels[fold[1]]) == arrays[f"{name}/fold_accuracy"][i]
            assert c == arrays[f"{name}/fold_C"][i]
            np.testing.assert_allclose(inner, arrays[f"{name}/grid_mean_cv_accuracy"][i])


def test_svm_is_that_of_grid_search():
    """The same on small data that this test makes."""
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.svm import SVC as Machine

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    values = (rng.normal(size=(90, 4)) + labels[:, None]).astype(np.float32)
    fold = svm.make_folds(labels, 1)[0]
    search = GridSearchCV(Machine(), {"C": list(svm.GRID)}, cv=StratifiedKFold(5))
    search.fit(values[fold[0]], labels[fold[0]])
    found, c, inner = svm.predict_fold(values, svm.squared_distances(values), labels, fold)
    np.testing.assert_array_equal(found, search.predict(values[fold[1]]))
    assert c == search.best_params_["C"]
    np.testing.assert_allclose(inner, search.cv_results_["mean_test_score"])
