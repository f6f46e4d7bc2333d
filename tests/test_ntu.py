"""The NTU RGB+D reader: golden files of the released reader, tracking, splits, lists, damage."""

import dataclasses
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from _files import SHARED, poses, skeleton_text, write_missing_list, write_skeleton

from halp_jax.datasets import ntu
from halp_jax.datasets.clip import ClipInfo, DamagedClip
from halp_jax.datasets.ntu import drop_ghosts, motion_energy, select_bodies, track_bodies
from halp_jax.datasets.ntu_missing import MISSING
from halp_jax.datasets.read_pool import finish_clip
from halp_jax.datasets.source import Item
from halp_jax.errors import UserError
from halp_jax.skeletons import synthetic
from halp_jax.skeletons.layout import NTU25
from halp_jax.skeletons.normalize import view_clip

GOLDEN = Path(__file__).parent / "golden" / "skeleton"
NAMES = ("S001C001P001R001A001", "S001C002P003R001A050")


@pytest.fixture(params=NAMES)
def released(request, golden):
    """(file, what the released reader made of it)."""
    arrays = golden("skeleton")
    start = f"{request.param}.skeleton/"
    found = {key.removeprefix(start): arrays[key] for key in arrays if key.startswith(start)}
    part = "train" if request.param == NAMES[0] else "val"
    found |= {k.split("/")[1]: arrays[k] for k in arrays if k.startswith(f"gendata_{part}/")}
    return GOLDEN / f"{request.param}.skeleton", found


def test_slots_equal_the_released_reader_exactly(released):
    file, theirs = released
    recording = ntu.parse_skeleton(file.read_bytes(), file.name)
    energy = motion_energy(recording, track_bodies(recording, "slot"))
    frames, chosen = select_bodies(recording, "slot")
    np.testing.assert_array_equal(energy, theirs["energy"])
    np.testing.assert_array_equal(chosen, theirs["index"])
    np.testing.assert_array_equal(frames, theirs["xyz"].transpose(1, 3, 2, 0))


def test_reading_and_normalising_equals_the_released_preparation(released):
    file, theirs = released
    source = ntu.open_source(file.parent, bodies="slot")
    (clip,) = source.read(next(item for item in source.items if item.id == file.stem))
    ours = view_clip(clip.frames, NTU25, as_released=True)
    assert len(ours) == theirs["num_frame"][0] and clip.label == theirs["label"][0]
    released_frames = theirs["data"][0].transpose(1, 3, 2, 0)[: len(ours)]
    np.testing.assert_allclose(ours, released_frames, atol=1e-6)


def test_ids_follow_a_person_where_the_list_is_reordered():
    walk = poses(0, 6, 2)
    straight = [[(11, a), (12, b)] for a, b in walk]
    swapped = [frame[::-1] if n % 2 else frame for n, frame in enumerate(straight)]
    frames = {}
    for name, content in {"straight": straight, "swapped": swapped}.items():
        recording = ntu.parse_skeleton(skeleton_text(content).encode(), name)
        frames[name] = {by: select_bodies(recording, by)[0] for by in ("id", "slot")}
    expected = walk if np.array_equal(frames["straight"]["id"], walk) else walk[:, ::-1]
    np.testing.assert_array_equal(frames["straight"]["id"], expected)
    np.testing.assert_array_equal(frames["straight"]["slot"], expected)
    np.testing.assert_array_equal(frames["swapped"]["id"], expected)
    assert not np.array_equal(frames["swapped"]["slot"], expected)


def test_the_first_body_is_whoever_is_first_in_the_file_however_much_another_moves():
    """AimCLR's preparation, and those that follow it, take as many frames as show the first body."""
    walk = poses(0, 6, 2)
    walk[:, 1] = np.round(3 * walk[:, 1], 6)
    content = [[(11, a), (12, b)] if n in (2, 3) else [(11, a)] for n, (a, b) in enumerate(walk)]
    recording = ntu.parse_skeleton(skeleton_text(content).encode(), "x")
    for by, count in (("slot", 2), ("first", 6)):
        frames, _ = select_bodies(recording, by)
        assert frames[:, 0].any((1, 2)).sum() == count
    np.testing.assert_array_equal(frames[:, 0], walk[:, 0])
    np.testing.assert_array_equal(frames[2:4, 1], walk[2:4, 1])


def test_a_person_who_is_lost_and_found_under_a_new_id_is_one_person():
    walk = poses(1, 6, 2)
    content = [[(1 if n < 3 else 3, a), (2, b)] for n, (a, b) in enumerate(walk)]
    recording = ntu.parse_skeleton(skeleton_text(content).encode(), "x")
    assert track_bodies(recording).tolist() == [0, 1] * 6


def test_neighbouring_ids_that_no_float_tells_apart_stay_two_people():
    walk = poses(2, 3, 2)
    first = 72057594037931101
    assert float(first) == float(first + 1)
    content = [[(first + (n + m) % 2, walk[n, (n + m) % 2]) for m in (0, 1)] for n in range(3)]
    recording = ntu.parse_skeleton(skeleton_text(content).encode(), "x")
    assert track_bodies(recording).tolist() == [0, 1, 1, 0, 0, 1]


def test_an_id_twice_in_one_frame_is_two_people():
    content = [[(5, a), (5, b)] for a, b in poses(3, 3, 2)]
    recording = ntu.parse_skeleton(skeleton_text(content).encode(), "x")
    assert track_bodies(recording).tolist() == [0, 1] * 3


def test_the_two_people_who_move_most_are_kept_the_most_moving_first():
    walk = poses(4, 5, 3)
    walk[:, 1] += np.linspace(0, 3, 5)[:, None, None]
    walk[:, 2] += np.linspace(0, 1, 5)[:, None, None]
    content = [list(enumerate(frame)) for frame in walk]
    content.append([])  # a frame without anybody stays, as zeros
    recording = ntu.parse_skeleton(skeleton_text(content).encode(), "x")
    frames, chosen = select_bodies(recording, "id")
    assert chosen.tolist() == [1, 2]
    np.testing.assert_allclose(frames[:5], walk[:, [1, 2]], rtol=1e-12)
    assert not frames[5].any()


def jittering(rng, person):
    """Five frames of a body that is all over the room."""
    return 20, np.round(person[20:25] + rng.normal(0, 1.0, (5, 25, 3)), 6)


def static_and_wide(rng, person):
    """Furniture, 1.8 m wide, seen in every frame."""
    thing = rng.uniform((-0.9, -0.3, 2.0), (0.9, 0.3, 4.0), (25, 3))
    thing[:2, 0] = -0.9, 0.9
    return 0, np.round(np.repeat(thing[None], len(person), 0), 6)


def add_ghost(person, begin, ghost):
    """Frames of a .skeleton file, the ghost listed first."""
    frames = [[(7, pose)] if pose.any() else [] for pose in person]
    for time, pose in enumerate(ghost, begin):
        frames[time].insert(0, (3, pose))
    return frames


@pytest.mark.parametrize("make", [jittering, static_and_wide])
def test_ghosts_are_left_out_and_the_person_comes_first(tmp_path, make):
    first = {"denoised": 0, "id": 0}
    for number in range(6):
        person = np.round(synthetic.make_clip(3, 7 * number)[:, 0], 6).astype(np.float64)
        assert 0 < number or len(person) > 40
        ghost = make(np.random.default_rng(number), person)
        file = tmp_path / f"S001C001P{number + 1:03d}R001A001.skeleton"
        file.write_text(skeleton_text(add_ghost(person, *ghost)))
        for by in first:
            (clip,) = ntu.read_item(Item(file.stem, str(file)), by=by)
            alone = dataclasses.replace(clip, frames=person[:, None].astype(np.float32))
            wanted = finish_clip(alone, NTU25, 60, "upright").frames
            found = finish_clip(clip, NTU25, 60, "upright").frames
            first[by] += np.array_equal(found[:, 0], wanted[:, 0])
            assert clip.remarks == ([ntu.GHOSTS] if by == "denoised" else [])
            assert clip.frames[:, 1].any() == (by == "id")
    assert first == {"denoised": 6, "id": 0}


def test_somebody_always_stays(tmp_path):
    rng = np.random.default_rng(0)
    flat = rng.uniform(-1, 1, (20, 2, 25, 3)) * (1, 0.2, 1) + (0, 0, 3)  # two who lie
    flat[:2, 0] *= (0.1, 1, 1)  # one of them not always
    recording = ntu.parse_skeleton(skeleton_text([list(enumerate(f)) for f in flat]).encode(), "x")
    assert set(drop_ghosts(recording).ids) == {0}
    short = [list(enumerate(frame)) for frame in flat[:11].clip(-0.1, 0.1) * (1, 9, 1)]
    recording = ntu.parse_skeleton(skeleton_text(short).encode(), "x")
    assert drop_ghosts(recording) is recording  # 11 frames: nobody can be seen in more
    alone = ntu.parse_skeleton(skeleton_text([[(1, f[0])] for f in flat]).encode(), "x")
    assert drop_ghosts(alone) is alone


def test_names_clips_and_class_names(tmp_path):
    write_skeleton(tmp_path / "a" / "b", "S017C003P008R002A060", time=3, bodies=2)
    source = ntu.open_source(str(tmp_path))
    (clip,) = source.read(source.items[0])
    assert clip.info == ClipInfo(59, "S017C003P008R002A060", subject=8, camera=3, setup=17)
    assert clip.frames.shape == (3, 2, 25, 3) and clip.frames.dtype == np.float32
    assert len(source.class_names) == 60 and len(set(ntu.ACTIONS)) == 120
    assert source.class_names[0] == "drink water" and ntu.ACTIONS[42] == "falling"
    assert ntu.ACTIONS[59] == "walking apart from each other" and ntu.ACTIONS[111] == "high-five"
    assert ntu.parse_name("S001C002P003R002A013") == (1, 2, 3, 2, 13)
    assert ntu.parse_name("S01C002P003R002A013") is None
    for each in (source.items, source.read, source.splits):
        pickle.loads(pickle.dumps(each))


def test_60_or_120_classes_are_told_by_the_files_or_the_option(tmp_path):
    for name in ("S001C001P001R001A001", "S018C001P001R001A002", "S002C001P001R001A061"):
        write_skeleton(tmp_path, name)
    whole = ntu.open_source(tmp_path)
    assert len(whole.class_names) == 120 and len(whole.items) == 3
    part = ntu.open_source(tmp_path, classes="60")
    assert [item.id for item in part.items] == ["S001C001P001R001A001"]
    assert part.notes["outside_ntu60"] == 2 and len(part.class_names) == 60
    (tmp_path / "S018C001P001R001A002.skeleton").unlink()
    (tmp_path / "S002C001P001R001A061.skeleton").unlink()
    assert len(ntu.open_source(tmp_path).class_names) == 60
    assert len(ntu.open_source(tmp_path, classes=120).class_names) == 120


def test_splits_follow_the_papers():
    assert len(set(ntu._TRAIN_SUBJECTS_60)) == 20 and len(set(ntu._TRAIN_SUBJECTS_120)) == 53
    assert max(ntu._TRAIN_SUBJECTS_60) <= 40 and max(ntu._TRAIN_SUBJECTS_120) == 103
    infos = [
        ClipInfo(0, f"s{s}p{p}c{c}", subject=p, camera=c, setup=s)
        for s in (1, 2) for p in (1, 3, 45) for c in (1, 2, 3)
    ]  # fmt: skip
    sixty, more = ntu.make_splits(infos, 60), ntu.make_splits(infos, 120)
    assert set(sixty) == {"xsub", "xview"} and set(more) == {"xsub", "xset"}
    assert {n[2:4] for n in sixty["xsub"]["train"]} == {"p1"}
    assert {n[-2:] for n in sixty["xview"]["train"]} == {"c2", "c3"}
    assert {n[-2:] for n in sixty["xview"]["test"]} == {"c1"}
    assert {n[2:-2] for n in more["xsub"]["train"]} == {"p1", "p45"}
    assert {n[:2] for n in more["xset"]["train"]} == {"s2"}
    for splits in (sixty, more):
        for parts in splits.values():
            assert sorted(parts["train"] + parts["test"]) == sorted(info.name for info in infos)


def test_missing_lists_are_found_and_given(tmp_path):
    data = tmp_path / "data"
    names = [f"S001C001P00{n}R001A001" for n in range(1, 6)]
    for name in names:
        write_skeleton(data, name)
    write_missing_list(tmp_path / "NTU_RGBD_samples_with_missing_skeletons.txt", names[:1])
    write_missing_list(data / "my_missing_skeletons.txt", names[:2])
    absent = "S017C003P020R002A060"
    given = write_missing_list(tmp_path / "list.txt", [names[2] + ".skeleton", absent])
    source = ntu.open_source(data)
    assert [item.id for item in source.items] == names[2:]
    assert source.notes["missing_skipped"] == 2 and len(source.notes["missing_lists"]) == 3
    for missing in (given, str(given), [str(given)]):
        source = ntu.open_source(data, missing=missing)
        assert [item.id for item in source.items] == names[3:]
        assert source.notes["missing_skipped"] == 3
    with pytest.raises(UserError, match="is not a file; give --missing"):
        ntu.open_source(data, missing="nowhere.txt")
    given.write_bytes(b"\xff\xfe nothing\n")
    with pytest.raises(UserError, match="names no sample"):
        ntu.open_source(data, missing=given)


def test_the_same_sample_twice_is_read_once(tmp_path):
    for folder in ("a", "b"):
        write_skeleton(tmp_path / folder, "S001C001P001R001A001")
    source = ntu.open_source(tmp_path)
    assert len(source.items) == 1 and source.notes["duplicates"] == 1


def test_bad_folders_and_options(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        ntu.open_source(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no .skeleton file"):
        ntu.open_source(tmp_path)
    file = write_skeleton(tmp_path, "S001C001P001R001A001")
    source = ntu.open_source(file.rename(tmp_path / "mine.skeleton"))
    assert source.read(source.items[0])[0].info == ClipInfo(-1, "mine")
    file.write_text("0")
    with pytest.raises(UserError, match="classes=61"):
        ntu.open_source(tmp_path, classes=61)
    with pytest.raises(UserError, match="bodies=all"):
        ntu.open_source(tmp_path, bodies="all")
    with pytest.raises(UserError, match="left out"):
        write_skeleton(tmp_path, "S001C001P001R001A001")
        (tmp_path / "mine.skeleton").unlink()
        ntu.open_source(
            tmp_path, missing=write_missing_list(tmp_path / "l.txt", ["S001C001P001R001A001"])
        )


def test_the_official_lists_are_applied_unless_told_not_to(tmp_path):
    assert len(MISSING) == 535 and sum(int(name[1:4]) <= 17 for name in MISSING) == 302
    assert all(ntu.parse_name(name) for name in MISSING)
    names = ["S001C002P005R002A008", "S018C001P008R001A061", "S001C001P001R001A001"]
    for name in names:
        write_skeleton(tmp_path, name)
    source = ntu.open_source(tmp_path)
    assert [item.id for item in source.items] == [names[2], names[1]]
    assert source.notes["missing_skipped"] == 1
    assert source.notes["missing_lists"] == ["the official ones"]
    assert len(ntu.open_source(tmp_path, missing="none").items) == 3
    beside = write_missing_list(tmp_path / "my_missing_skeletons.txt", names[2:])
    source = ntu.open_source(tmp_path, missing="none")
    assert [item.id for item in source.items] == sorted(names[:2])
    assert source.notes["missing_lists"] == [str(beside)]


GOOD = skeleton_text([list(enumerate(pose)) for pose in poses(9, 3, 1)])
FIRST_X = GOOD.splitlines()[4].split()[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "it is empty"),
        (GOOD[: len(GOOD) // 2], "ends within frame 1 of 3"),
        (GOOD.replace("3\n", "4\n", 1), "ends before the number of bodies of frame 3"),
        (GOOD.replace("3\n", "2\n", 1), "values follow its last frame"),
        (GOOD.replace("3\n", "999999999999\n", 1), "number of frames is 999999999999"),
        (GOOD.replace("3\n1\n", "3\n-1\n", 1), "number of bodies of frame 0 is -1"),
        (GOOD.replace("3\n1\n", "3\n4000\n", 1), "number of bodies of frame 0 is 4000"),
        (GOOD.replace("\n25\n", "\n24\n", 1), "a body of 24 joints, not 25"),
        (GOOD.replace(FIRST_X, "nan", 1), "NaN"),
        (GOOD.replace(FIRST_X, "1e300", 1), "absurdly large"),
        (GOOD.replace(FIRST_X, "1,5", 1), "text that is no number"),
        (GOOD.replace(FIRST_X, "\xff", 1), "text that is no number"),
        ("2\n0\n0\n", "no frame has a body"),
    ],
)
def test_damaged_files_are_named_with_the_reason(tmp_path, content, reason):
    file = tmp_path / "S001C001P001R001A001.skeleton"
    file.write_bytes(content.encode("latin1"))
    source = ntu.open_source(tmp_path)
    with pytest.raises(DamagedClip, match=reason) as error:
        source.read(source.items[0])
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_damage_that_only_shows_when_the_file_is_read(tmp_path):
    write_skeleton(tmp_path, "readme")
    write_skeleton(tmp_path, "S001C001P001R001A000")
    file = write_skeleton(tmp_path, "S001C001P001R001A001")
    source = ntu.open_source(tmp_path)
    items = {item.id: item for item in source.items}
    with pytest.raises(DamagedClip, match="its name is not like"):
        source.read(items["readme"])
    with pytest.raises(DamagedClip, match="its action is 0"):
        source.read(items["S001C001P001R001A000"])
    file.unlink()
    with pytest.raises(DamagedClip, match="cannot be read"):
        source.read(items["S001C001P001R001A001"])
    os.mkfifo(file)  # a name that never ends to be read must not hang the run
    with pytest.raises(DamagedClip, match="no regular file"):
        source.read(items["S001C001P001R001A001"])


@pytest.mark.skipif(not (SHARED / "ntu").is_dir(), reason="no original NTU files beside the tree")
def test_original_files():
    source = ntu.open_source(SHARED / "ntu")
    clips = {item.id: source.read(item)[0] for item in source.items}
    assert len(clips) == 7 and len(source.notes["missing_lists"]) == 3
    assert {len(clip.frames) for clip in clips.values()} == {103, 158, 104, 82, 68, 100, 124}
    # One person drops something; what is seen with her in all 68 frames is wide in each of them.
    ghostly = "S001C001P003R002A005"
    assert [name for name, clip in clips.items() if clip.remark] == [ghostly]
    assert not any(clip.frames[:, 1].any() for clip in clips.values())
    source = ntu.open_source(SHARED / "ntu", bodies="id")
    two = [clip for item in source.items for clip in source.read(item) if clip.frames[:, 1].any()]
    assert [clip.name for clip in two] == [ghostly]
    np.testing.assert_array_equal(two[0].frames[:, 0], clips[ghostly].frames[:, 0])
    of_60, of_120 = (
        ntu.read_missing_list(SHARED / "ntu" / f"NTU_RGBD{n}_samples_with_missing_skeletons.txt")
        for n in ("", "120")
    )
    assert of_120 == MISSING and of_60 == {name for name in MISSING if int(name[1:4]) <= 17}
    for clip in clips.values():
        assert 0.3 < np.ptp(clip.frames[0, 0, :, 1]) < 2.2, "a person's height in metres"
