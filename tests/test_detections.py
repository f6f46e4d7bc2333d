"""OpenPose, COCO, YOLO, Kinetics-skeleton and MediaPipe: what real files give, and every spelling of them."""

import json

import numpy as np
import pytest
from _detections import (
    FORMATS,
    body25,
    kinetics_clip,
    landmarks,
    make_kinetics,
    people,
    write_annotations,
    write_frame,
    write_long,
    write_mmpose,
    write_openpose,
    write_results,
    write_wide,
    write_yolo,
)

from halp_jax.datasets import guess_format, open_source
from halp_jax.datasets.clip import DamagedClip
from halp_jax.datasets.kinetics import LEFT_OUT
from halp_jax.datasets.mediapipe import SQUEEZED
from halp_jax.datasets.openpose import tell_kind
from halp_jax.datasets.tracking import MORE_PEOPLE
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import BODY25B, HALPE26, MEDIAPIPE33
from halp_jax.skeletons.normalize import normalize_clip

shared = pytest.mark.skipif(not FORMATS.is_dir(), reason="needs the sample files of formats")


def read_all(format, path, **options):
    source = open_source(format, path, **options)
    return source, {clip.name: clip for item in source.items for clip in source.read(item)}


def mean_height(clip, layout, *names):
    """How far down the joints lie in a prepared clip, over the frames that show them all."""
    frames = normalize_clip(clip.frames, layout)[:, 0, [layout.joints.index(n) for n in names]]
    return float(frames[frames.any(-1).all(1), :, 1].mean())


# --- real files -----------------------------------------------------------------------------------


@shared
@pytest.mark.parametrize(
    ("format", "path", "layout", "shapes", "frames"),
    [
        ("openpose", "openpose_body25", "body25", {"linguistik": 16}, [16, 0]),
        ("openpose", "openpose_body25b/clip", "body25b", {"cam01": 20}, [20, 20]),
        ("openpose", "openpose_body25b/three_people", "body25b", {"cam01": 7}, [7, 7]),
        ("openpose", "openpose_body25b/static", "body25b", {"Static_cam_01": 12}, [12, 0]),
        ("openpose", "openpose_coco18_padded", "openpose18", {"openpose_coco18_padded": 4}, [4, 0]),
        ("openpose", "lookalike/openpose_body25", "body25", {"balance": 12}, [11, 11]),
        ("openpose", "lookalike/openpose_coco18", "openpose18", {"balance": 12}, [11, 11]),
        ("coco", "coco/alphapose_halpe26_cut.json", "halpe26", {"alphapose_halpe26_cut": 722},
         [26, 22]),
        ("kinetics", "lookalike/kinetics_skeleton", "openpose18", {"aaaaaaaaaaa": 20}, [18, 18]),
    ],
)  # fmt: skip
def test_real_people_stand_upright_and_are_all_there(format, path, layout, shapes, frames):
    source, clips = read_all(format, FORMATS / path)
    assert source.layout.name == layout
    assert {name: len(clip.frames) for name, clip in clips.items()} == shapes
    (clip,) = clips.values()
    assert clip.frames.any((2, 3)).sum(0).tolist() == frames and not clip.frames[..., 2].any()
    nose = mean_height(clip, source.layout, "nose")
    shoulders = mean_height(clip, source.layout, "left shoulder", "right shoulder")
    hips = mean_height(clip, source.layout, "left hip", "right hip")
    assert nose < shoulders < hips and hips - shoulders == pytest.approx(0.5, abs=0.15)  # y down


@shared
def test_three_real_people_and_one_in_two_halves_keep_their_places():
    source, clips = read_all("openpose", FORMATS / "openpose_body25b" / "three_people")
    hips = clips["cam01"].frames[:, :, source.layout.joints.index("right hip"), 0]
    assert np.ptp(hips, axis=0).max() < 100 and (hips[:, 0] - hips[:, 1]).min() > 150
    assert clips["cam01"].remark == ""


@shared
def test_real_photographs_are_clips_of_one_frame():
    source, clips = read_all("coco", FORMATS / "coco" / "coco_person_keypoints.json")
    assert source.layout.name == "coco17" and source.class_names == ()
    assert [name.split("/")[1] for name in clips] == [
        "000000000785", "000000040083", "000000196141", "000000197388",
    ]  # fmt: skip
    assert [int(clip.frames.any((2, 3)).sum()) for clip in clips.values()] == [1, 2, 2, 2]
    assert [clip.remark for clip in clips.values()] == ["", "", MORE_PEOPLE, MORE_PEOPLE]


@shared
def test_real_landmarks_of_the_world_and_of_samples():
    source, clips = read_all("mediapipe", FORMATS / "mediapipe" / "world_landmarks_long.csv")
    (clip,) = clips.values()
    assert clip.frames.shape == (60, 1, 35, 3) and clip.label == -1
    check_upright(clip)
    source, clips = read_all("mediapipe", FORMATS / "mediapipe" / "mlkit_pose_samples_cut.csv")
    assert source.class_names == ("pushups_down", "pushups_up", "squats_down", "squats_up")
    assert len(clips) == 100 and {len(clip.frames) for clip in clips.values()} == {1}
    with pytest.raises(DamagedClip, match="x, y, z of 9 of the 33 landmarks"):
        read_all("mediapipe", FORMATS / "mediapipe" / "named_subset_wide_cut.csv")


# --- OpenPose -------------------------------------------------------------------------------------


def test_openpose_frames_are_sorted_as_numbers_and_empty_ones_stay(tmp_path):
    clip = body25(0, 12)
    for time in (1, 2, 3, 10, 11, 12):  # unpadded; 4 to 9 are not there
        write_frame(tmp_path / f"walk_{time}.json", clip[time - 1] if time != 3 else [])
    source, clips = read_all("openpose", tmp_path)
    frames = clips["walk"].frames[:, 0]
    assert source.layout.name == "body25" and frames.shape == (12, 25, 3)
    assert frames.any((1, 2)).tolist() == [True, True, *[False] * 7, True, True, True]
    np.testing.assert_allclose(frames[9:, :, :2], clip[9:, 0, :, :2], atol=1e-3)


def test_openpose_folders_are_clips_classes_or_hold_several_clips(tmp_path):
    clip = body25(0, 3)
    for name in ("a/0", "a/1", "b/0"):
        write_openpose(tmp_path / "classes" / name, clip)
    source, clips = read_all("openpose", tmp_path / "classes")
    assert source.class_names == ("a", "b")
    assert {name: each.label for name, each in clips.items()} == {"a/0": 0, "a/1": 0, "b/0": 1}
    source, clips = read_all("openpose", tmp_path / "classes" / "a")
    assert source.class_names == () and {n: c.label for n, c in clips.items()} == {"0": -1, "1": -1}
    for name in ("walk 2", "run"):
        write_openpose(tmp_path / "mixed" / "x", clip, name)
    source, clips = read_all("openpose", tmp_path / "mixed" / "x")
    assert set(clips) == {"walk 2", "run"} and source.class_names == ()
    source, clips = read_all("openpose", tmp_path / "mixed")
    assert set(clips) == {"x/walk 2", "x/run"} and source.class_names == ("x",)
    for name in ("wave/a", "kick/b", "kick/c"):  # one clip alone in its class
        write_openpose(tmp_path / "uneven" / name[:4], clip, name[5:])
    source, clips = read_all("openpose", tmp_path / "uneven")
    assert {n: c.label for n, c in clips.items()} == {"kick/b": 0, "kick/c": 0, "wave/a": 1}
    (tmp_path / "classes" / "notes.json").write_text("{}")  # no number: no frame
    assert len(read_all("openpose", tmp_path / "classes")[1]) == 3


def test_openpose_kinds_of_75_numbers_are_told_apart():
    true = body25(0, 10)[:, 0]
    assert tell_kind(true) == "body25"
    padded = people(0, 10, 25)[:, 0]
    padded[:, 18:] = 0
    padded[:, 1, :2] = (padded[:, 2, :2] + padded[:, 5, :2]) / 2
    assert tell_kind(padded) == "openpose18"
    assert tell_kind(people(0, 10, 25)[:, 0]) == "body25b"
    seated = true.copy()
    seated[:, [8, 9, 10, 11, 12, 13, 14]] = 0  # hips and legs out of the picture
    assert tell_kind(seated) == "body25"
    seated[:, [1, 2, 5]] = 0
    assert tell_kind(seated) == "body25b"


def test_openpose_padded_joints_canvas_old_keys_and_hands(tmp_path):
    clip = people(1, 4, 25)
    clip[:, :, 18:] = 0
    for time, found in enumerate(clip):
        write_frame(tmp_path / f"{time}.json", found, canvas_width=1000, canvas_height=800)
        file = tmp_path / f"{time}.json"
        file.write_text(f"[{file.read_text()}]")  # ControlNet's list
    source, clips = read_all("openpose", tmp_path)
    (frames,) = [each.frames for each in clips.values()]
    assert source.layout.name == "openpose18" and frames.shape == (4, 2, 18, 3)
    wanted = (clip[:, 0, :18, :2] - (500, 400)) / 500
    np.testing.assert_allclose(frames[:, 0, :, :2], wanted, atol=1e-6)

    old = tmp_path / "old"
    write_openpose(old, people(2, 2, 18))
    for file in old.iterdir():
        file.write_text(file.read_text().replace("pose_keypoints_2d", "pose_keypoints"))
    assert read_all("openpose", old)[0].layout.name == "openpose18"
    for hands in ('"hand_left_keypoints_2d": [1, 2, 0.5]', '"pose_keypoints_2d": [], "x": 1'):
        for file in old.iterdir():
            file.write_text(f'{{"people": [{{{hands}}}]}}')
        with pytest.raises(
            UserError, match=r"hands without a body|nobody in any of 2 files|nobody in it"
        ):
            open_source("openpose", old)


def test_openpose_crowds_and_other_layouts(tmp_path):
    write_openpose(tmp_path, body25(0, 5, 3))
    source, clips = read_all("openpose", tmp_path)
    assert clips["clip"].remark == MORE_PEOPLE and clips["clip"].frames.shape[1] == 2
    _, clips = read_all("openpose", tmp_path, layout="body25x5")
    assert clips["clip"].remark == "" and clips["clip"].frames.any((0, 2, 3)).sum() == 3
    assert read_all("openpose", tmp_path, layout="body25b")[0].layout is BODY25B
    with pytest.raises(DamagedClip, match="people of 25 joints, but coco17 has 17"):
        read_all("openpose", tmp_path, layout="coco17")


ONE = '{"pose_keypoints_2d": [1, 2, 1]}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "no list of people in it"),
        ('{"people": [3]}', "no list of people in it"),
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"people": []}', "nobody in any of 1 files"),
        ('{"people": [{"pose_keypoints_2d": [1, 2]}]}', "no list of x, y, score"),
        ('{"people": [{"pose_keypoints_2d": [1, 2, "a"]}]}', "no list of x, y, score"),
        ('{"people": [{"pose_keypoints_2d": [[1, 2, 3]]}]}', "no list of x, y, score"),
        ('{"people": [{"pose_keypoints_2d": [1e30, 2, 1]}]}', "coordinates over 1e"),
        ('{"people": [{"pose_keypoints_2d": [1, 2, 1, 1, 2, 1]}]}', "2 joints; give --layout, as a .json file"),
        (f'{{"people": [{ONE}{f", {ONE}" * 100}]}}', "101 people"),
    ],
)  # fmt: skip
def test_openpose_files_that_are_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "a_1.json").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        open_source("openpose", tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("format", ["openpose", "coco", "mediapipe"])
def test_folders_of_something_else_are_refused_in_one_line(tmp_path, format):
    (tmp_path / "a.txt").write_text("1 2 3")
    with pytest.raises(UserError, match="holds nothing of this kind; give a"):
        open_source(format, tmp_path)
    with pytest.raises(UserError, match="does not exist; give a"):
        open_source(format, tmp_path / "none")


# --- COCO and AlphaPose ---------------------------------------------------------------------------


def test_results_are_put_in_order_with_gaps(tmp_path):
    clip = people(0, 5, 26, 2)
    file = write_results(tmp_path / "results.json", clip[::-1], [12, 10, 9, 4, 3])
    source, clips = read_all("coco", file)
    assert source.layout is HALPE26 and list(clips) == ["results"]
    frames = clips["results"].frames
    there = [True, True, *[False] * 4, True, True, False, True]
    assert frames.any((1, 2, 3)).tolist() == there
    bodies = frames[there][..., :2].transpose(1, 0, 2, 3)
    for person in clip[..., :2].transpose(1, 0, 2, 3):
        assert any(np.allclose(person, body, atol=1e-3) for body in bodies)


@pytest.mark.parametrize(("joints", "kept"), [(133, 17), (136, 26), (17, 17)])
def test_whole_bodies_are_read_without_hands_and_faces(tmp_path, joints, kept):
    clip = people(1, 3, joints)
    _, clips = read_all("coco", write_results(tmp_path / "a.json", clip))
    np.testing.assert_allclose(clips["a"].frames[:, 0, :, :2], clip[:, 0, :kept, :2], atol=1e-3)


def test_results_of_several_clips_and_folders_of_alphapose(tmp_path):
    both = [
        json.loads(
            write_results(tmp_path / "x" / "a.json", people(n, 3, 17), name=name).read_text()
        )
        for n, name in enumerate(("walk/", "run_"))
    ]
    (tmp_path / "x" / "a.json").write_text(json.dumps(sum(both, [])))
    assert set(read_all("coco", tmp_path / "x")[1]) == {"a/walk", "a/run"}
    for name in ("wave/0", "wave/1", "bow/0"):
        write_results(tmp_path / "y" / name / "alphapose-results.json", people(0, 2, 17))
    source, clips = read_all("coco", tmp_path / "y")
    assert {name: clip.label for name, clip in clips.items()} == {
        "bow/0": 0,
        "wave/0": 1,
        "wave/1": 1,
    }


@pytest.mark.parametrize("demo", [False, True])
def test_videos_of_mmpose_are_read_with_frames_of_nobody(tmp_path, demo):
    clip = people(3, 4, 17, 2)
    found = [*clip[:2], [], *clip[2:]]  # nobody in the third frame
    file = write_mmpose(tmp_path / "wave" / "0.json", found, demo)
    write_mmpose(tmp_path / "bow" / "1.json", people(4, 3, 17))
    assert guess_format(file) == guess_format(tmp_path) == "coco"
    source, clips = read_all("coco", tmp_path)
    assert source.layout.name == "coco17" and clips["wave/0"].label == 1
    frames = clips["wave/0"].frames
    assert frames.any((1, 2, 3)).tolist() == [True, True, False, True, True]
    bodies = frames[frames.any((1, 2, 3))].transpose(1, 0, 2, 3)
    for person in clip.transpose(1, 0, 2, 3):
        assert any(np.allclose(person[..., :2], body[..., :2], atol=1e-3) for body in bodies)


def test_annotated_videos_are_clips_and_unseen_joints_are_missing(tmp_path):
    clip = people(2, 4, 17)
    clip[..., 2] = 2
    clip[1, 0, 5] = (0, 0, 0)
    clip[2, 0, 6, 2] = 1  # hidden, but annotated
    names = [f"v/{n:06d}.jpg" for n in (1, 2, 3, 5)]
    _, clips = read_all("coco", write_annotations(tmp_path / "a.json", clip, names))
    frames = clips["a"].frames[:, 0]
    assert frames.shape == (5, 17, 3) and not frames[1, 5].any() and not frames[3].any()
    np.testing.assert_allclose(frames[2, :, :2], (clip[2, 0, :, :2] - (400, 300)) / 400, atol=1e-6)
    photographs = [f"{n:012d}.jpg" for n in (785, 40083, 196141, 197388)]
    _, clips = read_all("coco", write_annotations(tmp_path / "a.json", clip, photographs))
    assert {name: len(clip.frames) for name, clip in clips.items()} == {
        f"a/{name[:-4]}": 1 for name in photographs
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"people": []}, "neither images and annotations nor a list of results"),
        ({"images": [], "annotations": []}, "nobody in it"),
        ({"images": [{}], "annotations": []}, "an image without id"),
        ({"images": [{"id": 1}], "annotations": []}, "an image has the name 'None'"),
        ({"images": [], "annotations": [{"image_id": 3}]}, "of image '3', which it does not list"),
        ([1], "neither images and annotations nor a list of results"),
        (
            [{"image_id": None}],
            "of image 'None', which it does not list; give a .json file of COCO",
        ),
        ([{"image_id": "1.jpg", "keypoints": [1, 2]}], "no list of x, y, score"),
        ([{"image_id": "1.jpg", "keypoints": [1, 2, 3]}], "people of 1 joints; give --layout"),
        ([{"image_id": "1.jpg", "bbox": [1, 2, 3]}], "nobody in it"),
        (
            [{"frame_id": 0, "instances": [{"keypoints": [[1, 2, 3]], "keypoint_scores": [1]}]}],
            "give MMPose's results in 2-D",
        ),
        ({"instance_info": [{"frame_id": 1, "instances": 3}]}, "nor a list of results"),
    ],
)
def test_coco_files_that_are_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as error:
        open_source("coco", tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


# --- YOLO -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["", " 0.93", " 0.93 2"])  # the box's score, the track's number
def test_yolo_keeps_proportions_and_frames_of_nobody(tmp_path, ends):
    clip = people(0, 12, 17)
    clip[3, 0, 5, :2] = 0  # not seen: YOLO keeps the score
    found = [frame if time not in (6, 7) else [] for time, frame in enumerate(clip)]
    folder = write_yolo(tmp_path / "labels", found, "walk", ends)
    assert guess_format(folder) == guess_format(tmp_path) == "yolo"
    source, clips = read_all("yolo", tmp_path, picture="1000x800")
    assert source.layout.name == "coco17" and clips["walk"].label == -1
    frames = clips["walk"].frames[:, 0]
    assert frames.any((1, 2)).tolist() == [True] * 6 + [False] * 2 + [True] * 4
    assert not frames[3, 5].any() and frames[2, 5].any()
    expected = (clip[8:, 0, :, :2] - (500, 400)) / 500
    np.testing.assert_allclose(frames[8:, :, :2], expected, atol=1e-5)


def test_yolo_folders_are_classes_and_hold_several_clips(tmp_path):
    for n, name in enumerate(("bow/labels/a", "bow/labels/b", "wave/labels/c")):
        folder, _, own = name.rpartition("/")
        write_yolo(tmp_path / folder, people(n, 2, 17), own)
    source, clips = read_all("yolo", tmp_path, picture="1000x800")
    assert source.class_names == ("bow", "wave")
    assert {name: clip.label for name, clip in clips.items()} == {
        "bow/a": 0,
        "bow/b": 0,
        "wave/c": 1,
    }


@pytest.mark.parametrize(
    ("joints", "options", "message"),
    [
        (17, {}, "say its size, --picture=1920x1080"),
        (17, {"picture": "16:9"}, "--picture=16:9 is no WIDTHxHEIGHT; give it like 1920x1080"),
        (12, {"picture": "9x9"}, "people of 12 joints; give --layout, as a .json file"),
        (13, {"picture": "9x9", "layout": "coco17"}, "people of 13 joints, but coco17 has 17"),
    ],
)
def test_yolo_folders_that_are_refused_in_one_line(tmp_path, joints, options, message):
    write_yolo(tmp_path, people(0, 2, joints), "a")
    with pytest.raises((UserError, DamagedClip)) as error:
        read_all("yolo", tmp_path, **options)
    assert message in str(error.value) and "\n" not in str(error.value)


# --- Kinetics -------------------------------------------------------------------------------------


def test_kinetics_frames_labels_and_proportions(tmp_path):
    _, folder, _ = make_kinetics(tmp_path)
    clip = people(9, 4, 18) / (1000, 800, 1)
    content = kinetics_clip(clip)
    content["data"][2] = {"frame_index": 3, "skeleton": []}
    content["data"][3]["frame_index"] = 6
    (folder / "kinetics_val" / "val_1.json").write_text(json.dumps(content))
    source, clips = read_all("kinetics", folder)
    assert source.class_names == ("bow", "wave") and source.notes == {LEFT_OUT: 2}
    frames = clips["val_1"].frames[:, 0]
    assert frames.any((1, 2)).tolist() == [True, True, False, False, False, True]
    wanted = (clip[:2, 0, :, :2] * (340, 256) - (170, 128)) / 170
    np.testing.assert_allclose(frames[:2, :, :2], wanted, atol=1e-6)
    assert (clips["val_1"].label, clips["val_1"].fps, clips["val_2"].label) == (1, 30, 0)
    splits = source.splits([each.info for each in clips.values()])
    assert splits["given"]["test"] == ["val_0", "val_1", "val_2"]
    (folder / "kinetics_val_label.json").unlink()
    assert open_source("kinetics", folder).splits([]) == {}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[]", "no table of clips"),
        ("{", "no JSON"),
        ('{"a": {"has_skeleton": 1}}', "'a' is no clip with has_skeleton"),
        ('{"../a": {"has_skeleton": true}}', "'../a' is no clip"),
        ('{"a": {"has_skeleton": true, "label": "x", "label_index": 1000000}}', "label_index 1000000"),
        ('{"a": {"has_skeleton": true, "label": "", "label_index": 1}}', "has the label ''"),
        ('{"a": {"has_skeleton": false, "label": "x", "label_index": 1}}', "no clip of its label"),
    ],
)  # fmt: skip
def test_kinetics_label_files_that_are_refused_in_one_line(tmp_path, table, message):
    (tmp_path / "kinetics_val_label.json").write_text(table)
    with pytest.raises(UserError, match=message) as error:
        open_source("kinetics", tmp_path)
    assert "\n" not in str(error.value)


def test_kinetics_without_label_files_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no \\*_label.json"):
        open_source("kinetics", tmp_path)


# --- MediaPipe ------------------------------------------------------------------------------------


def check_upright(clip):
    """Prepared, someone who faces the camera: head up, feet down, the right side at x > 0."""
    pose = normalize_clip(clip.frames, MEDIAPIPE33)[:, 0].mean(0)
    joint = {name: pose[place] for place, name in enumerate(MEDIAPIPE33.joints)}
    assert joint["nose"][2] > joint["mid shoulder"][2] > 0.3 > -0.3 > joint["left ankle"][2]
    for part in ("shoulder", "hip", "ankle"):
        assert joint[f"right {part}"][0] > 0 > joint[f"left {part}"][0]
    assert joint["nose"][1] > joint["mid shoulder"][1]  # looks forward


COLUMNS = {
    "x_0": [f"{axis}_{n}" for n in range(33) for axis in "xyz"],
    "x1": [f"{axis}{n + 1}" for n in range(33) for axis in "xyz"],
    "LEFT_HIP_x": [f"{name.upper().replace(' ', '_')}_{axis}"
                   for name in MEDIAPIPE33.joints[:33] for axis in "xyz"],
    "Left Hip.X": [f"{name.title()}.{axis}" for name in MEDIAPIPE33.joints[:33] for axis in "XYZ"],
    "numbers": [str(n) for n in range(99)],
    "none": None,
}  # fmt: skip


@pytest.mark.parametrize("kind", [*COLUMNS, "long", "npy", "json", "visibility", "index"])
def test_every_kind_of_landmarks_gives_the_same_clip(tmp_path, kind):
    points = landmarks(0, 5)
    if kind in COLUMNS:
        write_wide(tmp_path / "a.csv", points, COLUMNS[kind])
    elif kind == "long":
        write_long(tmp_path / "a.csv", points)
    elif kind == "npy":
        np.save(tmp_path / "a.npy", np.concatenate([points, points[..., :1]], -1).reshape(5, 132))
    elif kind == "json":
        frames = [{"worldLandmarks": [[{"x": x, "y": y, "z": z} for x, y, z in frame]],
                   "landmarks": []} for frame in points.tolist()]  # fmt: skip
        (tmp_path / "a.json").write_text(json.dumps({"frames": frames}))
    else:
        full = np.concatenate([points, points[..., :1]], -1)
        numbers = [f"{axis}_{n}" for n in range(33) for axis in ("x", "y", "z", "visibility")]
        header = ["frame_id", *numbers] if kind == "visibility" else ["", *map(str, range(132))]
        lines = [",".join(map(str, [n, *frame.ravel().tolist()])) for n, frame in enumerate(full)]
        (tmp_path / "a.csv").write_text("\n".join([",".join(header), *lines]))
    source, clips = read_all("mediapipe", tmp_path)
    frames = clips["a"].frames[:, 0]
    assert source.layout is MEDIAPIPE33 and frames.shape == (5, 35, 3)
    np.testing.assert_allclose(frames[:, :33], points * (-1, -1, 1) + (0, 0, 2), atol=1e-6)
    np.testing.assert_allclose(frames[:, 33], frames[:, 23:25].mean(1), atol=1e-6)
    check_upright(clips["a"])


def test_frames_without_a_person_are_empty(tmp_path):
    points = landmarks(1, 6)
    file = write_long(tmp_path / "a" / "0.csv", points)
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line for line in lines if line.split(",")[0] not in ("2", "3")))
    zeros = points.copy()
    zeros[2:4] = 0
    np.save(tmp_path / "a" / "1.npy", zeros)
    rows = write_wide(tmp_path / "a" / "2.csv", points, COLUMNS["x_0"]).read_text().splitlines()
    rows[3] = rows[4] = "," * 98
    (tmp_path / "a" / "2.csv").write_text("\n".join(rows))
    frames = points.tolist()
    frames[2], frames[3] = None, []
    (tmp_path / "a" / "3.json").write_text(json.dumps([{"landmarks": each} for each in frames]))
    for clip in read_all("mediapipe", tmp_path)[1].values():
        assert clip.frames.any((1, 2, 3)).tolist() == [True, True, False, False, True, True]
        assert clip.frames.shape == (6, 1, 35, 3)


def test_a_landmark_that_is_missing_takes_its_mean_with_it(tmp_path):
    points = landmarks(2, 3)
    points[1, 23] = np.nan
    points[2, [23, 24]] = (0.1, 0.2, 0.3), (-0.1, -0.2, -0.3)  # the mid hip is at the origin
    np.save(tmp_path / "a.npy", points)
    frames = read_all("mediapipe", tmp_path)[1]["a"].frames[:, 0]
    assert frames.any(-1)[:, [23, 24, 33, 34]].tolist() == [
        [True] * 4, [False, True, False, True], [True] * 4,
    ]  # fmt: skip


def test_samples_of_ml_kit_are_clips_of_one_frame(tmp_path):
    points = landmarks(3, 3) * 500
    rows = [",".join([name, label, *map(str, pose.ravel())]) for name, label, pose in
            zip(("a.png", "b.png", "a.png"), ("up", "down", "up"), points, strict=True)]  # fmt: skip
    (tmp_path / "samples.csv").write_text("\n".join(rows))
    source, clips = read_all("mediapipe", tmp_path)
    assert source.class_names == ("down", "up")
    assert {name: clip.label for name, clip in clips.items()} == {
        "up/a.png": 1, "down/b.png": 0, "up/a.png#2": 1,
    }  # fmt: skip
    (tmp_path / "samples.csv").write_text("\n".join([*rows, rows[0] + ",1"]))
    with pytest.raises(UserError, match="line 4 has 102 cells, not 101"):
        open_source("mediapipe", tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "it is empty"),
        ("a.csv", "frame,landmark,x,y,z\n", "no frames in it"),
        ("a.csv", "frame,landmark,x,y,z\n0,LEFT_WING,1,2,3", "'LEFT_WING', no pose landmark"),
        ("a.csv", "frame,landmark,x,y,z\n0,33,1,2,3", "'33', no pose landmark"),
        ("a.csv", "frame,landmark,x,y,z\nx,NOSE,1,2,3", "line 2 has cells that are no numbers"),
        ("a.csv", "frame,landmark,x,y,z\n0,NOSE,1,2", "line 2 has 4 cells, not 5"),
        ("a.csv", "frame,landmark,x,y,z\n0,NOSE,1,2,b", "cells that are no numbers"),
        ("a.csv", "file,label\na.npy,wave", "2 columns, of which no name is known"),
        ("a.csv", "nose_x,nose_y,nose_z\n1,2,3", "x, y, z of 1 of the 33"),
        ("a.csv", ",".join("1" * 99) + "\n" + ",".join("a" * 99), "cells that are no numbers"),
        ("a.json", "{}", "no list of frames"),
        ("a.json", "[3]", "no list of 33 landmarks"),
        ("a.json", '[{"hands": []}]', "frame 0 has no landmarks"),
        ("a.json", '[{"landmarks": [{"x": 1}]}]', "frame 0 has no landmarks"),
        ("a.json", '[{"frame": 1, "landmarks": []}, {"frame": 1, "landmarks": []}]', "frame 1 is there"),
        ("a.npy", "", "no .npy array"),
    ],
)  # fmt: skip
def test_landmark_files_that_are_refused_in_one_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    source = open_source("mediapipe", tmp_path)
    with pytest.raises(DamagedClip, match=message) as error:
        source.read(source.items[0])
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_an_array_of_one_body_is_read(tmp_path):
    frames = np.random.default_rng(0).normal(size=(4, 33, 3))
    for name, array in {"a": frames, "b": frames[:, None]}.items():
        np.save(tmp_path / f"{name}.npy", array)
    _, clips = read_all("mediapipe", tmp_path)
    np.testing.assert_array_equal(clips["a"].frames, clips["b"].frames)


def test_landmarks_of_a_picture_keep_their_proportions(tmp_path):
    points = landmarks(0, 4)
    shares = points * (9 / 16, 1.0, 9 / 16) / 4 + (0.5, 0.5, 0.0)  # of a wide picture
    world = read_all("mediapipe", write_wide(tmp_path / "w.csv", points))[1]["w"].frames
    file = write_wide(tmp_path / "p.csv", shares)
    _, clips = read_all("mediapipe", file, picture="1920x1080")
    picture = clips["p"].frames
    np.testing.assert_allclose(np.ptp(picture, axis=2) * 4, np.ptp(world, axis=2), atol=1e-5)
    remarks = [read_all("mediapipe", tmp_path / f"{name}.csv")[1][name].remark for name in "pw"]
    assert (clips["p"].remark, remarks) == ("", [SQUEEZED, ""])
    with pytest.raises(DamagedClip, match="leave --picture out"):
        read_all("mediapipe", tmp_path / "w.csv", picture="1920x1080")


def test_arrays_of_other_shapes_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((4, 21, 3)))
    source = open_source("mediapipe", tmp_path)
    with pytest.raises(DamagedClip, match=r"shape \[4, 21, 3\], not \[time, 33, 3 or 4\]"):
        source.read(source.items[0])
