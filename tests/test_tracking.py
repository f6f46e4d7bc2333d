"""People tracked over frames: places that last, gaps, crossings, halves, crowds."""

import numpy as np
import pytest
from _detections import people

from halp_jax.datasets.clip import DamagedClip
from halp_jax.datasets.tracking import MAX_GAP, MORE_PEOPLE, line_up, track_people


def shuffled(clip, seed=0):
    """Each frame's people in an order of its own."""
    rng = np.random.default_rng(seed)
    return [found[rng.permutation(len(found))] for found in clip]


def test_people_keep_their_place_whatever_the_order_of_a_frame():
    clip = people(0, 20, 17, 3)
    placed, remark = track_people(shuffled(clip), 17, 3)
    assert remark == "" and placed.shape == (20, 3, 17, 3)
    for body in placed.transpose(1, 0, 2, 3):
        assert sum(np.array_equal(body, person) for person in clip.transpose(1, 0, 2, 3)) == 1


def test_two_who_walk_past_each_other_stay_who_they_are():
    shape = people(1, 1, 17)[0, 0]
    left, right = shape, shape * (-1, 1, 1)  # a mirror image, so that they differ where they meet
    frames = [np.stack([left + (20 * t, 0, 0), right + (1000 - 20 * t, 0, 0)]) for t in range(21)]
    placed, _ = track_people(shuffled(frames), 17, 2)
    steps = np.diff(placed[..., 0, 0], axis=0)
    assert {*steps.round(6).ravel()} == {20, -20} and (steps == steps[0]).all()


def test_distance_is_a_share_of_the_persons_size():
    far, near = people(2, 6, 17) * (0.05, 0.05, 1), people(2, 6, 17) * (5, 5, 1)
    for clip in (far, near):
        placed, _ = track_people(list(clip), 17, 1)
        np.testing.assert_array_equal(placed, clip)
    jumped = people(2, 6, 17)
    jumped[3:, :, :, 0] += 2000  # another person, who is there when the first is not
    placed, _ = track_people(list(jumped), 17, 2)
    assert placed[:, 0].any((1, 2)).all() and not placed[:, 1].any()


def test_a_gap_is_a_gap_and_the_same_person_follows():
    clip = people(3, 12, 17, 2)
    frames = [found if time not in (4, 5) else found[:1] for time, found in enumerate(clip)]
    frames[8] = frames[8][:0]
    placed, _ = track_people(frames, 17, 2)
    lost = int(np.flatnonzero(~placed[4].any((1, 2)))[0])
    assert placed[:, lost].any((1, 2)).tolist() == [t not in (4, 5, 8) for t in range(12)]
    np.testing.assert_array_equal(placed[6:8, lost], clip[6:8, 1])
    long = [*clip[:3], *[clip[0][:0]] * (MAX_GAP + 1), *clip[3:]]
    assert (
        track_people(long, 17, 2)[0][[2, -1]].any((2, 3)).all()
    )  # found anew, in places that are free


def test_a_person_in_two_halves_is_one_and_the_halves_do_not_last():
    clip = people(4, 9, 25, 2)
    first, second = clip[4].copy(), clip[4, 0].copy()
    first[0, 14:] = 0
    second[:13] = 0
    frames = list(clip)
    frames[4] = np.stack([second, *first])  # 12 and 14 joints of person 0, who comes later now
    placed, remark = track_people(frames, 25, 3)
    assert remark == "" and placed.any((2, 3)).sum(0).tolist() == [9, 9, 0]
    own = next(body for body in (0, 1) if np.array_equal(placed[0, body], clip[0, 0]))
    np.testing.assert_array_equal(placed[4, own], first[0])  # the larger half
    np.testing.assert_array_equal(np.delete(placed[:, own], 4, 0), np.delete(clip[:, 0], 4, 0))


def test_the_first_body_lasts_and_moves_most_and_a_crowd_is_remarked():
    clip = people(5, 10, 17, 4)
    clip[:, 2, :, :2] += np.arange(10)[:, None, None] * 12  # walks
    frames = [found if time < 8 else found[[1, 2, 3]] for time, found in enumerate(clip)]
    placed, remark = track_people(frames, 17, 2)
    np.testing.assert_array_equal(placed[:, 0], clip[:, 2])
    assert remark == MORE_PEOPLE and placed[:, 1].any((1, 2)).all()


def test_nobody_gives_an_empty_clip():
    placed, remark = track_people([np.zeros((0, 0, 3))] * 3, 17, 2)
    assert placed.shape == (3, 2, 17, 3) and not placed.any() and remark == ""


def test_numbers_are_lined_up():
    one = people(6, 1, 17)[0]
    found = {n: one for n in (30, 10, 14, 12)}
    assert [len(each) for each in line_up(found, "a")] == [1, 1, 1, *[0] * 7, 1]  # every second
    assert [len(each) for each in line_up({5: one, 6: one, 9: one}, "a")] == [1, 1, 0, 0, 1]
    assert len(line_up({7: one}, "a")) == 1
    with pytest.raises(DamagedClip, match="a: frames 0 to 99999, more than the 20000 of a clip"):
        line_up({0: one, 1: one, 99_999: one}, "a")
