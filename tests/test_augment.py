"""Views against the authors' code with its recorded random numbers, and the draws themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _released import relative_error

from configs import default
from halp_jax.skeletons import augment

VIEWS = default.get_config().views


def ours(clip):
    """[xyz, time, joints, bodies] -> [time, bodies, joints, xyz]."""
    return jnp.asarray(clip.transpose(1, 3, 2, 0))


def theirs(clip):
    return np.asarray(clip).transpose(3, 0, 2, 1)


@pytest.mark.parametrize("case", [f"crop{i}" for i in range(6)] + ["sub0", "sub1"])
def test_random_crop_replayed(golden, case):
    g = golden("augment")
    start, length = int(g[f"{case}/start"]), int(g[f"{case}/length"])
    out = augment.crop(ours(g["clip"]), start, length)
    assert relative_error(theirs(out), g[f"{case}/out"]) < 1e-5
    valid, scale = int(g[f"{case}/num_frames"]), float(g[f"{case}/scale"][0])
    assert length == min(max(int(np.floor(valid * scale)), 64), valid)


@pytest.mark.parametrize("case", ["sub2", "sub3", "sub4"])
def test_centre_crop_equals_the_released(golden, case):
    g = golden("augment")
    out = augment.centre_crop(ours(g["clip"]), int(g[f"{case}/num_frames"]), 0.95)
    assert relative_error(theirs(out), g[f"{case}/out"]) < 1e-5


def resampled(g):
    """The corruptions were recorded on the second crop."""
    return ours(g["crop1/out"])


@pytest.mark.parametrize("case", ["shear0", "shear1"])
def test_shear_replayed(golden, case):
    g = golden("augment")
    # The released shear multiplies columns, its joint corruption rows; ours are all rows.
    out = augment.transform(resampled(g), jnp.asarray(g[f"{case}/Shear"].T, jnp.float32))
    assert relative_error(theirs(out), g[f"{case}/out"]) < 1e-5


@pytest.mark.parametrize("case", ["corrupt0_0", "corrupt0_1", "corrupt1_0", "corrupt1_1"])
def test_joint_corruption_replayed(golden, case):
    """corrupt0 zeroes the recorded joints, corrupt1 multiplies them by the recorded matrix."""
    g = golden("augment")
    clip, joints = resampled(g), g[f"{case}/joint_indicies"]
    matrix = jnp.asarray(g.get(f"{case}/Corruption", np.zeros((3, 3))), jnp.float32)
    out = clip.at[:, :, joints].set(augment.transform(clip, matrix)[:, :, joints])
    assert relative_error(theirs(out), g[f"{case}/out"]) < 1e-5


@pytest.mark.parametrize("item", [0, 1])
@pytest.mark.parametrize("view", [0, 1])
def test_whole_view_of_the_feeder_replayed(golden, item, view):
    g = golden("feeder")
    drawn = {k.split("/")[-1]: v for k, v in g.items() if k.startswith(f"item{item}/view{view}/")}
    out = augment.crop(ours(g[f"item{item}/clip"]), int(drawn["start"]), int(drawn["length"]))
    if "Shear" in drawn:
        out = augment.transform(out, jnp.asarray(drawn["Shear"].T, jnp.float32))
    else:
        matrix = jnp.asarray(drawn.get("Corruption", np.zeros((3, 3))), jnp.float32)
        joints = drawn["joint_indicies"]
        out = out.at[:, :, joints].set(augment.transform(out, matrix)[:, :, joints])
    assert relative_error(theirs(out), g[f"item{item}/v{view + 1}"]) < 1e-5


@functools.cache
def draws(count=600):
    """Many views of one clip whose coordinates tell what was done to them."""
    frames = jnp.broadcast_to(jnp.array([1.0, 2.0, 4.0]), (80, 2, 25, 3))
    keys = jax.random.split(jax.random.key(0), count)
    view = jax.jit(jax.vmap(lambda k: augment.random_view(k, frames, 80, VIEWS)))(keys)
    return np.asarray(view), np.asarray(frames[0, 0, 0])


def test_exactly_one_corruption_with_its_probability():
    views, point = draws()
    assert np.all(views == views[:, :1])  # the same in all frames
    assert np.all(views == views[:, :, :1])  # and for both bodies
    joints = views[:, 0, 0]
    touched = np.any(np.abs(joints - point) > 1e-6, axis=-1).sum(axis=1)
    zeroed = np.all(joints == 0, axis=-1).sum(axis=1)
    sheared = touched == 25
    assert np.all(sheared | (touched == 15))
    assert np.all((zeroed == 0) | (zeroed == 15)) and np.all(zeroed[sheared] == 0)
    shares = [sheared.mean(), (zeroed == 15).mean(), ((touched == 15) & (zeroed == 0)).mean()]
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=0.07)
    which = (np.abs(joints[touched == 15] - point) > 1e-6).any(-1).mean(axis=0)
    np.testing.assert_allclose(which, 0.6, atol=0.15)  # every joint takes its turn


def test_matrices_have_the_released_ranges():
    keys = jax.random.split(jax.random.key(1), 500)
    shear = np.asarray(jax.vmap(lambda k: augment.random_shear(k, 0.5))(keys))
    assert np.all(np.diagonal(shear, axis1=1, axis2=2) == 1)
    off = shear[:, ~np.eye(3, dtype=bool)]
    assert off.min() < -0.48 and off.max() > 0.48 and np.all(np.abs(off) <= 0.5)


@pytest.mark.parametrize("length", [1, 2, 30, 64, 200])
def test_random_crop_stays_inside_the_valid_frames(length):
    """Frames count 1, 2, ... and what lies behind the end is -1000: it must not leak in."""
    count = jnp.where(jnp.arange(210) < length, jnp.arange(210) + 1.0, -1000.0)
    frames = jnp.broadcast_to(count[:, None, None, None], (210, 1, 2, 3))
    keys = jax.random.split(jax.random.key(2), 200)
    crop = jax.jit(jax.vmap(lambda k: augment.random_crop(k, frames, length, 0.1, 1.0)))
    out = np.asarray(crop(keys))[:, :, 0, 0, 0]
    assert out.min() >= 1 and out.max() <= length
    assert np.all(np.diff(out, axis=1) >= -1e-4)  # in order
    if length == 200:
        spans = out[:, -1] - out[:, 0]
        assert spans.min() > 60 and spans.max() > 150  # at least 64 frames, up to all
        assert out[:, 0].std() > 10  # from anywhere
    if length == 30:  # shorter than min_frames: never cropped
        assert np.all(out == out[0])
