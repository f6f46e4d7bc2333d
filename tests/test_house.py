"""The rules of the house: which way imports run, who may import what, and what the guide shows."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import halp_jax
from halp_jax.core.sphere import normalize

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "halp_jax"
# A room may import rooms of a lower floor and itself; commands may import anything.
FLOORS = {"core": 0, "encoders": 1, "skeletons": 1, "datasets": 2, "methods": 2}
FLOORS |= {"training": 3, "evaluation": 4, "inspect": 5}
SHARED = {"errors", "progress"}  # leaves that any room may use; they import nothing of ours


def imports(path):
    """The absolute names a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            if node.module == "halp_jax":
                yield from (f"halp_jax.{alias.name}" for alias in node.names)
            else:
                yield node.module


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downward(path):
    room = path.relative_to(PACKAGE).parts[0] if path.stem != "__main__" else "commands"
    for name in imports(path):
        first, *rest = name.split(".")
        if first in ("tensorflow", "tensorflow_datasets"):
            assert path.relative_to(PACKAGE).as_posix() in (
                "datasets/builder.py", "datasets/pipeline.py",
            ), f"{path} imports {name}"  # fmt: skip
        if room == "core":
            known = {"jax", "jaxtyping", "halp_jax"} | set(sys.stdlib_module_names)
            assert first in known, f"core imports {name}"
        if first == "halp_jax" and rest and room in FLOORS and rest[0] not in SHARED:
            below = FLOORS.get(rest[0])
            assert below is not None, f"{path} imports the command {name}"
            assert below < FLOORS[room] or rest[0] == room, f"{path} imports {name}"
        if path.stem in SHARED:
            assert first != "halp_jax"


WORDS = r"queue|prototype|momentum|halp|moco|cmd|gru|hallucinat|\bmu\b|\bnu\b"  # of methods


@pytest.mark.parametrize("path", sorted((PACKAGE / "training").glob("*.py")), ids=lambda p: p.name)
def test_training_knows_no_word_of_a_method(path):
    text = re.sub(r"halp_jax", "", path.read_text())
    assert re.findall(WORDS, text, re.IGNORECASE) == []


@pytest.mark.parametrize("name", sorted(p.stem for p in (PACKAGE / "methods").glob("*.py")))
def test_a_method_does_not_branch_on_the_settings_of_another(name):
    others = "|".join({"halp", "cmd", "moco"} - {name})
    tree = ast.parse((PACKAGE / "methods" / f"{name}.py").read_text())
    tests = [ast.unparse(n.test) for n in ast.walk(tree) if isinstance(n, ast.If | ast.IfExp)]
    assert [test for test in tests if re.search(rf"config\.({others})\b", test)] == []


def test_the_step_needs_no_tensorflow():
    program = (
        "import sys, halp_jax.methods.moco, halp_jax.evaluation.knn, halp_jax.training.loop\n"
        "assert not any(m.split('.')[0] == 'tensorflow' for m in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr


def test_the_lines_of_the_guide_add_halp_to_a_learner():
    guide = (ROOT / "GUIDE.md").read_text()
    section = guide.split("## Add HaLP to your own learner")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 6  # import and five lines

    def total(weights):
        queries = normalize(inputs @ weights)
        given = {
            "rngs": jax.random.split(jax.random.key(0)), "keys": keys, "queries": queries, "mu": 1.0, "loss": 0.0,
            "queue": halp_jax.create_queue(jax.random.key(1), 256, 16),
        }  # fmt: skip
        exec(code, given)
        figures.update(given["figures"])
        return given["loss"]

    figures = {}
    inputs = jax.random.normal(jax.random.key(2), (32, 8))
    keys = normalize(inputs @ jax.random.normal(jax.random.key(3), (8, 16)))
    weights = jax.random.normal(jax.random.key(4), (8, 16))
    value_and_grad = jax.jit(jax.value_and_grad(total))
    with jax.debug_key_reuse(True):
        loss, gradient = value_and_grad(weights)
    assert float(jnp.linalg.norm(gradient)) > 0
    stepped, _ = value_and_grad(weights - 0.01 * gradient)
    assert float(stepped) < float(loss)


def test_the_readme_is_a_page():
    assert len((ROOT / "README.md").read_text().split()) < 900


def test_requirements_are_pinned_exactly():
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text().splitlines():
            if line and line[0] not in "#-":
                assert re.fullmatch(r"[\w.-]+==[\w.]+( ; sys_platform != 'darwin')?", line), (
                    f"{name}: {line}"
                )
    direct = (ROOT / "requirements.txt").read_text() + (ROOT / "requirements-dev.txt").read_text()
    pinned = (ROOT / "constraints.txt").read_text()
    for requirement in re.findall(r"^[\w.-]+==[\w.]+.*", direct, re.MULTILINE):
        assert requirement in pinned.splitlines(), f"constraints.txt pins another {requirement}"
