"""What is shown of a run is what the method computes, on a run whose geometry is known."""

import json
import shutil
from types import SimpleNamespace

import jax
import matplotlib.style
import numpy as np
import pytest
from _steps import change, create_state
from matplotlib.collections import LineCollection

from configs import default
from configs import isc as configs_isc
from halp_jax import datasets
from halp_jax.errors import UserError
from halp_jax.evaluation import features
from halp_jax.inspect import __main__ as command
from halp_jax.inspect import anchors, classes, history, maps, page, plots, plots3d, strips
from halp_jax.methods import isc
from halp_jax.skeletons import synthetic
from halp_jax.skeletons.layout import KINECT20, NTU25
from halp_jax.training import checkpoint
from tests import _runs

CLASSES = 4


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def compile_fast():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def run():
    """Four classes around four directions of 16, two prototypes each; clips of the synthetic body."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), 10)
    middles = np.eye(CLASSES, 16)
    points = unit(middles[labels] + 0.35 * rng.normal(size=(40, 16)) / 4 + 0.3)
    prototypes = unit(np.repeat(middles, 2, 0) + 0.1 * rng.normal(size=(8, 16)) + 0.3)
    frames = [synthetic.make_clip(0, index)[:20] for index in range(40)]
    dataset = datasets.from_arrays(
        frames, labels, layout="ntu25", class_names=list("abcd"), normalize="none"
    )
    config = _runs.small_config()
    config.data.max_frames = 20
    return anchors.Inspected(
        config, dataset, 7, "joint", np.arange(40, dtype=np.int32),
        labels.astype(np.int32), points, prototypes, "the run",
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run as training would leave it, with two checkpoints; its workdir."""
    folder = tmp_path_factory.mktemp("inspect")
    config = _runs.small_config(_runs.pack_clips(folder / "clips.npz"))
    workdir = folder / "run"
    checkpoint.save_config(workdir, config)
    state = create_state(config)
    with checkpoint.open_manager(workdir, config) as manager:
        for step, seed in ((3, 0), (6, 1)):
            prototypes = jax.random.normal(jax.random.key(seed), state.extra["prototypes"].shape)
            prototypes /= np.linalg.norm(prototypes, axis=-1, keepdims=True)
            new = change(state, prototypes=prototypes).replace(step=state.step + step)
            checkpoint.save(manager, step, new, {"layout": "ntu25"})
    lines = [
        {"step": s, "epoch": s / 3, "loss": 1.0, "mu": float(s > 3), "t_star": 0.4, "kept": 0.9,
         "not_argmin": 0.1, "prototypes_used": 4.0, "alignment": 0.2, "uniformity": -2.0,
         "contrast_accuracy": 0.5} for s in (2, 4, 6)
    ]  # fmt: skip
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return workdir


def with_halp(run, draw, lam):
    """The run with other settings of HaLP."""
    config = run.config.copy_and_resolve_references()
    config.halp.draw, config.halp.lam = draw, lam
    return run._replace(config=config)


def ink(figure):
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    return (np.abs(pixels - pixels[0, 0]).max(-1) > 20).mean()


def test_a_run_is_opened_once_and_shows_its_keys(trained):
    run = anchors.open_run(trained)
    assert run.anchors.shape == (14, 8) and run.step == 6 and run.origin == "the run"
    np.testing.assert_allclose(np.linalg.norm(run.anchors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(run.labels, run.dataset.labels[run.clips])
    earlier = anchors.open_run(trained, step=3, part="test", max_clips=3)
    assert earlier.anchors.shape == (3, 8)
    assert np.abs(earlier.prototypes - run.prototypes).max() > 0.1
    with pytest.raises(UserError, match="no stream 'bone'; use joint"):
        anchors.open_run(trained, stream="bone")


def test_a_walk_ends_at_t_star_where_a_rival_ties(run):
    run = with_halp(run, "slide", 0.5)
    for clip in (0, 13, 39):
        path = anchors.walk(run, clip, solver="geodesic", count=201)
        np.testing.assert_allclose(np.linalg.norm(path.points, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(path.points[0], run.anchors[clip], atol=1e-5)
        np.testing.assert_allclose(path.points[-1], run.prototypes[path.selected], atol=1e-5)
        first = path.similarities.argmax(1) == path.nearest
        assert (
            first[path.t < path.t_star - 0.01].all()
            and not first[path.t > path.t_star + 0.01].any()
        )
        assert path.drawn == (0.0, 0.5 * path.t_star)
        assert not (path.neighbour == clip).any()
        others = np.delete(np.arange(40), clip)
        best = (path.points @ run.anchors[others].T).max(1)
        np.testing.assert_allclose(path.closeness, best, atol=1e-6)


def test_positives_under_every_solver(run):
    run = with_halp(run, "released", 1.0)
    pairwise, geodesic, sphere = (anchors.plot_positives(run, 5, s) for s in anchors.SOLVERS)
    np.testing.assert_array_equal(pairwise.selected, geodesic.selected)  # one seed, one draw
    assert (geodesic.t_star <= pairwise.t_star + 1e-6).all()
    assert (geodesic.rank == 1).all() and (sphere.rank == 1).all()
    # The filter refuses exactly those that have lost their rank.
    np.testing.assert_array_equal(pairwise.kept, pairwise.rank == 1)
    assert not pairwise.kept.all()
    assert sphere.given_up.max() > geodesic.given_up.max()  # the relaxation gives up less
    home = (run.prototypes @ run.anchors[5]).argmax()
    expected = run.anchors[5] @ run.prototypes[home] - sphere.points @ run.prototypes[home]
    np.testing.assert_allclose(sphere.given_up, expected, atol=1e-6)


def test_refusals_say_what_there_is(run):
    with pytest.raises(UserError, match="no clip 40; give 0 to 39"):
        anchors.walk(run, 40)
    with pytest.raises(UserError, match="no prototype 8; give 0 to 7"):
        anchors.walk(run, 0, selected=8, solver="geodesic")
    with pytest.raises(UserError, match="the anchor's own"):
        anchors.walk(run, 0, selected=anchors.walk(run, 0).nearest)
    with pytest.raises(UserError, match="one of pairwise, geodesic, sphere"):
        anchors.walk(run, 0, solver="straight")
    with pytest.raises(UserError, match="solver sphere walks toward the anchor's own prototype"):
        own = anchors.walk(run, 0).nearest
        anchors.walk(run, 0, selected=(own + 1) % 8, solver="sphere")


def test_choose_clips_goes_round_the_classes(run):
    chosen = anchors.choose_clips(run, 6)
    assert [int(run.labels[clip]) for clip in chosen] == [0, 1, 2, 3, 0, 1]
    assert len(set(chosen)) == 6


def test_clips_come_back_in_the_order_asked(run):
    frames = anchors.read_clips(run, [7, 2, 7])
    np.testing.assert_array_equal(frames[0], frames[2])
    for place, clip in ((0, 7), (1, 2)):
        np.testing.assert_array_equal(frames[place], synthetic.make_clip(0, clip)[:20])
    assert np.abs(frames[0] - frames[1]).max() > 0.05


@pytest.mark.parametrize("solver", ["pairwise", "sphere"])
def test_landing_is_what_the_points_themselves_say(run, solver):
    """Nearest clips from tables against those of points that are written down, one fixed share."""
    (found,) = classes.keep_along(run, solver, (0.7,), num_positives=30)
    own = []
    for clip in range(40):
        home = int((run.prototypes @ run.anchors[clip]).argmax())
        targets = range(8) if solver != "sphere" else [home]
        for target in targets:
            if target == home and solver != "sphere":
                continue
            path = anchors.walk(run, clip, target, solver, count=2)
            weights = np.sin(np.array([1 - 0.7 * path.t_star, 0.7 * path.t_star]) * path.omega)
            point = weights @ path.points[[0, -1]] / np.sin(path.omega)
            place, _ = anchors.find_neighbours(run, point[None].astype(np.float32), clip)
            kept = (run.prototypes @ point).argmax() == home
            own.append((run.labels[place[0]] == run.labels[clip], kept or solver != "pairwise"))
    own = np.array(own)
    # All targets once against 30 draws of them for each of 40 anchors: a sampling error of 1 %.
    assert found.share == pytest.approx(own[own[:, 1], 0].mean(), abs=0.04)
    assert found.kept == pytest.approx(own[:, 1].mean(), abs=0.04)


def test_keep_class_and_the_figures_beside_it(run):
    results = classes.keep_class(run, ["pairwise", "geodesic"], lams=(0.2, 1.0), num_positives=20)
    assert len(results) == 2 * 2 * 2
    shares = {(r.solver, r.draw, r.lam): r for r in results}
    short, full = shares["geodesic", "slide", 0.2], shares["geodesic", "slide", 1.0]
    assert short.share > full.share and short.degrees < full.degrees
    assert full.kept == 1.0
    # At lambda 1 the two draws are one.
    assert full.share == pytest.approx(shares["geodesic", "released", 1.0].share)
    for r in results:
        assert r.floor == pytest.approx(0.25, abs=0.03)  # four classes of one size
        np.testing.assert_allclose(r.matrix.sum(1), 1)
        assert r.share == pytest.approx(np.trace(r.matrix) / 4, abs=0.03)


def test_positives_at_the_anchor_are_the_anchor(run):
    (still,) = classes.keep_along(run, "geodesic", (0.0,))
    assert still.share == still.at_anchor == still.blind and still.degrees == 0


def test_history_is_silent_about_halp_before_it(trained):
    found = history.read_history(trained)
    np.testing.assert_array_equal(found.step, [2, 4, 6])
    np.testing.assert_array_equal(found.figures["t_star"][0], [np.nan, 0.4, 0.4])
    np.testing.assert_array_equal(found.figures["alignment"][0], [0.2, 0.2, 0.2])
    assert found.halp_from == pytest.approx(4 / 3)
    moves = history.read_moves(trained)
    old, new = (anchors.open_run(trained, step=s).prototypes for s in (3, 6))
    expected = np.degrees(np.arccos((old @ new.T).max(1)))
    np.testing.assert_allclose(moves.degrees[0], expected, atol=1e-2)
    assert ink(plots.plot_history(found)) > 0.01
    (trained / "metrics.jsonl").rename(trained / "aside")
    with pytest.raises(UserError, match="no line of training yet"):
        history.read_history(trained)
    (trained / "aside").rename(trained / "metrics.jsonl")


def test_the_command_draws_a_run_of_clips(trained, capsys):
    assert command.main([f"--workdir={trained}", "--anchor=2", "--part=test", "--step=3"]) == 0
    shown = capsys.readouterr().out
    assert "6 clips, 4 prototypes of the run" in shown and "clip 2 (" in shown
    names = sorted(path.name for path in (trained / "inspect").iterdir())
    shown = ("map", "positives_2", "sphere", "walk_2")  # what was asked for is in their names
    assert names == [f"{name}_step3_test.png" for name in shown]


def test_a_run_brought_from_elsewhere_is_drawn_where_there_is_room(trained, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "config.json").write_text(
        (run / "config.json").read_text().replace("clips.npz", "elsewhere.npz")
    )
    (tmp_path / "file").write_text("in the way")
    options = [f"--workdir={run}", f"--out={tmp_path / 'file' / 'pictures'}"]
    assert command.main(options) == 1 and "elsewhere.npz does not exist" in capsys.readouterr().err
    assert command.main([*options, f"--data={trained.parent / 'clips.npz'}"]) == 1
    assert capsys.readouterr().err.startswith(f"error: cannot write {tmp_path / 'file'}")


def test_of_two_encoders_the_one_that_is_evaluated_has_its_own_prototypes():
    memory = {
        side: {"prototypes": np.full((2, 4, 8), float(n), np.float32)}
        for n, side in enumerate(isc.SIDES)
    }
    state = SimpleNamespace(extra={"memory": memory})
    config = configs_isc.get_config("small")
    for config.isc.feature in isc.SIDES:
        side = isc.find_side(config)[0]
        assert np.all(history.read_prototypes(state, 1, side) == isc.SIDES.index(side))
    config.isc.feature = "both"
    with pytest.raises(UserError, match="no embeddings on a sphere"):
        features.make_embedding("trained", config, NTU25, points=True)


@pytest.mark.parametrize("solver", anchors.SOLVERS)
def test_the_walk_is_drawn_with_the_clips_under_it(run, solver):
    path = anchors.walk(run, 3, solver=solver)
    figure = plots.plot_walk(run, path)
    assert ink(figure) > 0.03
    top, curves, *strips_ = figure.axes
    assert f"t* = {path.t_star:.2f}" in [t.get_text() for t in curves.get_legend().get_texts()]
    assert len(strips_) == 7
    for axes, stop in zip(strips_, np.linspace(0, 100, 7).round().astype(int), strict=True):
        assert run.names[path.neighbour[stop]] == axes.get_xlabel().split("\n")[0]
        assert any(isinstance(lines, LineCollection) for lines in axes.collections)
        # Below its own t; the gaps between the columns move the outer ones a little.
        middle = axes.get_window_extent().get_points()[:, 0].mean()
        assert middle == pytest.approx(curves.transData.transform((path.t[stop], 0))[0], abs=6)


def test_no_words_of_the_walk_are_cut_or_overlap(run):
    figure = plots.explore(run, 3, "pairwise", 0.5, 6, 0.4)
    figure.canvas.draw()
    assert "P* is number 1" in figure.get_suptitle() and "0.40" in figure.get_suptitle()
    boxes = [figure._suptitle.get_window_extent()] + [
        text.get_window_extent()
        for axes in figure.axes
        for text in (*axes.texts, axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label)
        if text.get_text()
    ]
    for number, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_a_dark_page_stays_dark_in_its_files(run, tmp_path):
    with matplotlib.style.context("dark_background"):
        figure = maps.plot_map(run)
    page.save(figure, tmp_path / "new" / "map.png")
    from PIL import Image

    pixels = np.asarray(Image.open(tmp_path / "new" / "map.png").convert("L"))
    assert np.median(pixels) < 60 and pixels.max() > 150


def test_the_projection_says_how_much_it_shows(run):
    scene = plots3d.project_sphere(run, [0, 12, 25], "pairwise", count=6)
    assert scene.positives.shape == (18, 3) and scene.kept.shape == (18,)
    lengths = np.sum(np.concatenate([scene.clips, scene.prototypes]) ** 2, axis=1)
    assert scene.share == pytest.approx(lengths.mean(), abs=1e-5) and lengths.max() <= 1 + 1e-5
    assert f"{scene.share:.0%} of the squared length" in plots3d.describe(scene)
    assert ink(plots3d.plot_scene_flat(scene)) > 0.005
    # The sphere's solver leads to no prototype: points, no arcs.
    assert len(plots3d.project_sphere(run, [0], "sphere").arcs) == 0


def test_the_sphere_that_turns(run):
    pytest.importorskip("plotly")
    scene = plots3d.project_sphere(run, [0, 12], "pairwise", count=6)
    traces = {trace.name: trace for trace in plots3d.plot_scene(scene).data}
    kept = sum(len(t.x) for name, t in traces.items() if name.startswith("kept"))
    assert kept == scene.kept.sum() and len(traces["refused"].x) == (~scene.kept).sum()
    assert len(traces["prototypes"].x) == 8 and len(traces["real clips"].x) == 40


def test_tables_and_maps(run, tmp_path):
    (result,) = classes.keep_class(run, ["geodesic"], ["slide"], [0.8], num_positives=4)
    figure = plots.plot_classes(run, result)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list("abcd")
    along = {
        s: classes.keep_along(run, s, (0.0, 1.0), num_positives=4) for s in anchors.SOLVERS[:2]
    }
    assert ink(plots.plot_keep_along(along)) > 0.01
    drawn = [anchors.plot_positives(run, 0, s) for s in anchors.SOLVERS]
    assert ink(plots.plot_solvers(run, drawn)) > 0.02
    places, words = maps.embed_2d(run.anchors, "pca")
    centred = run.anchors - run.anchors.mean(0)
    assert f"{(places**2).sum() / (centred**2).sum():.0%} of the spread" in words
    with pytest.raises(UserError, match="no map 'som'"):
        maps.embed_2d(run.anchors, "som")
    file = tmp_path / "knn.json"
    confusion = {"class_names": ["a", "b"], "counts": [[3, 1], [0, 4]]}
    file.write_text(json.dumps({"protocol": "knn", "split": "xsub", "top1": 0.875} | {
        "confusion": confusion}))  # fmt: skip
    figure = maps.plot_confusion(file)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[75, 25], [0, 100]])
    with pytest.raises(UserError, match="holds no confusion matrix"):
        maps.plot_confusion(tmp_path / "none.json")


@pytest.mark.parametrize("layout", [NTU25, KINECT20])
def test_poses_stand_upright_even_in_a_shaken_view(layout):
    index = synthetic.CLASS_NAMES.index("wave")
    frames = synthetic.make_clip(0, index)[:, : layout.bodies, : layout.num_joints]
    for seed in (0, 2):
        figure = strips.plot_views(
            frames, layout, default.get_config().views, seed=seed, count=4, title="wave", up="y"
        )
        axes = figure.axes[0]
        (low, high), heads = (
            axes.get_ylim(),
            [x.get_ydata()[0] for x in axes.lines if x.get_ms() > 3],
        )
        assert min(heads) > (low + high) / 2 and len(heads) == 4 and ink(figure) > 0.005
        assert len(figure.axes) == 3


def test_an_animation_is_a_page_that_needs_nothing():
    frames = synthetic.make_clip(0, 3)[:12]
    page_ = strips.animate(frames, NTU25, title="<clap>", up="y")
    assert "&lt;clap&gt;" in page_ and "http" not in page_ and "@" not in page_
    lines = json.loads(page_.split("const frames = ")[1].split(", colours")[0])
    bones = sum(j != p for j, p in enumerate(NTU25.parents))
    assert len(lines) == 12 and len(lines[0]) == bones
    width, height = (int(page_.split(f'{side}="')[1].split('"')[0]) for side in ("width", "height"))
    corners = np.array([line[:4] for frame in lines for line in frame])
    assert (
        corners.min() >= 0 and corners[:, ::2].max() <= width and corners[:, 1::2].max() <= height
    )
    first = np.array([line[:4] for line in lines[0]])  # page coordinates: y points down
    assert first[3, 1] < first[[14, 18], 1].min() - 100  # the head's bone, the feet's
