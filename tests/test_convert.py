"""Released checkpoints in and out: the golden features and step, and every bit there and back."""

import functools
import json
import os
import pickle
import resource
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _clips import make_state, tiny_config
from _files import poses
from _released import clips, recorded_draws, relative_error, replayed_halp
from _steps import encode as encode_clips
from _steps import run_update, split_views, stream_inputs

from halp_jax import convert, datasets, evaluate
from halp_jax.evaluation.streams import select
from halp_jax.methods import keys, torch_names, torch_state
from halp_jax.skeletons.layout import NTU25
from halp_jax.training import checkpoint
from halp_jax.training.checkpoint_io import flatten

torch = pytest.importorskip("torch", reason="torch is an optional extra")
pytest.importorskip("safetensors", reason="safetensors is an optional extra")
import safetensors  # noqa: E402
import safetensors.numpy  # noqa: E402

# ml_collections loads config files in a way that Python 3.11 frowns upon.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

STREAMS = ("joint", "motion", "bone")
GOLDEN = Path(__file__).parent / "golden" / "halp_small.pth.tar"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)  # tests share the cores


def run(*arguments):
    return convert.main([str(argument) for argument in arguments])


def save(path, arrays, **more):
    """A .pth.tar of numpy arrays."""
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    torch.save({"epoch": 2, "state_dict": tensors, **more}, path)
    return path


def load(workdir):
    """(config, state) of a workdir."""
    return checkpoint.load_config(workdir), checkpoint.restore_state(workdir)[0]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The workdir of the golden checkpoint file."""
    workdir = tmp_path_factory.mktemp("imported") / "run"
    assert run(f"--from={GOLDEN}", f"--workdir={workdir}") == 0
    return workdir


def assert_same_bits(ours, theirs):
    ours, theirs = flatten(ours), flatten(theirs)
    assert ours.keys() == theirs.keys()
    for name, leaf in ours.items():
        assert leaf.dtype == theirs[name].dtype, name
        np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)


def encode(config, state, frames):
    return jax.jit(functools.partial(encode_clips, config))(
        state.params, state.extra["batch_stats"], frames
    )


def torch_features(state_dict, x):
    """The released forward in evaluation mode, written with torch's own modules, frame by frame."""
    names = {n.removeprefix("encoder_q."): t for n, t in state_dict.items() if "encoder_q." in n}
    norm = torch.nn.BatchNorm1d(150)
    norm.load_state_dict({n.split(".")[1]: t for n, t in names.items() if "input_norm" in n})
    gru = torch.nn.GRU(150, 32, num_layers=3, bidirectional=True, batch_first=True)
    gru.load_state_dict({n.split(".")[2]: t for n, t in names.items() if "gru" in n})
    with torch.no_grad():
        x = norm.eval()(x.permute(0, 2, 1)).permute(0, 2, 1)
        hidden = None
        for t in range(x.shape[1]):
            out, hidden = gru(x[:, t : t + 1], hidden)
    return out[:, 0].numpy()


def test_features_of_the_golden_checkpoint_are_torchs(golden, imported):
    config, state = load(imported)
    assert config.encoder.width == 32 and config.halp.num_prototypes == 20
    assert (config.moco.queue_size, config.streams, config.halp.mu) == (256, ("joint",), 2.0)
    frames = clips(golden("inputs")["im_q"])
    x = stream_inputs(config, frames)[0]
    wanted = torch_features(
        torch.load(GOLDEN, weights_only=True)["state_dict"], torch.tensor(np.asarray(x))
    )
    assert relative_error(encode(config, state, frames)[0], wanted) < 1e-5


def test_features_of_a_single_stream_are_the_golden_ones(golden, tmp_path):
    file = save(tmp_path / "single.pth.tar", golden("single_state"))
    assert run(f"--from={file}", f"--workdir={tmp_path / 'bone'}", "--stream=bone") == 0
    config, state = load(tmp_path / "bone")
    assert config.streams == ("bone",)
    features = encode(config, state, clips(golden("inputs")["im_q"]))
    assert relative_error(features[0], golden("encoder")["knn_bone"]) < 1e-5


def test_features_of_three_streams_are_the_golden_ones(golden, tmp_path, capsys):
    arrays = {f"module.{name}": array for name, array in golden("mm_state").items()}
    file = save(tmp_path / "three.pth", arrays)
    assert run(f"--from={file}", f"--workdir={tmp_path / 'run'}") == 0
    assert "momentum zeros (the file has no optimiser)" in capsys.readouterr().out
    config, state = load(tmp_path / "run")
    assert config.streams == STREAMS and (config.cmd.nu, config.cmd.topk) == (1.0, 128)
    features = encode(config, state, clips(golden("inputs")["im_q"]))
    joined, reference = np.concatenate(list(features), axis=-1), golden("mm_features")
    for look, name in zip((*STREAMS, "mean"), (*STREAMS, "all"), strict=True):
        assert relative_error(select(joined, look, STREAMS), reference[f"knn_{name}"]) < 1e-5
    assert run(f"--to={tmp_path / 'back.pth'}", f"--workdir={tmp_path / 'run'}") == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert list(back) == list(golden("mm_state"))
    for name, array in golden("mm_state").items():
        np.testing.assert_array_equal(back[name].numpy(), array)


def test_a_step_from_an_imported_state_leads_to_the_golden_checkpoint(golden, imported, tmp_path):
    """The file was saved after this step. Recorded momentum is of biases and head."""
    arrays = golden("single_state")
    before = {k.removeprefix("momentum_before/"): v for k, v in golden("step_baseline").items()}
    names = torch_names.list_parameter_names(list(arrays))
    state = {
        i: {"momentum_buffer": torch.tensor(before[n]) if n in before else None}
        for i, n in enumerate(names)
    }
    group = {"params": list(range(len(names)))}
    optimizer = {"state": state, "param_groups": [group]}
    file = save(tmp_path / "before.pth.tar", arrays, optimizer=optimizer)
    assert run(f"--from={file}", f"--workdir={tmp_path / 'run'}") == 0
    config, state = load(tmp_path / "run")
    assert int(state.step) == 4
    config.halp.start_epoch, config.halp.num_positives, config.train.batch_size = 0, 10, 8
    views = split_views(config, *(clips(golden("inputs")[name]) for name in ("im_q", "im_k")))
    halp = replayed_halp([recorded_draws(golden("step_halp"), "gen")])
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    after, _ = run_update(config, state, views, halp, compiler_options=quick)
    ours, our_momentum = torch_state.from_state(after, ("joint",))
    theirs, their_momentum = torch_state.from_state(load(imported)[1], ("joint",))
    assert ours[f"encoder_q.{torch_names.TRACKED}"] == 5 and ours["queue_ptr"] == 104
    unknown = set(our_momentum) - set(before)
    for name in ours.keys() - unknown:
        assert relative_error(ours[name], theirs[name]) < 1e-5, name
    assert len(before.keys() & our_momentum.keys()) > 10
    for name in our_momentum.keys() - unknown:
        assert relative_error(our_momentum[name], their_momentum[name]) < 1e-4, name


def test_what_torch_reads_back_is_the_original(imported, tmp_path):
    assert run(f"--to={tmp_path / 'back.pth.tar'}", f"--workdir={imported}") == 0
    original = torch.load(GOLDEN, weights_only=True)
    back = torch.load(tmp_path / "back.pth.tar", weights_only=True)
    assert back["epoch"] == original["epoch"]
    assert list(back["state_dict"]) == list(original["state_dict"])
    for name, tensor in original["state_dict"].items():
        ours = back["state_dict"][name]
        assert ours.dtype == tensor.dtype and torch.equal(ours, tensor), name
    ours, theirs = back["optimizer"], original["optimizer"]
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for number, buffers in theirs["state"].items():
        assert torch.equal(ours["state"][number]["momentum_buffer"], buffers["momentum_buffer"]), (
            number
        )


def our_run(workdir, **changes):
    """A run of two streams whose every number is its own."""
    config = tiny_config(streams=("bone", "joint"), **changes)
    rng = np.random.default_rng(0)

    def fill(leaf):
        if leaf.dtype == jnp.float32:
            return jnp.asarray(rng.normal(size=leaf.shape).astype(np.float32))
        return leaf + 7 if leaf.ndim == 0 else leaf + jnp.array([3, 3])

    state = jax.tree.map(fill, make_state(config, NTU25))
    checkpoint.save_config(workdir, config)
    with checkpoint.open_manager(workdir, config) as manager:
        info = {"layout": "ntu25", "steps_per_epoch": 3, "clips": 26}
        checkpoint.save(manager, 7, state, info | {"figures": {"loss": 1.5}})
    return workdir


def test_our_run_goes_out_and_comes_back_bit_for_bit(tmp_path):
    workdir = our_run(tmp_path / "run")
    assert run(f"--to={tmp_path / 'run.pth.tar'}", f"--workdir={workdir}") == 0
    assert torch.load(tmp_path / "run.pth.tar", weights_only=True)["epoch"] == 2
    assert run(f"--from={tmp_path / 'run.pth.tar'}", f"--workdir={tmp_path / 'back'}") == 0
    (config, state), (wanted, original) = load(tmp_path / "back"), load(workdir)
    assert config.to_dict() == wanted.to_dict()
    assert_same_bits(state, original)
    assert checkpoint.load_info(tmp_path / "back", 7) == checkpoint.load_info(workdir, 7)


def test_safetensors_hold_the_model_and_its_config(tmp_path):
    workdir, file = our_run(tmp_path / "run"), tmp_path / "run.safetensors"
    assert run(f"--to={file}", f"--workdir={workdir}", "--step=7") == 0
    arrays = safetensors.numpy.load_file(file)
    config, state = load(workdir)
    np.testing.assert_array_equal(
        arrays["encoder_k.encoder.gru.weight_ih_l0_reverse"],
        state.extra["key_params"]["layer0"]["w_ih"][1, 1].T,
    )
    np.testing.assert_array_equal(arrays["queue_bone"], state.extra["queue"].keys[0].T)
    np.testing.assert_array_equal(arrays["prototypes_j"], state.extra["prototypes"][1])
    with safetensors.safe_open(file, framework="numpy") as opened:
        assert json.loads(opened.metadata()["config"])["encoder"]["width"] == 8
    assert run(f"--from={file}", f"--workdir={tmp_path / 'back'}") == 0
    back = load(tmp_path / "back")[1]
    fields = ("params", "key_params", "batch_stats", "key_batch_stats", "queue", "prototypes")
    for name in fields:
        assert_same_bits(*({**s.extra, "params": s.params}[name] for s in (back, state)))


@pytest.mark.parametrize("ending", ["safetensors", "pth.tar"])
def test_a_file_has_the_rights_of_any_other_and_no_room_is_told(tmp_path, capsys, ending):
    workdir, file = our_run(tmp_path / "run"), tmp_path / "out" / f"run.{ending}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        assert run(f"--to={file}", f"--workdir={workdir}") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"cannot write {file} (File too large); make room" in capsys.readouterr().err
    assert list(file.parent.iterdir()) == []
    assert run(f"--to={file}", f"--workdir={workdir}") == 0
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode


def small_dataset(path, normalize="released"):
    frames = [poses(seed, 12, 2).astype(np.float32) for seed in range(8)]
    splits = {"xsub": {"train": range(6), "test": (6, 7)}}
    dataset = datasets.from_arrays(
        frames, [0, 1] * 4, layout="ntu25", class_names=("walk", "wave"), splits=splits,
        normalize=normalize,
    )  # fmt: skip
    return datasets.pack(dataset, path)


def test_evaluation_and_warm_starts_take_an_imported_run(imported, tmp_path, capsys):
    data = small_dataset(tmp_path / "data.npz")
    options = (f"--config.data.dir={data}", "--config.data.max_frames=12")
    assert evaluate.main([f"--workdir={imported}", "--protocol=knn", *options]) == 0
    upright = small_dataset(tmp_path / "upright.npz", "upright")
    options = (f"--config.data.dir={upright}", "--config.data.max_frames=12")
    capsys.readouterr()
    assert evaluate.main([f"--workdir={imported}", "--protocol=knn", *options]) == 1
    line = capsys.readouterr().err
    assert "upright.npz is normalised by upright" in line and "--normalize=released" in line
    assert json.loads((imported / "eval" / "knn_data.json").read_text())["step"] == 5
    config, state = load(imported)
    fresh = make_state(config, NTU25)
    assert_same_bits(checkpoint.warm_start(fresh, imported)[0], state)
    encoder = checkpoint.warm_start(fresh, imported, keys.ENCODER)[0]
    assert_same_bits(encoder.params, state.params)
    assert int(encoder.step) == 0


def test_the_data_set_of_the_training_makes_a_run_that_goes_on(golden, tmp_path, capsys):
    data = small_dataset(tmp_path / "data.npz")  # 2 steps an epoch, as 4 steps in 2 epochs
    file = save(tmp_path / "model.pth.tar", golden("single_state"))
    options = (f"--from={file}", f"--config.data.dir={data}")
    assert run(*options, f"--workdir={tmp_path / 'run'}", "--config.train.batch_size=3") == 0
    info = checkpoint.load_info(tmp_path / "run", 4)
    assert (info["steps_per_epoch"], info["clips"], info["layout"]) == (2, 6, "ntu25")
    assert info["normalize"] == "released" and "--normalize=released" in capsys.readouterr().out
    upright = small_dataset(tmp_path / "upright.npz", "upright")
    options = (*options[:1], f"--config.data.dir={upright}")
    assert run(*options, f"--workdir={tmp_path / 'third'}") == 1
    assert "upright.npz is normalised by upright" in capsys.readouterr().err
    options = (*options[:1], f"--config.data.dir={data}")
    capsys.readouterr()
    assert run(*options, f"--workdir={tmp_path / 'other'}", "--config.train.batch_size=6") == 1
    assert "has 2 steps an epoch" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_config_file_sets_what_shapes_do_not_tell(tmp_path, capsys):
    options = ("--config=configs/cmd.py:pku2_xsub", "--config.optim.learning_rate=0.5")
    assert run(f"--from={GOLDEN}", f"--workdir={tmp_path / 'run'}", *options) == 0
    config = checkpoint.load_config(tmp_path / "run")
    assert (config.train.epochs, config.optim.learning_rate) == (1001, 0.5)
    assert config.encoder.width == 32 and config.streams == ("joint",)
    assert "config.encoder.width: 1024 -> 32" in capsys.readouterr().out


class Evil:
    def __reduce__(self):
        return os.system, ("touch hacked",)


def damaged(golden, kind, path):
    """A file of which something is wrong."""
    arrays = golden("single_state")
    if kind == "truncated":
        path.write_bytes(GOLDEN.read_bytes()[:-4000])
    elif kind == "text":
        path.write_text("no checkpoint")
    elif kind == "evil":
        path.write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=2))
    elif kind == "evil zip":
        torch.save({"state_dict": Evil()}, path)
    elif kind == "list":
        torch.save([1, 2], path)
    else:
        if kind == "missing":
            del arrays["encoder_k.fc.0.bias"]
        elif kind == "shape":
            arrays["encoder_q.encoder.gru.weight_hh_l2"] = np.zeros((96, 31), np.float32)
        elif kind == "more":
            arrays["encoder_q.conv.weight"] = np.zeros(3, np.float32)
        elif kind == "nan":
            arrays["prototypes"][0, 0] = np.nan
        elif kind == "pointer":
            arrays["queue_ptr"][0] = 256
        elif kind == "head":
            arrays["encoder_q.fc.weight"] = np.zeros((60, 64), np.float32)
        elif kind == "inputs":
            for name in [n for n in arrays if "input_norm" in n and "num" not in n]:
                arrays[name] = arrays[name][:60]
            for name in [n for n in arrays if "weight_ih_l0" in n]:
                arrays[name] = arrays[name][:, :60]
        save(path, arrays)
    return path


BAD = {
    "truncated": "damaged", "text": "damaged", "evil": ".system", "list": "damaged",
    "evil zip": ".system", "missing": "there is no encoder_k.fc.0.bias",
    "shape": "encoder_q.encoder.gru.weight_hh_l2 is [96, 31]", "more": "encoder_q.conv.weight",
    "nan": "prototypes holds numbers", "pointer": "queue_ptr is not", "head": "--mlp",
    "inputs": "60 numbers a frame: name its skeleton by --layout",
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_told_in_one_line(golden, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    file = damaged(golden, kind, tmp_path / "bad.pth.tar")
    assert run(f"--from={file}", f"--workdir={tmp_path / 'run'}") == 1
    line = capsys.readouterr().err
    assert "Re-running" not in line  # torch's advice to load it all the same
    assert line.startswith("error: ") and line.count("\n") == 1 and "bad.pth.tar" in line
    assert BAD[kind] in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pth.tar"]


def test_the_layout_of_other_inputs_is_named(golden, tmp_path):
    file = damaged(golden, "inputs", tmp_path / "nw_ucla.pth.tar")
    assert run(f"--from={file}", f"--workdir={tmp_path / 'run'}", "--layout=kinect20") == 0
    assert checkpoint.load_info(tmp_path / "run", 4)["layout"] == "kinect20"
    assert load(tmp_path / "run")[1].params["layer0"]["w_ih"].shape == (1, 2, 60, 96)


def test_bad_safetensors_are_told_in_one_line(tmp_path, capsys):
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 100)
    assert run(f"--from={tmp_path / 'bad.safetensors'}", f"--workdir={tmp_path / 'run'}") == 1
    line = capsys.readouterr().err
    assert "no safetensors file" in line and line.count("\n") == 1


def test_nothing_is_overwritten(imported, tmp_path, capsys):
    (tmp_path / "out.pth.tar").write_text("mine")
    new, file = f"--workdir={tmp_path / 'new'}", f"--to={tmp_path / 'new'}"
    old, golden = f"--workdir={imported}", f"--from={GOLDEN}"
    wrong = {
        (golden, old): "exists",
        (old, f"--to={tmp_path / 'out.pth.tar'}"): "exists",
        (old,): "give either",
        (new, f"--from={tmp_path / 'no.pth'}"): "does not exist",
        (old, file, "--step=4"): "no checkpoint of step 4",
        (old, file, "--config.seed=1"): "--config.seed",
        (golden, new, "--unknown=1"): "'unknown'",
        (old, file, "--stream=joint"): "--stream means nothing to --to",
        (golden, new, "--step=3"): "--step means nothing to --from",
        (golden, new, "--layout=kinect20"): "kinect20 has 60",
    }
    for options, message in wrong.items():
        assert run(*options) == 1
        line = capsys.readouterr().err
        assert message in line and line.count("\n") == 1, line
    assert (tmp_path / "out.pth.tar").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out.pth.tar"]


def test_other_encoders_go_out_as_safetensors_alone(tmp_path, capsys):
    workdir = our_run(tmp_path / "run", encoder__pooling="mean")
    assert run(f"--to={tmp_path / 'run.pth.tar'}", f"--workdir={workdir}") == 1
    assert "pooling mean" in capsys.readouterr().err
    assert run(f"--to={tmp_path / 'run.safetensors'}", f"--workdir={workdir}") == 0
    options = (f"--from={tmp_path / 'run.safetensors'}", f"--workdir={tmp_path / 'back'}")
    assert run(*options) == 0
    assert checkpoint.load_config(tmp_path / "back").encoder.pooling == "mean"


def test_without_torch_a_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(f"--from={GOLDEN}", f"--workdir={tmp_path / 'run'}") == 1
    assert "pip install torch" in capsys.readouterr().err


def test_an_optimiser_of_the_query_encoders_alone_is_understood(golden):
    arrays = golden("single_state")
    names = [n for n in torch_names.list_parameter_names(list(arrays)) if n[:9] == "encoder_q"]
    state = {i: {"momentum_buffer": np.full_like(arrays[n], i)} for i, n in enumerate(names)}
    groups = [{"params": list(range(len(names)))}]
    momentum, which = torch_state.read_momentum({"state": state, "param_groups": groups}, arrays)
    assert which == "taken over" and momentum["encoder_q.fc.0.bias"][0] == 25
    state[3]["momentum_buffer"] = np.zeros(5)
    momentum, which = torch_state.read_momentum({"state": state, "param_groups": groups}, arrays)
    assert momentum is None and "does not fit" in which
    groups = [{"params": list(range(7))}]
    momentum, which = torch_state.read_momentum({"state": state, "param_groups": groups}, arrays)
    assert momentum is None and "not of this model" in which
