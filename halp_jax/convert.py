"""Converts checkpoints of the released PyTorch code to runs, and runs to it or to plain safetensors.

    python -m halp_jax.convert --from=checkpoint_0450.pth.tar --workdir=runs/released \\
        [--config=configs/halp.py:ntu60_xsub] [--config.data.dir=data/ntu60] [--stream=joint]
    python -m halp_jax.convert --workdir=runs/halp --to=halp.pth.tar [--step=N]
    python -m halp_jax.convert --workdir=runs/halp --to=halp.safetensors

    python -m halp_jax.convert --from=epoch300_model.pt --workdir=runs/aimclr
    python -m halp_jax.convert --workdir=runs/aimclr --to=ours.pt

The first makes a workdir for `evaluate`, `embed` and `--config.init_from`: of HaLP, CMD, HaLP+CMD or the
baseline, with momentum, queue and prototypes. Sizes come from the file, everything else from the config.
The run takes clips prepared with --normalize=released, as the authors' were. To resume training
(`init_what=all`) also give the data set that the file was trained on. The second is what the released
code loads; read back here, it is the same bit for bit. Files are loaded with weights_only, so nothing in
them is executed. Nothing that exists is overwritten.

The last two do the same for AimCLR, SkeletonCLR and CrosSCLR, whose files are bare state dicts: the
optimiser starts anew, and clips are prepared with --normalize=none --bodies=first.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from halp_jax import datasets
from halp_jax.errors import UserError
from halp_jax.methods import moco, torch_names, torch_state, torch_stgcn
from halp_jax.options import CONFIGS, make_parser, names_config_file, parse_config, run_command
from halp_jax.skeletons.augment import STREAMS
from halp_jax.skeletons.layout import describe_layout, restore_layout
from halp_jax.training import checkpoint, normalization, torch_files
from halp_jax.training.torch_files import Content, naming


def parse_args(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command's own options, and the rest: those of the config."""
    more = "--config=FILE[:VARIANT] and --config.field=value set what shapes do not tell"
    parser = make_parser("convert", __doc__, epilog=more)
    parser.add_argument("--workdir", required=True, help="folder of a run; new with --from")
    parser.add_argument("--from", dest="source", help="file to read: .pth.tar, .safetensors")
    parser.add_argument("--to", help="file to write: .safetensors, or any other name for torch's")
    parser.add_argument("--layout", default="", help="skeleton of the clips; default: ntu25")
    about = "of a file with one encoder: joint (default), motion or bone"
    parser.add_argument("--stream", choices=STREAMS, help=about)
    parser.add_argument("--step", type=int, help="checkpoint to write; default: the last")
    args, rest = parser.parse_known_args(argv)
    if bool(args.source) == bool(args.to):
        raise UserError("give either --from=FILE, to read a file, or --to=FILE, to write one")
    for name in ("stream", "layout") if args.to else ("step",):
        if getattr(args, name) not in (None, ""):
            way = "to" if args.to else "from"
            raise UserError(f"--{name} means nothing to --{way}; leave it out")
    return args, rest


def import_file(args: argparse.Namespace, options: list[str]) -> str:
    """Reads a file into a new workdir; returns what to tell the user."""
    workdir, source = Path(args.workdir).expanduser(), Path(args.source).expanduser()
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"{workdir} exists; choose another --workdir")
    content = torch_files.read_file(source)
    if torch_stgcn.is_stgcn(content.arrays):
        return import_stgcn(args, options, content)
    with naming(source):
        sizes = torch_names.read_sizes(content.arrays)
        run = json.loads(content.ours["run"]) if content.ours else {"info": {}}
        if type(run.get("step", 0)) is not int or run.get("step", 0) < 0:
            raise UserError(f"its step is {str(run['step'])[:40]}")
        layout = torch_state.find_layout(sizes.inputs, args.layout or run["info"].get("layout", ""))
    with torch_files.appear(workdir) as folder:
        config, from_file = start_config(args, options, content)
        with naming(source):
            if not (from_file or content.ours):
                set_released(config, sizes)
            sizes, streams = choose_streams(args.stream, config, sizes)
            changes = torch_state.fit_config(config, sizes, streams)
            momentum, which = torch_state.read_momentum(content.optimizer, content.arrays)
            state = torch_state.to_state(
                content.arrays, sizes, config,
                momentum=momentum, step=run.get("step"), pushed=run.get("pushed"),
            )  # fmt: skip
            info = run["info"] or describe(content, config, which)
            info["layout"] = describe_layout(layout)
        write_run(folder, config, state, info)
    lines = [f"of the file: config.{change}" for change in changes if from_file]
    epoch = "" if content.epoch is None else f" (epoch {content.epoch})"
    lines.append(
        f"{workdir}: step {int(state.step)}{epoch}, {', '.join(streams)}, width {sizes.width}, "
        f"queue {sizes.queue_size}, {sizes.num_prototypes} prototypes, momentum {which}"
    )
    if not content.ours:
        lines.append("it takes clips prepared with --normalize=released, as its authors' were")
    if "clips" not in info:
        lines.append(
            "a warm start from it needs --config.init_what=encoder; for init_what=all convert it "
            "with --config.data.dir=DIR, the data set of its training"
        )
    return "\n".join(lines)


def import_stgcn(args: argparse.Namespace, options: list[str], content: Content) -> str:
    """The same of a file of AimCLR, SkeletonCLR or CrosSCLR."""
    workdir, source = Path(args.workdir).expanduser(), Path(args.source).expanduser()
    with naming(source):
        sizes = torch_stgcn.read_sizes(content.arrays)
        layout = torch_state.find_layout(6 * sizes.joints, args.layout)
    if not names_config_file(options):
        name = "crossclr" if len(sizes.streams) > 1 else "aimclr"
        options = [f"--config={CONFIGS / name}.py:ntu60_xsub", *options]
    config = parse_config(options)
    config.unlock()
    config.data.dir = config.data.dir or ""
    torch_stgcn.fit_config(config, sizes, args.stream)
    with torch_files.appear(workdir) as folder:
        with naming(source):
            state = torch_stgcn.to_state(content.arrays, config, layout)
        info = {"layout": describe_layout(layout), "normalize": "none"}
        write_run(folder, config, state, info)
    return (
        f"{workdir}: step {int(state.step)}, {', '.join(config.streams)}, width {sizes.width}, queue "
        f"{sizes.queue_size}\nit takes clips prepared with --normalize=none --bodies=first; a warm start "
        "from it needs --config.init_what=encoder"
    )


def write_run(folder: Path, config: ConfigDict, state: Any, info: dict[str, Any]) -> None:
    """Makes the folder a run that ends at this state."""
    checkpoint.save_config(folder, config)
    with checkpoint.open_manager(folder, config) as manager:
        checkpoint.save(manager, int(state.step), state, info)


def start_config(
    args: argparse.Namespace, options: list[str], content: Content
) -> tuple[ConfigDict, bool]:
    """The config before the file's sizes enter, and whether the user gave a file of it.

    It is that of --config, else the one that our own files carry, else the default.
    """
    from_file, own = names_config_file(options), None
    if content.ours and not from_file:
        with naming(Path(args.source)):
            own = checkpoint.parse_config(content.ours["config"])
    elif not from_file:
        options = ["--config=configs/default.py", *options]
    config = parse_config(options, own)
    config.unlock()
    if not content.ours:  # the released networks are of this kind, whatever a config says
        config.encoder.direction, config.encoder.pooling = "forward", "last"
    with naming(Path(args.source), "has a config that is none"):
        config.data.dir = config.data.dir or ""  # text, so that a command line may replace it
    return config, from_file


def set_released(config: ConfigDict, sizes: torch_names.Sizes) -> None:
    """Weights of the losses that such a model was released with, and no more than its queue holds."""
    config.halp.mu = 2.0 if sizes.num_prototypes else 0.0
    config.cmd.nu = 1.0 if len(sizes.endings) > 1 else 0.0
    config.halp.queue_entries = min(config.halp.queue_entries, sizes.queue_size)
    config.cmd.topk = min(config.cmd.topk, sizes.queue_size)


def choose_streams(
    named: str | None, config: ConfigDict, sizes: torch_names.Sizes
) -> tuple[torch_names.Sizes, tuple[str, ...]]:
    """The names of the file's streams, in the config's order where it has the same ones."""
    own = tuple(config.streams)
    if len(sizes.endings) == 1:
        return sizes, (named,) if named else own if len(own) == 1 else ("joint",)
    if named:
        raise UserError(f"it has {len(sizes.endings)} encoders; leave out --stream")
    found = tuple(s for s, ending in torch_names.ENDINGS.items() if ending in sizes.endings)
    streams = own if set(own) == set(found) else found
    return sizes._replace(endings=tuple(torch_names.ENDINGS[s] for s in streams)), streams


def describe(content: Content, config: ConfigDict, momentum: str) -> dict[str, Any]:
    """What is noted beside the state: steps an epoch, and what the released layout alone knows."""
    tracked = {n: int(a) for n, a in content.arrays.items() if n.endswith(torch_names.TRACKED)}
    known = {"num_batches_tracked": tracked, "momentum": momentum, "epoch": content.epoch or 0}
    known["prototypes"] = any(name.startswith("prototypes") for name in content.arrays)
    info: dict[str, Any] = {"released": known, "normalize": "released"}
    step = next(iter(tracked.values()))
    if content.epoch and step and step % content.epoch == 0:
        info["steps_per_epoch"] = step // content.epoch
    if config.data.dir:
        dataset = datasets.open_dataset(config.data.dir)
        own = normalization.of_dataset(dataset.metadata)
        if not normalization.agree(own, "released"):
            raise UserError(
                f"{config.data.dir} is normalised by {own}, but the file is of the released code: give "
                "a data set prepared with --normalize=released, or leave out --config.data.dir"
            )
        clips = len(dataset.indices(config.data.split, "train"))
        steps = clips // config.train.batch_size
        if info.get("steps_per_epoch") != steps:
            raise UserError(
                f"it has {info.get('steps_per_epoch', 'no whole number of')} steps an epoch, but "
                f"{config.data.dir}, split {config.data.split} has {steps}: give the data set and "
                "batch size of its training, or leave out --config.data.dir"
            )
        info["clips"] = clips
    return info


def export_file(args: argparse.Namespace, options: list[str]) -> str:
    """Writes a checkpoint of a run to a file; returns what to tell the user."""
    path = Path(args.to).expanduser()
    if options:
        raise UserError(f"unknown argument {options[0]!r}: a checkpoint is written as it is")
    if path.exists():
        raise UserError(f"{path} exists; choose another file")
    config = checkpoint.load_config(args.workdir)
    encoder = config.encoder
    is_stgcn = encoder.name == "stgcn" and config.method in ("aimclr", "crossclr")
    if not is_stgcn and (config.method, encoder.name) != ("moco", "bigru"):
        raise UserError(
            f"runs of {config.method} with the encoder {encoder.name} have no released form"
        )
    if not is_stgcn and path.suffix != torch_files.SAFETENSORS:
        if (encoder.direction, encoder.pooling) != ("forward", "last"):
            raise UserError(
                f"the released code has no encoder of direction {encoder.direction} and pooling "
                f"{encoder.pooling}: write --to=FILE{torch_files.SAFETENSORS}"
            )
    state, step = checkpoint.restore_state(args.workdir, args.step)
    info = checkpoint.load_info(args.workdir, step)
    if is_stgcn:
        layout = restore_layout(info["layout"])
        content = Content(torch_stgcn.from_state(state, config, layout), bare=True)
    else:
        content = make_content(state, step, config, info)
    torch_files.write_file(path, content)
    size = path.stat().st_size / 2**20
    return f"{path}: {len(content.arrays)} arrays, step {step}, {size:.1f} MiB"


def make_content(state: Any, step: int, config: ConfigDict, info: dict[str, Any]) -> Content:
    """The file of a run of MoCo, HaLP or CMD: the released layout, and what it has no place for."""
    info.pop("checksums", None)
    known = info.get("released", {})
    steps = config.train.epoch_steps or info.get("steps_per_epoch", 0)
    has_prototypes = bool(config.halp.mu or state.extra["prototypes"].any())
    arrays, momentum = torch_state.from_state(
        state,
        tuple(config.streams),
        with_prototypes=known.get("prototypes", has_prototypes),
        tracked=known.get("num_batches_tracked"),
    )
    _, schedules = moco.make_optimizer(config, steps)
    rate = schedules["learning_rate"](step) if steps else config.optim.learning_rate
    optimizer = torch_state.make_optimizer_dict(arrays, momentum, config, float(f"{rate:.6g}"))
    epoch = known.get("epoch", step // steps if steps else 0)
    run = {"version": 1, "step": step, "pushed": state.extra["queue"].pushed.tolist(), "info": info}
    return Content(arrays, optimizer, epoch, {"config": config.to_json(), "run": json.dumps(run)})


def convert(argv: Sequence[str]) -> None:
    """Reads a file or writes one."""
    args, options = parse_args(argv)
    print((import_file if args.source else export_file)(args, options))


def main(argv: Sequence[str] | None = None) -> int:
    return run_command("convert", convert, argv)


if __name__ == "__main__":
    sys.exit(main())
