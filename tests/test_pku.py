"""The PKU-MMD reader: clips cut by the labels, both versions' folders and splits, damage."""

import pickle

import numpy as np
import pytest
from _files import SHARED, poses, write_pku, write_split

from halp_jax.datasets import pku
from halp_jax.datasets.clip import ClipInfo, DamagedClip
from halp_jax.errors import UserError

V1 = {
    "0105-M": [(26, 2, 7, 2), (18, 8, 12, 1)],
    "0206-R": [(1, 0, 5, 2)],
    "0105-L": [(51, 1, 3, 2)],
}


def read_all(source):
    return [clip for item in source.items for clip in source.read(item)]


def test_labels_cut_the_video_into_clips(tmp_path):
    source = pku.open_source(write_pku(tmp_path, V1))
    clips = {clip.name: clip for clip in read_all(source)}
    assert list(clips) == ["0105-L_00001", "0105-M_00002", "0105-M_00008", "0206-R_00000"]
    video = poses(0, 12, 2).astype(np.float32)
    np.testing.assert_array_equal(clips["0105-M_00002"].frames, video[2:7])
    np.testing.assert_array_equal(clips["0105-M_00008"].frames, video[8:12])
    assert clips["0105-M_00002"].info == ClipInfo(25, "0105-M_00002", camera=1, performance=105)
    assert clips["0105-L_00001"].info == ClipInfo(50, "0105-L_00001", camera=0, performance=105)
    for each in (source.items, source.read, source.splits):
        pickle.loads(pickle.dumps(each))


def test_version_one_splits_go_by_video(tmp_path):
    write_pku(tmp_path, V1)
    (tmp_path / "Split").mkdir()
    xsub = tmp_path / "Split" / "cross-subject.txt"
    write_split(xsub, ["0105-L", "0105-M", "0999-M"], ["0206-R"])
    write_split(tmp_path / "cross-view.txt", ["0105-L", "0206-R"], ["0105-M"])
    write_split(tmp_path / "cross_view_v2.txt", ["A01N01-L"], ["A01N01-M"])
    source = pku.open_source(tmp_path)
    splits = source.splits([clip.info for clip in read_all(source)])
    assert splits == {
        "xsub": {
            "train": ["0105-L_00001", "0105-M_00002", "0105-M_00008"],
            "test": ["0206-R_00000"],
        },
        "xview": {
            "train": ["0105-L_00001", "0206-R_00000"],
            "test": ["0105-M_00002", "0105-M_00008"],
        },
    }
    assert set(source.notes["split_files"]) == {"xsub", "xview"}


def test_version_two_names_folders_and_splits(tmp_path):
    videos = {"A01N01-L": [(1, 0, 4, 1)], "A26N13-R": [(2, 3, 9, 1)]}
    write_pku(tmp_path / "Data", videos, folders=("PKU_Skeleton_Renew", "Train_Label_PKU_final"))
    write_split(tmp_path / "cross_subject_v2.txt", ["A01N01-L"], ["A26N13-R"])
    write_split(tmp_path / "cross-subject.txt", ["0002-L"], ["0003-L"])
    source = pku.open_source(str(tmp_path))
    first, second = read_all(source)
    assert first.info == ClipInfo(0, "A01N01-L_00000", camera=0, performance=101)
    assert second.info == ClipInfo(1, "A26N13-R_00003", camera=2, performance=2613)
    assert source.splits([first.info, second.info]) == {
        "xsub": {"train": ["A01N01-L_00000"], "test": ["A26N13-R_00003"]}
    }


def test_class_names_come_from_the_file_or_are_known(tmp_path):
    write_pku(tmp_path, V1)
    known = pku.open_source(tmp_path).class_names
    assert len(set(known)) == 51 and known[0] == "bow" and known[50] == "writing"
    assert known[25] == "punching/slapping other person"
    names = tmp_path / "action_names.txt"
    names.write_text("\n".join(f"{n + 1} {name.upper()}" for n, name in enumerate(known)))
    assert pku.open_source(tmp_path).class_names == tuple(name.upper() for name in known)
    names.write_text("1 bow\n")
    with pytest.raises(UserError, match="no name for action 2"):
        pku.open_source(tmp_path)


def test_one_label_row_labels_that_start_together_and_a_late_end(tmp_path):
    write_pku(tmp_path, {"0105-M": [(3, 4, 99, 2)], "0106-M": [(3, 4, 6, 2), (4, 4, 8, 2)]})
    clips = read_all(pku.open_source(tmp_path))
    assert [len(clip.frames) for clip in clips] == [8, 2, 4]
    assert [clip.name for clip in clips] == ["0105-M_00004", "0106-M_00004", "0106-M_00004b"]


def test_videos_without_labels_are_counted(tmp_path):
    write_pku(tmp_path, V1)
    (tmp_path / "label" / "0206-R.txt").unlink()
    source = pku.open_source(tmp_path)
    assert source.notes["videos_without_labels"] == 1 and len(source.items) == 3


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("0,1,3,2", "action 0 is not in 1..51"),
        ("52,1,3,2", "action 52 is not in"),
        ("1,5,5,2", "frames 5 to 5 of a video of 12"),
        ("1,9,4,2", "frames 9 to 4"),
        ("1,12,20,2", "frames 12 to 20"),
        ("1,-2,3,2", "line 1 is not action,start,end"),
        ("1;2;3;4", "line 1 is not"),
        ("nan,2,3,4", "line 1 is not"),
        ("1,2," + "9" * 5000, "line 1 is not"),
        ("\xff\xfe", "line 1 is not"),
        ("", "it is empty"),
        (" \n", "0 actions are labelled"),
        ("0\n" * 12, "0 actions are labelled"),
        ("0\n26\n" * 5, "10 labels for 12 frames"),
        ("0\n26\n1,2,3,2\n", "line 3 is not the number of an action"),
        ("52\n" * 12, "action 52 is not in"),
        ("1,2,4,2\n" * 20_000, "20000 actions are labelled"),  # their names took minutes to find
    ],
)
def test_damaged_labels(tmp_path, row, reason):
    write_pku(tmp_path, {"0105-M": [(1, 2, 4, 2)]})
    file = tmp_path / "label" / "0105-M.txt"
    file.write_bytes(row.encode("latin1"))
    source = pku.open_source(tmp_path)
    with pytest.raises(DamagedClip, match=reason) as error:
        source.read(source.items[0])
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def _shift_column(text: str) -> str:
    """A row of 149 numbers before one of 151: their sum is right."""
    rows = text.splitlines()
    rows[1:3] = rows[1].rpartition(" ")[0], f"{rows[2]} 0.5"
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: "", "it is empty"),
        (lambda text: text[: len(text) // 2], "row .* has not 150 numbers"),
        (_shift_column, "row 2 has not 150 numbers"),
        (lambda text: text.replace("\n", " 1.5\n"), "has not 150 numbers"),
        (lambda text: text.replace(" ", " x", 1), "text that is no number"),
        (lambda text: text.replace(" ", "\xff ", 1), "text that is no number"),
        (lambda text: "\n".join(" ".join(r.split()[:75]) for r in text.splitlines()), "not 150"),
        (lambda text: "\n".join(" ".join(["nan"] * 150) for _ in text.splitlines()), "NaN"),
        (lambda text: "\n".join("1e99 " + r.split(" ", 1)[1] for r in text.splitlines()), "infin"),
        (lambda text: "\n".join(" ".join(["0"] * 150) for _ in text.splitlines()), "no body"),
    ],
)
def test_damaged_videos(tmp_path, damage, reason):
    write_pku(tmp_path, {"0105-M": [(1, 2, 4, 2)]})
    file = tmp_path / "skeleton" / "0105-M.txt"
    file.write_bytes(damage(file.read_text()).encode("latin1"))
    source = pku.open_source(tmp_path)
    with pytest.raises(DamagedClip, match=reason) as error:
        source.read(source.items[0])
    assert "0105-M" in str(error.value) and "\n" not in str(error.value)


def test_damage_of_one_frame_costs_only_its_clip(tmp_path):
    write_pku(tmp_path, {"0105-M": [(1, 0, 4, 2), (2, 4, 8, 2)]})
    file = tmp_path / "skeleton" / "0105-M.txt"
    rows = file.read_text().splitlines()
    file.write_text("\n".join([rows[0].replace(rows[0].split()[0], "inf", 1), *rows[1:]]))
    source = pku.open_source(tmp_path)
    with pytest.raises(DamagedClip, match="0105-M_00000"):
        source.read(source.items[0])
    assert len(source.read(source.items[1])) == 1


def test_bad_folders_names_and_split_files(tmp_path):
    with pytest.raises(UserError, match="no folder called skeleton"):
        pku.open_source(tmp_path)
    (tmp_path / "skeleton").mkdir()
    with pytest.raises(UserError, match="no folder called label"):
        pku.open_source(tmp_path)
    (tmp_path / "label").mkdir()
    with pytest.raises(UserError, match="holds no .txt file"):
        pku.open_source(tmp_path)
    write_pku(tmp_path, {"video": [(1, 0, 4, 2)]})
    source = pku.open_source(tmp_path)
    with pytest.raises(DamagedClip, match="its name is not like 0105-M"):
        source.read(source.items[0])
    (tmp_path / "label" / "video.txt").unlink()
    with pytest.raises(UserError, match="no label file for any video"):
        pku.open_source(tmp_path)
    write_pku(tmp_path, V1)
    (tmp_path / "cross-view.txt").write_text("0105-M, 0206-R\n")
    with pytest.raises(UserError, match='no lines "Training videos:"'):
        pku.open_source(tmp_path)
    (tmp_path / "cross-view.txt").unlink()
    write_pku(tmp_path, V1, folders=("skeleton_v2", "label"))
    with pytest.raises(UserError, match="several skeleton folders"):
        pku.open_source(tmp_path)


@pytest.mark.skipif(not (SHARED / "pku_v1").is_dir(), reason="no original PKU-MMD videos here")
def test_original_videos_give_the_clips_of_the_pyskl_file():
    source = pku.open_source(SHARED / "pku_v1")
    clips = read_all(source)
    assert len(clips) == 24 and source.class_names == pku.ACTIONS
    assert {clip.name[:6] for clip in clips} == {"0105-M", "0206-R", "0310-R"}
    by_name = {clip.name: clip for clip in clips}
    assert len(by_name["0105-M_00103"].frames) == 91 and by_name["0105-M_00103"].label == 25
    splits = source.splits([clip.info for clip in clips])
    assert {n[:6] for n in splits["xview"]["test"]} == {"0105-M"}
    assert {n[:6] for n in splits["xsub"]["test"]} == {"0310-R"}
