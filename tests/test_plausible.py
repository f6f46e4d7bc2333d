"""Clips that are no people of their layout are told, and people of it, real or made, are not."""

import dataclasses

import numpy as np
import pytest
from _files import SHARED
from _formats import HAND, write_folder
from _people import HEAD_FIRST, move, stand
from PIL import Image

from halp_jax import export as command
from halp_jax.datasets import from_arrays, open_source, pack, preview
from halp_jax.datasets.builder import prepare_source
from halp_jax.errors import UserError
from halp_jax.skeletons import layout as layouts
from halp_jax.skeletons import plot
from halp_jax.skeletons.layout import COCO17, KINECT20, NTU25, parse_layout
from halp_jax.skeletons.normalize import normalize_clip, view_clip
from halp_jax.skeletons.plausible import find_faults


def people(joints, count=4, **options):
    return [move(joints, seed, **options) for seed in range(count)]


def mirrored(layout):
    """For each joint the one of the other side."""
    joints = np.arange(layout.num_joints)
    joints[list(layout.left + layout.right)] = layout.right + layout.left
    return joints


def openpose(count=2):
    """BODY_25 of a picture: x, y in pixels and a score."""
    rng = np.random.default_rng(0)
    size = (8, 1, 25)
    scores = rng.uniform(0, 1, (count, *size))
    x, y = rng.uniform(0, 1280, (count, *size)), rng.uniform(0, 720, (count, *size))
    return list(np.stack([x, y, scores], -1))


# --- people ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [NTU25, KINECT20])
@pytest.mark.parametrize("turn", [0, 120, 180])
def test_people_are_left_alone_raw_or_normalised_from_any_side(layout, turn):
    clips = people(layout.joints, turn=turn)
    assert find_faults(clips, layout) == []
    assert find_faults([normalize_clip(clip, layout) for clip in clips], layout) == []
    assert find_faults([view_clip(clip, layout) for clip in clips], layout) == []
    for axes in ((1, 2, 0), (2, 0, 1)):  # whatever is up
        assert find_faults([clip[..., axes] for clip in clips], layout) == []


def test_real_sets_are_left_alone():
    sources = {
        "pyskl/pku_mmd_v1_two_person_3danno.pkl": "pyskl", "pyskl/nw_ucla_3danno.pkl": "pyskl",
        "ntu": "ntu", "pku_v1": "pku",
    }  # fmt: skip
    if not SHARED.exists():
        pytest.skip("../shared/data is not here")
    for path, format in sources.items():
        source = open_source(format, SHARED / path)
        clips = [clip.frames for item in source.items[::7] for clip in source.read(item)]
        for first in range(0, len(clips), 16):
            assert find_faults(clips[first : first + 16], source.layout) == [], (path, first)


def test_the_embedded_people_are_left_alone():
    source = open_source("synthetic", clips=48)
    clips = [source.read(item)[0].frames for item in source.items]
    for first in range(0, 48, 4):
        assert find_faults(clips[first : first + 4], NTU25) == []


def test_nothing_is_said_where_nothing_can_be_known():
    noise = np.random.default_rng(0).normal(size=(4, 1, 25, 3))
    assert find_faults([], NTU25) == []
    assert find_faults([noise], NTU25) == []  # a few poses
    lost = np.tile(noise, (8, 1, 1, 1))
    lost[:, :, ::3] = 0  # no pose is whole
    assert find_faults([lost], NTU25) == []
    hand = parse_layout(HAND, "hand.json")
    person = np.tile(0.3 * stand(NTU25.joints)[:6], (16, 1, 1, 1)) + 1
    assert find_faults([person + 0.3 * np.eye(6, 3)], hand) == []
    assert find_faults([np.ones((20, 1, 25, 3), np.float32)], NTU25)  # a point is no person


# --- what is no person ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clips", "layout", "fault"),
    [
        (openpose(), NTU25, "third number is no depth: .* x, y and a score"),
        ([clip / (1280, 720, 1) for clip in openpose()], NTU25, "no depth"),
        ([clip * (1, 1, 0) for clip in openpose()], NTU25, "no depth"),
        (people(HEAD_FIRST), KINECT20, "head is nearer to the hips than to the shoulders"),
        (
            people(NTU25.joints[12:] + NTU25.joints[:12]),
            NTU25,
            "2.4 times as long as lines that join",
        ),
        ([clip[:, :, mirrored(NTU25)] for clip in people(NTU25.joints)], NTU25, "feet point back"),
        ([clip * (-1, 1, 1) for clip in people(KINECT20.joints)], KINECT20, "clips are mirrored"),
        (
            [100 * clip for clip in people(NTU25.joints)],
            NTU25,
            "takes up 1.., which cannot be metr",
        ),
        ([0.1 * clip for clip in people(NTU25.joints)], NTU25, "takes up 0.1.*, which cannot be"),
    ],
)
def test_what_is_no_person_is_told(clips, layout, fault):
    faults = find_faults(clips, layout)
    with pytest.raises(UserError, match=fault):
        raise UserError(faults[0])


def test_each_measure_tells_its_own_fault():
    body = stand(NTU25.joints)
    number = {name: place for place, name in enumerate(NTU25.joints)}

    def faults(**places):
        changed = body.copy()
        for name, xyz in places.items():
            changed[number[name.replace("_", " ")]] = xyz
        return find_faults([np.tile(changed, (16, 1, 1, 1))], NTU25)

    assert faults() == []
    assert faults(left_wrist=(-0.25, 1.2, 0.2), right_wrist=(0.25, 1.2, 0.2)) == [
        "from elbow to wrist it is 2.3 times the length of the trunk"
    ]
    half = {NTU25.joints[joint].replace(" ", "_"): body[joint] / 2 for joint in NTU25.left}
    assert faults(**half)[0] == "bones of the left and the right differ 2.0 times in length"
    # Hips of the other side, legs crossed: lengths stay nearly what they were.
    swap = mirrored(NTU25)
    legs = [
        j
        for j, name in enumerate(NTU25.joints)
        if name.split()[-1] in ("hip", "knee", "ankle", "foot")
    ]
    crossed = body.copy()
    crossed[legs] = body[swap[legs]]
    told = find_faults([np.tile(crossed, (16, 1, 1, 1))], NTU25)
    assert told[0] == "left and right of the hips are not those of the shoulders"
    upside = dataclasses.replace(NTU25, spine=NTU25.spine[::-1])
    told = find_faults([np.tile(body, (16, 1, 1, 1))], upside)
    assert told[0] == "the head is below the hips where the layout's spine stands upright"
    stretch = 1 + 0.9 * np.random.default_rng(0).uniform(-1, 1, (16, 1, 25, 1))
    told = find_faults([body * stretch], NTU25)
    assert any("bones change their length by" in fault for fault in told)


def test_joints_in_a_picture_are_held_to_the_head_alone():
    flat = np.zeros((16, 1, 17, 3))
    flat[..., :2] = stand(COCO17.joints)[:, [0, 2]] * (300, -300) + 500
    assert find_faults([flat], COCO17) == []
    hips_first = flat[:, :, [11, *range(1, 11), 0, *range(12, 17)]]
    assert find_faults([hips_first], COCO17) == [
        "the head is nearer to the hips than to the shoulders"
    ]


# --- what prepare and draw say --------------------------------------------------------------------


def prepare(folder, clips, out=None, **options):
    """A folder of clips of three classes, prepared as the command does it."""
    source = open_source("folder", write_folder(folder, clips), **options)
    return prepare_source(source, out or folder / "set")


def test_openpose_joints_that_pass_for_kinect_v2_are_refused(tmp_path):
    clips = openpose()
    with pytest.raises(UserError) as error:
        prepare(tmp_path, clips)
    line = str(error.value)
    assert line.startswith(
        "folder: the skeleton is ntu25, guessed from 25 joints of 3 numbers, but their third number"
        " is no depth: they look like x, y and a score in a picture; give --layout="
    )
    assert line.endswith('FILE.json with "axes": 2, or --layout=ntu25 if it is that all the same')
    assert not (tmp_path / "set").exists() and "\n" not in line


def test_another_order_of_as_many_joints_is_refused_and_the_right_one_named(tmp_path, monkeypatch):
    clips = [np.tile(stand(HEAD_FIRST)[:, [0, 2, 1]] * (1, 1, -1) + (0, 0, 3), (10, 1, 1, 1))] * 2
    with pytest.raises(UserError) as error:
        prepare(tmp_path, clips)
    assert str(error.value) == (
        "folder: the skeleton is kinect20, guessed from 20 joints of 3 numbers, but the head is"
        " nearer to the hips than to the shoulders; give --layout=FILE.json with the order of the"
        " joints, or --layout=kinect20 if it is that all the same"
    )
    swap = [HEAD_FIRST.index(name) for name in KINECT20.joints]
    head_first = dataclasses.replace(
        KINECT20,
        name="headfirst20",
        joints=HEAD_FIRST,
        parents=tuple(swap[KINECT20.parents[KINECT20.joints.index(name)]] for name in HEAD_FIRST),
        centre=2,
        spine=(3, 1),
        view_spine=None,
    )
    monkeypatch.setitem(layouts.LAYOUTS, "headfirst20", head_first)
    with pytest.raises(UserError, match="give --layout=headfirst20 or --layout=FILE.json with"):
        prepare(tmp_path, clips)
    dataset = prepare(tmp_path, clips, layout="headfirst20")
    assert "doubtful" not in dataset.metadata["notes"] and "layout" not in dataset.metadata["notes"]


def test_a_guess_that_fits_is_told_and_a_layout_that_is_given_is_taken(tmp_path, capsys):
    from halp_jax.prepare import summary

    dataset = prepare(tmp_path / "a", people(NTU25.joints))
    told = (
        "layout: ntu25, guessed from 25 joints of 3 numbers; give --layout if the order is another"
    )
    assert told in summary(dataset).splitlines()
    assert "warning" not in capsys.readouterr().err
    dataset = prepare(tmp_path / "b", people(HEAD_FIRST), layout="kinect20")
    warning = (
        "the clips do not look like kinect20: the head is nearer to the hips than to the shoulders;"
        " see clips.png, and if they are not, give --layout=FILE.json with the order of the joints"
    )
    assert f"warning: {warning}" in capsys.readouterr().err.splitlines()
    assert f"doubtful: {warning}" in summary(dataset).splitlines()


def test_what_is_no_person_in_any_order_is_let_in_with_a_warning(tmp_path, capsys):
    noise = np.random.default_rng(0).normal(size=(9, 1, 25, 3)).astype(np.float32)
    dataset = prepare(tmp_path / "a", [noise, 2 * noise])
    assert "warning: the clips do not look like ntu25: the bones are" in capsys.readouterr().err
    assert len(dataset) == 2
    prepare(tmp_path / "b", [1000 * clip for clip in people(NTU25.joints)])
    told = capsys.readouterr().err
    assert (
        "which cannot be metres; see clips.png, and if they are not, write them in metres" in told
    )


def test_a_picture_of_six_clips_lies_beside_the_data(tmp_path):
    folder = tmp_path / "clips"
    dataset = prepare(folder, people(NTU25.joints, count=9))
    np.testing.assert_array_equal(preview.choose_clips(dataset), [0, 1, 2, 3, 5, 8])
    with Image.open(folder / "set" / "clips.png") as image:
        assert image.size[0] > 300 and (np.asarray(image.convert("L")) < 200).mean() > 0.005
    source = open_source("folder", folder)
    assert len(prepare_source(source, folder / "set", overwrite=True)) == 9


def test_strips_of_a_set_are_upright_and_in_its_time(tmp_path, monkeypatch):
    drawn = {}

    def plot_grid(clips, names, layout, **options):
        drawn.update(options, clips=clips, names=names)
        return real(clips, names, layout, **options)

    real = plot.plot_grid
    monkeypatch.setattr(plot, "plot_grid", plot_grid)
    clips = people(NTU25.joints, count=3)
    for normalize, up in (("upright", "z"), ("view", "z"), ("none", "y")):
        options = {"layout": "ntu25", "normalize": normalize, "class_names": ["$x^$", "挥手"]}
        dataset = from_arrays(clips, [0, 1, 1], **options)
        dataset.metadata["fps"] = 25
        preview.save_picture(dataset, np.arange(3), tmp_path / "a.png")
        assert (drawn["up"], drawn["rate"]) == (up, 25.0)
        assert drawn["names"] == ["0: clip 0, $x^$", "1: clip 1, 挥手", "2: clip 2, 挥手"]
        np.testing.assert_array_equal(drawn["clips"][2], dataset.clip(2))


def test_command_draws_any_clips_and_says_what_is_wrong(tmp_path, capsys):
    good = from_arrays(people(NTU25.joints), [0, 1, 0, 1], layout="ntu25")
    bad = from_arrays(people(HEAD_FIRST), [0, 1, 0, 1], layout="kinect20")
    for name, dataset in {"good": good, "bad": bad}.items():
        pack(dataset, tmp_path / f"{name}.npz")
    out = tmp_path / "a.png"
    assert command.main([f"--data={tmp_path}/good.npz", f"--out={out}", "--clips=clip 2,0"]) == 0
    assert capsys.readouterr().out == f"{out}: 2 of 4 clips\n" and out.stat().st_size > 1000
    assert command.main([f"--data={tmp_path}/bad.npz", f"--out={out}"]) == 1
    assert "exists; choose another --out, or --overwrite" in capsys.readouterr().err
    assert command.main([f"--data={tmp_path}/bad.npz", f"--out={out}", "--overwrite"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "not like kinect20: the head is nearer to the hips than to the shoulders"
    assert lines[-1] == f"{out}: 4 of 4 clips"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clips=9"], "has no clip '9'; give names, or numbers from 0 to 1"),
        (["--clips=clip 1,walk"], "has no clip 'walk'"),
        (["--clips=" + "0," * 60 + "0"], "61 clips in one picture; give up to 48"),
        (["--out=a.gif"], "--out=a.gif does not end in .npz, .pkl, .png, .pdf, .svg"),
        (["--out=/dev/null/a.png"], "cannot write /dev/null/a.png (File exists)"),
        (["--data=nowhere"], "nowhere does not exist"),
    ],
)
def test_command_refuses_in_one_line(tmp_path, capsys, options, message):
    pack(from_arrays(people(NTU25.joints, 2), None, layout="ntu25"), tmp_path / "a.npz")
    given = [f"--data={tmp_path / 'a.npz'}", f"--out={tmp_path / 'a.png'}", *options]
    assert command.main(given) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
