"""Checkpoints of AimCLR and CrosSCLR in and out."""

import re

import numpy as np
import pytest
from _aimclr import config

from halp_jax import convert
from halp_jax.errors import UserError
from halp_jax.methods import torch_stgcn
from halp_jax.skeletons.layout import NTU25
from halp_jax.training import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def whole(golden, name):
    """The arrays of a released file: what the vectors store once is there three times."""
    arrays = {k: v for k, v in golden(f"aimclr/{name}").items() if not k.startswith("momentum")}
    if name == "state_cross":
        for which in "qk":
            for part in ("0.weight", "0.bias", "2.weight", "2.bias"):
                head = arrays[f"encoder_{which}.fc.{part}"]
                arrays |= {f"encoder_{which}_{s}.fc.2.{part}": head for s in ("motion", "bone")}
    return arrays


def compare(written, arrays, step, passes):
    """Every number is as it was, and what torch has besides is there."""
    for key, value in arrays.items():
        if not key.endswith("num_batches_tracked"):
            assert np.array_equal(written[key], value), key
    assert int(written["encoder_q.data_bn.num_batches_tracked"]) == passes * step
    assert int(written["encoder_k.st_gcn_networks.9.residual.1.num_batches_tracked"]) == step


@pytest.mark.parametrize("name", ["state", "state_cross"])
def test_every_number_comes_in_and_goes_out(golden, name):
    arrays = whole(golden, name)
    c = config("aimclr" if name == "state" else "crossclr")
    sizes = torch_stgcn.read_sizes(arrays)
    torch_stgcn.fit_config(c, sizes, None)
    assert sizes[1:] == (25, 4, 32, 16, 64, name == "state_cross")
    assert len(c.streams) == (1 if name == "state" else 3)
    state = torch_stgcn.to_state(arrays, c, NTU25)
    assert int(state.step) == int(arrays.get("encoder_k.data_bn.num_batches_tracked", 0))
    written = torch_stgcn.from_state(state, c, NTU25)
    compare(written, arrays, int(state.step), 2 if name == "state" else 1)
    wanted = golden("aimclr/graph")["ntu-rgb+d/spatial"]
    np.testing.assert_allclose(written["encoder_q.A"], wanted, atol=1e-7)


@pytest.mark.parametrize("damage", ["missing", "misshapen"])
def test_a_file_without_an_array_is_refused(golden, damage):
    arrays, name = whole(golden, "state"), "encoder_k.st_gcn_networks.5.tcn.2.weight"
    if damage == "missing":
        del arrays[name]
    else:
        arrays[name] = arrays[name][:, :3]
    c = config()
    torch_stgcn.fit_config(c, torch_stgcn.read_sizes(arrays), None)
    with pytest.raises(UserError, match=re.escape(name)):
        torch_stgcn.to_state(arrays, c, NTU25)


def test_the_command_reads_and_writes_bare_state_dicts(golden, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is an optional extra")
    arrays, workdir = whole(golden, "state"), tmp_path / "run"
    torch.save({k: torch.tensor(v) for k, v in arrays.items()}, tmp_path / "released.pt")
    assert convert.main([f"--from={tmp_path}/released.pt", f"--workdir={workdir}"]) == 0
    assert checkpoint.load_config(workdir).method == "aimclr"
    assert convert.main([f"--workdir={workdir}", f"--to={tmp_path}/ours.pt"]) == 0
    written = torch.load(tmp_path / "ours.pt", weights_only=True)
    compare({k: v.numpy() for k, v in written.items()}, arrays, 30, 2)
