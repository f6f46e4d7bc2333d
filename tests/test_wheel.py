"""What `pip install` brings: the wheel has every config, and commands find them in any folder."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from halp_jax import train
from halp_jax.errors import UserError

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def test_the_wheel_has_the_package_and_every_config(tmp_path):
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("halp_jax", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=ignore)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / done.stdout.splitlines()[-1]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "halp_jax").rglob("*.py")}
    assert names == package | {f"halp_jax/configs/{path.name}" for path in CONFIGS}


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize("name", [path.stem for path in CONFIGS])
def test_configs_are_found_by_name_in_any_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for file in (f"configs/{name}.py", name):
        try:
            _, config = train.parse_args([f"--config={file}", "--workdir=x"])
        except UserError as error:  # it has variants: the last that it names
            variant = re.search(r"\bsmall\b|\w+$", str(error))[0]
            _, config = train.parse_args([f"--config={file}:{variant}", "--workdir=x"])
        assert config.train.epochs > 0
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / f"{name}.py").write_text(
        "def get_config(variant=''):\n    return None\n"
    )
    with pytest.raises(UserError, match="None"):  # a file that is there goes before
        train.parse_args([f"--config=configs/{name}.py", "--workdir=x"])
