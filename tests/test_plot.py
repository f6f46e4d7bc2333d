"""Pictures: people stand upright and whole, nothing is empty, labels are apart and true."""

import itertools

import numpy as np
import pytest
from _people import stand
from matplotlib.collections import LineCollection
from PIL import Image

from halp_jax.errors import UserError
from halp_jax.skeletons import plot, synthetic
from halp_jax.skeletons.layout import COCO17, KINECT20, NTU25
from halp_jax.skeletons.normalize import normalize_clip

HEAD, FEET = 3, [15, 19]
WAVE, BOW, HUG = (synthetic.CLASS_NAMES.index(name) for name in ("wave", "bow", "hug"))


def skeletons(figure):
    """The line collections of a figure, with their axes."""
    return [
        (axes, lines)
        for axes in figure.axes
        for lines in axes.collections
        if isinstance(lines, LineCollection)
    ]


def plot_strip(frames, layout, count=8, title="", **options):
    return plot.plot_grid([frames], [title], layout, count, **options)


def ink(figure):
    """Share of pixels that are not white."""
    figure.canvas.draw()
    return (np.asarray(figure.canvas.buffer_rgba())[..., :3] < 250).any(-1).mean()


@pytest.mark.parametrize("index", [WAVE, HUG])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("turn", [None, 0.0, 75.0])
def test_people_stand_upright(index, normalised, turn):
    frames = synthetic.make_clip(0, index)
    frames = normalize_clip(frames, NTU25) if normalised else frames
    flat = plot.project(frames, NTU25, turn, up="z" if normalised else "y")
    present = plot.find_present(frames, NTU25)[..., [HEAD, *FEET]].all(-1)
    assert present.any()
    height = flat[..., HEAD, 1] - flat[..., FEET, 1].max(-1)
    assert (height[present] > 0.6).mean() > 0.95
    assert 0.8 < np.median(height[present]) < 2.2


def test_a_person_who_lies_or_stands_on_the_head_is_drawn_so():
    person = stand(NTU25.joints)[None, None]  # z up
    over = person * (1, -1, -1)
    back = person[..., [0, 2, 1]] * (1, -1, 1)
    heights = {}
    for name, frames in {"up": person, "over": over, "back": back}.items():
        flat = plot.project(frames, NTU25, turn=0.0)[0, 0]
        heights[name] = flat[HEAD, 1] - flat[FEET, 1].mean()
    np.testing.assert_allclose([heights["up"], heights["over"]], [1.6, -1.6], atol=1e-9)
    assert abs(heights["back"]) < 0.2  # head and feet are level
    # Feet point to the viewer, so the person's right is on the left; from above in the lying clip.
    flat = plot.project(person, NTU25, turn=0.0)[0, 0]
    np.testing.assert_allclose(flat[8] - flat[4], (-0.4, 0), atol=1e-9)


@pytest.mark.parametrize("up", ["z", "y", "-y"])
def test_the_caller_says_which_axis_points_up(up):
    """The same person in three frames of axes gives one picture, from any side."""
    person = stand(NTU25.joints)[None, None]
    x, y, z = person[..., 0], person[..., 1], person[..., 2]
    there = {"z": (x, y, z), "y": (x, z, -y), "-y": (-x, -z, -y)}[up]
    for turn in (0.0, 30.0, 75.0):
        np.testing.assert_allclose(
            plot.project(np.stack(there, -1), NTU25, turn, up),
            plot.project(person, NTU25, turn),
            atol=1e-9,
        )


def test_a_picture_has_y_down_whatever_is_said():
    pose = np.zeros((1, 1, 17, 3))
    pose[0, 0, :, :2] = stand(COCO17.joints)[:, [0, 2]] * (1, -1)
    flat = plot.project(pose, COCO17, turn=60.0, up="z")[0, 0]
    np.testing.assert_allclose(flat[0] - flat[15], (0.1, 1.55), atol=1e-9)


def test_facing_people_have_their_left_side_on_the_right_of_the_picture():
    raw = synthetic.make_clip(0, BOW)
    flat = plot.project(normalize_clip(raw, NTU25), NTU25, turn=0.0)
    assert flat[0, 0, 4, 0] > flat[0, 0, 8, 0] + 0.15


def test_two_people_are_seen_from_where_they_do_not_overlap():
    frames = synthetic.make_clip(0, HUG)
    both = frames[:, :, NTU25.centre].any(-1).all(1)
    centres = plot.project(frames, NTU25, up="y")[both][:, :, NTU25.centre, 0]
    apart = np.linalg.norm(np.diff(frames[both][:, :, NTU25.centre], axis=1)[:, 0], axis=-1)
    assert abs(np.diff(centres, axis=1)).mean() > 0.8 * apart.mean()


@pytest.mark.parametrize("normalised", [False, True])
def test_strip_is_whole_and_upright_on_the_page(normalised):
    frames = synthetic.make_clip(0, HUG)
    frames = normalize_clip(frames, NTU25) if normalised else frames
    up = "z" if normalised else "y"
    figure = plot_strip(frames, NTU25, count=5, title="hug", up=up)
    assert ink(figure) > 0.01
    drawn = skeletons(figure)
    assert len(drawn) >= 9  # five poses of two people, one of whom may come late
    colours = {tuple(np.round(lines.get_colors()[0], 2)) for _, lines in drawn}
    assert len(colours) >= 2
    page, upright = figure.bbox, 0
    for axes, lines in drawn:
        points = axes.transData.transform(np.concatenate(lines.get_segments()))
        box = axes.get_window_extent()
        assert (points >= [box.x0 - 1, box.y0 - 1]).all()
        assert (points <= [box.x1 + 1, box.y1 + 1]).all()
        assert page.x0 <= box.x0 and box.x1 <= page.x1
        if len(lines.get_segments()) == 24:
            # Bones come in the order of their joints, and start at the joint.
            page_y = [axes.transData.transform(bone[0])[1] for bone in lines.get_segments()[:20]]
            assert page_y[HEAD] > max(page_y[foot] for foot in FEET) + 20
            upright += 1
    assert upright >= 5
    assert figure.axes[0].get_title(loc="left") == "hug"
    assert figure.axes[0].get_aspect() == 1


def test_strips_tell_the_time_where_the_rate_is_known():
    frames = synthetic.make_clip(0, WAVE)[:61]
    for rate, last in ((30.0, "2.0 s"), (24.0, "2.5 s"), (0.0, "frame 60")):
        figure = plot_strip(frames, NTU25, count=3, rate=rate, up="y")
        assert figure.axes[0].texts[-1].get_text() == last


def test_a_joint_that_is_thrown_far_does_not_make_a_page_of_a_mile():
    frames = np.tile(stand(NTU25.joints), (4, 1, 1, 1))
    frames[2, 0, 7] = (1e6, 0, 0)
    frames[3] = 0.5  # all joints in one point
    for chosen in (frames, frames[3:]):
        figure = plot_strip(chosen, NTU25, count=4)
        assert (figure.get_size_inches() < 40).all() and ink(figure) > 0


def test_grid_names_every_clip_and_labels_stay_apart():
    clips = [synthetic.make_clip(0, index) for index in range(4)]
    figure = plot.plot_grid(clips, synthetic.CLASS_NAMES[:4], NTU25, count=4)
    assert ink(figure) > 0.01
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(synthetic.CLASS_NAMES[:4])
    texts = [
        text.get_window_extent() for axes in figure.axes for text in (*axes.texts, axes._left_title)
    ]
    assert len(texts) == 4 * 5
    assert not any(a.overlaps(b) for a, b in itertools.combinations(texts, 2))
    assert all(figure.bbox.x0 <= b.x0 and b.x1 <= figure.bbox.x1 and b.y0 >= 0 for b in texts)


def test_missing_joints_and_bodies_are_not_drawn():
    frames = synthetic.perform(0, WAVE)[0][:5].astype(np.float32) + 1
    whole = len(skeletons(plot_strip(frames, NTU25, count=1))[0][1].get_segments())
    frames[:, 0, 6] = 0  # a wrist: the bones on both of its sides go
    assert whole == 24
    assert len(skeletons(plot_strip(frames, NTU25, count=1))[0][1].get_segments()) == 22


def test_other_layouts_are_drawn():
    frames = synthetic.make_clip(0, WAVE)[:, :1, : KINECT20.num_joints]
    figure = plot_strip(frames, KINECT20, count=3)
    assert len(skeletons(figure)) == 3 and ink(figure) > 0.005


def test_figures_are_saved(tmp_path):
    figure = plot_strip(synthetic.make_clip(0, WAVE), NTU25, count=2)
    plot.save_figure(figure, tmp_path / "new" / "wave.png")
    with Image.open(tmp_path / "new" / "wave.png") as image:
        assert min(image.size) > 100


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: plot_strip(np.zeros((4, 2, 25, 3)), NTU25), "without any body"),
        (lambda: plot_strip(np.ones((4, 2, 20, 3)), NTU25), "ntu25"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_words(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_pictures_leave_pyplot_alone():
    import sys

    before = "matplotlib.pyplot" in sys.modules and sys.modules["matplotlib.pyplot"].get_fignums()
    plot_strip(synthetic.make_clip(0, WAVE), NTU25, count=1)
    after = "matplotlib.pyplot" in sys.modules and sys.modules["matplotlib.pyplot"].get_fignums()
    assert before == after
