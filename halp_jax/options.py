"""The options of the commands that belong to a config: --config=FILE[:VARIANT], --config.x.y=value."""

import ml_collections
from absl import flags
from ml_collections import config_flags

from halp_jax.errors import UserError


def names_config_file(options: list[str]) -> bool:
    return any(option.split("=")[0] == "--config" for option in options)


def parse_config(
    options: list[str], default: ml_collections.ConfigDict | None = None
) -> ml_collections.ConfigDict:
    """The config that these options say: of a file, or `default` where none is named, with changes.

    Raises:
        UserError: an unknown field, a value of another type, a file that cannot be read, or an
            argument that is no option of a config.
    """
    values = flags.FlagValues()
    about = "Config file, e.g. configs/halp.py:ntu60_xsub; override with --config.x=y"
    arguments = ["halp_jax", *options]
    common = {"flag_values": values, "sys_argv": arguments, "lock_config": True}
    try:
        if names_config_file(options):
            holder = config_flags.DEFINE_config_file("config", None, about, **common)
        elif default is not None:
            holder = config_flags.DEFINE_config_dict("config", default, about, **common)
        else:
            raise UserError("--config is missing: give --config=FILE[:VARIANT]")
        unknown = values(arguments)[1:]
        config = holder.value.copy_and_resolve_references()
        config.lock()  # a file that could not be read fails only when it is used
    except UserError:
        raise
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        text = str(error).replace("\\n", " ").split("Error: ")[-1]  # without a config's traceback
        reason = " ".join(text.split())
        raise UserError(f"bad option: {reason} (configs/default.py has all settings)") from error
    if unknown:
        raise UserError(f"unknown argument {unknown[0]!r}: write --config.section.field=value")
    return config
