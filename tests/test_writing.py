"""What is written is whole or not there, and nothing that somebody else wrote is lost."""

import contextlib
import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest

from halp_jax.datasets import graphs
from halp_jax.datasets.atomic_write import UNFINISHED, atomic_write, claim_folder
from halp_jax.datasets.prepared import METADATA
from halp_jax.errors import UserError
from halp_jax.training import torch_files


def write(path: Path, text: str = "new", **options) -> None:
    with atomic_write(path, "choose another", **options) as stream:
        stream.write(text.encode())


def fill(folder: Path, text: str = "new") -> None:
    for name in (METADATA, "halp_clips-clips.tfrecord-00000-of-00001"):
        (folder / name).write_text(text)


# --- one file -------------------------------------------------------------------------------------


def test_a_file_has_the_rights_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "file")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["file"]


def test_a_pipe_is_written_to_and_a_link_stays_one(tmp_path):
    pipe, link, target = (tmp_path / name for name in ("pipe", "link", "target"))
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write(pipe)
    reader.join()
    assert read == [b"new"] and stat.S_ISFIFO(pipe.stat().st_mode)
    target.write_text("old")
    link.symlink_to(target)
    write(link)
    assert link.is_symlink() and target.read_text() == "new"


def test_what_stands_before_in_an_open_file_stays(tmp_path):
    with open(tmp_path / "log", "w+b", buffering=0) as log:
        log.write(b"before, ")
        (tmp_path / "link").symlink_to(f"/proc/self/fd/{log.fileno()}")  # as /dev/stdout is one
        for name in (f"/dev/fd/{log.fileno()}", tmp_path / "link"):
            write(Path(name), "new, ")
        log.write(b"after")
    assert (tmp_path / "log").read_text() == "before, new, new, after"


def test_a_file_that_appears_meanwhile_is_kept_and_so_is_the_work(tmp_path):
    with pytest.raises(
        UserError, match="appeared meanwhile; what was to be there is (.*)"
    ) as caught:
        with atomic_write(tmp_path / "a.npz", "choose another", overwrite=False) as stream:
            stream.write(b"new")
            (tmp_path / "a.npz").write_text("somebody's")
    assert (tmp_path / "a.npz").read_text() == "somebody's"
    kept = Path(str(caught.value).rpartition(" ")[2])
    assert kept.read_text() == "new" and kept.match("a.*.npz")
    with pytest.raises(UserError, match="exists; choose another"):
        write(tmp_path / "a.npz", overwrite=False)


def test_a_write_that_fails_leaves_the_older_file(tmp_path):
    write(tmp_path / "file", "old")
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "file", "") as stream:
        stream.write(b"ne")
        raise KeyboardInterrupt
    with pytest.raises(UserError, match="cannot write .*Is a directory"):
        write(tmp_path)
    assert (tmp_path / "file").read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_what_a_killed_command_left_goes_and_what_another_writes_stays(tmp_path):
    left = [tmp_path / name for name in (".0123abcd.file", ".0123abcd.file.npz", ".notes.file")]
    for path in left:
        path.write_text("half")
    with atomic_write(tmp_path / "file", "choose another") as stream:
        stream.write(b"slow")
        stream.flush()
        write(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "slow" and not left[0].exists()
    assert sorted(os.listdir(tmp_path)) == [".0123abcd.file.npz", ".notes.file", "file"]


# --- the folder of a data set ---------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_command_is_refused_as_it_starts(tmp_path, overwrite):
    with claim_folder(tmp_path / "set", False) as folder:
        fill(folder)
        with pytest.raises(UserError, match="another prepare is at work in .*set: wait"):
            with claim_folder(tmp_path / "set", overwrite):
                pytest.fail("it started")
    assert sorted(os.listdir(tmp_path / "set")) == sorted([METADATA, *RECORDS])
    with pytest.raises(UserError, match="set exists; give another --out"):
        with claim_folder(tmp_path / "set", False):
            pytest.fail("it started")


RECORDS = ["halp_clips-clips.tfrecord-00000-of-00001"]


def test_files_that_somebody_puts_there_stay(tmp_path):
    with claim_folder(tmp_path, False) as folder:
        fill(folder)
        (tmp_path / "thesis.tex").write_text("years of work")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / METADATA).read_text() == "new"


def test_a_data_set_that_somebody_puts_there_stays_and_so_does_the_new_one(tmp_path):
    out = tmp_path / "set"
    with pytest.raises(
        UserError, match=f"holds {METADATA} meanwhile.* whole in .*{UNFINISHED}: move"
    ):
        with claim_folder(out, False) as folder:
            fill(folder)
            (out / METADATA).write_text("somebody's")
    assert (out / METADATA).read_text() == "somebody's"
    assert sorted(os.listdir(out / UNFINISHED)) == sorted([METADATA, *RECORDS])


def test_a_name_that_is_not_in_utf8_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no name in UTF-8; give another --out"):
        with claim_folder(tmp_path / os.fsdecode(b"gepr\xfcft"), overwrite=False):
            pass
    assert os.listdir(tmp_path) == []


def test_the_leftover_of_a_killed_command_is_taken_over(tmp_path):
    (tmp_path / "set" / UNFINISHED / "deep").mkdir(parents=True)
    fill(tmp_path / "set" / UNFINISHED, "half")
    with claim_folder(tmp_path / "set", False) as folder:
        assert os.listdir(folder) == []
        fill(folder)
    assert sorted(os.listdir(tmp_path / "set")) == sorted([METADATA, *RECORDS])


def test_without_locks_the_leftover_is_for_the_user_to_judge(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with claim_folder(tmp_path / "set", False) as folder:
        fill(folder)
        with pytest.raises(UserError, match=f"at work .*if there is none, delete .*{UNFINISHED}"):
            with claim_folder(tmp_path / "set", False):
                pytest.fail("it started")
    assert (tmp_path / "set" / METADATA).exists()


def test_the_folder_itself_stays_as_a_mount_point_has_to(tmp_path):
    before = tmp_path.stat().st_ino
    for text in ("old", "new"):
        with claim_folder(tmp_path, overwrite=True) as folder:
            fill(folder, text)
    assert tmp_path.stat().st_ino == before and (tmp_path / METADATA).read_text() == "new"
    assert (tmp_path / RECORDS[0]).read_text() == "new"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_fails_leaves_nothing(tmp_path, error):
    told = pytest.raises(UserError, match="cannot write .*set .No space left on device.")
    with told if isinstance(error, OSError) else pytest.raises(KeyboardInterrupt):
        with claim_folder(tmp_path / "set", False) as folder:
            fill(folder)
            raise error
    assert os.listdir(tmp_path) == []
    (tmp_path / "set").mkdir()  # one that was there stays
    with contextlib.suppress(UserError, KeyboardInterrupt), claim_folder(tmp_path / "set", False):
        raise error
    assert os.listdir(tmp_path) == ["set"] and os.listdir(tmp_path / "set") == []


def test_graphs_do_not_hide_the_clips_of_a_folder(tmp_path):
    with claim_folder(tmp_path, False) as folder:
        fill(folder)
    found = graphs.from_arrays([np.array([[0, 1]])])
    with pytest.raises(UserError, match="exists; give another --out, or --overwrite"):
        graphs.save(found, tmp_path)
    graphs.save(found, tmp_path, overwrite=True)
    assert os.listdir(tmp_path) == [graphs.FILE]


def test_an_imported_run_for_which_there_is_no_room_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="cannot write .*run .No space left.*make room"):
        with torch_files.appear(tmp_path / "run") as unfinished:
            unfinished.mkdir()
            raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []
    with pytest.raises(UserError, match="cannot write .*run .*not empty.*choose another"):
        with torch_files.appear(tmp_path / "run") as unfinished:
            unfinished.mkdir()
            (tmp_path / "run" / "somebody's").mkdir(parents=True)
    assert os.listdir(tmp_path / "run") == ["somebody's"]


def test_a_tree_whose_parts_share_parts_is_walked_once():
    tree = np.ones(2)
    for _ in range(60):  # 2 ** 60 leaves, written out
        tree = [tree, tree]
    new = torch_files._map_leaves(tree, np.ndarray, lambda leaf: leaf + 1)
    for _ in range(60):
        new = new[1]
    assert new.tolist() == [2, 2]


@pytest.mark.parametrize("array", [np.ones(3, int), np.ones(3, complex), np.ones(3, bool)])
def test_weights_that_are_no_real_numbers_are_refused(array):
    torch_files.check_numbers({"queue_ptr": np.zeros(1, int), "weight": np.ones(3)})
    with pytest.raises(ValueError, match="weight is .*, not floating-point"):
        torch_files.check_numbers({"weight": array})
