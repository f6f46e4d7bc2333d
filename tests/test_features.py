"""Frozen features: the right crops of the right clips, whatever the batches and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _clips import FakeDataset, make_state, patch_pipeline, tiny_config
from _steps import encode

from halp_jax.errors import UserError
from halp_jax.evaluation import features
from halp_jax.skeletons import augment
from halp_jax.skeletons.layout import KINECT20


@pytest.fixture(scope="module")
def dataset():
    return FakeDataset()


@pytest.fixture(scope="module")
def two_streams(dataset):
    """A config and the variables of its encoder."""
    config = tiny_config(streams=("joint", "bone"))
    state = make_state(config, dataset.layout)
    return config, features.get_variables(state)


def flat(variables, clips):
    return clips.reshape(len(clips), -1)


def test_centre_crops_of_all_clips_in_order_without_padding(dataset):
    extract = features.make_extractor(flat, crop=0.95, num_frames=6)
    indices = np.array([4, 21, 0, 9, 3])
    found = extract((), dataset.batches(indices, 3), 5)
    np.testing.assert_array_equal(found.index, indices)
    np.testing.assert_array_equal(found.labels, dataset.labels[indices])
    assert found.values.shape == (1, 5, 6 * 2 * 25 * 3) and found.values.dtype == np.float32
    for row, index in zip(found.values[0], indices, strict=True):
        clip = jnp.asarray(dataset.frames[index])
        expected = augment.centre_crop(clip, int(dataset.lengths[index]), 0.95, 6)
        np.testing.assert_allclose(row, expected.ravel(), atol=1e-6)


def test_random_crops_depend_on_clip_and_crop_number_alone(dataset):
    indices = np.arange(11)

    def extract(order, batch_size, num_crops, seed=0, devices=None):
        run = features.make_extractor(
            flat, crop=(0.3, 1.0), num_frames=6, min_frames=2,
            num_crops=num_crops, seed=seed, devices=devices,
        )  # fmt: skip
        found = run((), dataset.batches(order, batch_size), len(order))
        return found.values[:, np.argsort(found.index)]

    assert jax.local_device_count() == 4
    reference = extract(indices, 11, 3, devices=jax.devices()[:1])
    np.testing.assert_array_equal(extract(indices, 4, 2), reference[:2])
    reverse = extract(indices[::-1], 3, 3, devices=jax.devices()[:2])
    np.testing.assert_array_equal(reverse, reference)
    # Another crop of nearly every clip: of 5 frames there are few, so that two may agree.
    for other in (reference[1], reference[2], extract(indices, 11, 1, seed=1)[0]):
        assert np.sum(np.any(reference[0] != other, axis=1)) >= 9
    # Crops lie within the valid frames, outside of which everything is zero.
    assert np.all(np.any(reference.reshape(3, 11, 6, -1) != 0, axis=-1))


def test_prepared_clips_are_cropped_by_the_frames_that_they_have_then(dataset):
    """min_frames is of the clips before, which had more."""
    options = {"crop": (0.3, 1.0), "num_frames": 6, "min_frames": 64, "num_crops": 4}
    run = features.make_extractor(flat, prepare=lambda clip: clip[:6], **options)
    found = run((), dataset.batches(np.arange(11), 11), 11).values
    assert np.any(found[0] != found[1:], axis=(0, 2)).sum() >= 9


def test_encoder_features_are_those_of_encode(dataset, two_streams):
    config, variables = two_streams
    clips = jax.vmap(lambda f, n: augment.centre_crop(f, n, 0.95, 6))(
        jnp.asarray(dataset.frames[:5]), jnp.asarray(dataset.lengths[:5])
    )
    expected = encode(config, *variables, clips)
    embed = features.make_embedding("trained", config, dataset.layout, ("bone",))
    extract = features.make_extractor(embed, crop=0.95, num_frames=6)
    found = extract(variables, dataset.batches(np.arange(5), 4), 5)
    np.testing.assert_allclose(found.values[0], expected[1], atol=1e-6)
    assert float(abs(expected[1] - expected[0]).max()) > 0.01


def test_raw_features_are_the_coordinates(dataset):
    config = tiny_config(streams=("joint", "motion"))
    clips = jnp.asarray(dataset.frames[:3])
    raw = features.raw_features(config, dataset.layout, clips)
    assert raw.shape == (2, 3, 12 * 150)
    np.testing.assert_allclose(np.sort(raw[0]), np.sort(clips.reshape(3, -1)))
    assert float(abs(raw[1, :, -150:]).max()) == 0  # motion of the last frame
    embed = features.make_embedding("raw", config, dataset.layout, ("motion",))
    np.testing.assert_array_equal(embed((), clips), raw[1])


def test_one_compiled_program_serves_all_checkpoints(dataset):
    traces = []

    def embed(scale, clips):
        traces.append(clips.shape)
        return scale * clips.reshape(len(clips), -1)

    extract = features.make_extractor(embed, crop=0.95, num_frames=6)
    one, two = (extract(jnp.float32(s), dataset.batches(np.arange(8), 4), 8) for s in (1, 2))
    assert len(traces) == 1
    np.testing.assert_allclose(two.values, 2 * one.values)


def test_split_extraction_reads_its_part(dataset, monkeypatch, capsys):
    patch_pipeline(monkeypatch)
    config = tiny_config()
    extract = features.make_extractor(flat, crop=0.95, num_frames=6)
    for part, count in (("train", 14), ("test", 8)):
        found = features.extract_split(config, dataset, part, extract, (), progress=True)
        np.testing.assert_array_equal(found.index, dataset.indices("xsub", part))
        assert f"{part} features {count}/{count} clips" in capsys.readouterr().err
    monkeypatch.setattr(FakeDataset, "indices", lambda *_: np.arange(0))
    with pytest.raises(UserError, match="'xsub' has no test clips"):
        features.extract_split(config, dataset, "test", extract, ())


def test_missing_clips_are_no_silent_result(dataset):
    extract = features.make_extractor(flat, crop=0.95, num_frames=6)
    with pytest.raises(ValueError, match="expected 6 clips, the batches held 5"):
        extract((), dataset.batches(np.arange(5), 4), 6)


def test_an_encoder_of_another_layout_is_named(dataset, two_streams):
    config, variables = two_streams
    embed = features.make_embedding("trained", config, KINECT20)
    with pytest.raises(UserError, match="does not fit clips of layout kinect20"):
        features.check_fit(features.Encoder(embed, variables, ("joint",)), config, KINECT20)
    fitting = features.make_embedding("trained", config, dataset.layout)
    features.check_fit(features.Encoder(fitting, variables, ("joint",)), config, dataset.layout)
