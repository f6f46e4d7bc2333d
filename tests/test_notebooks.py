"""The notebooks run from a fresh clone, hold no outputs, and leave the work to the library."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("[0-9]*.py"))
OWN_LEARNER = "04_add_halp_to_your_learner"  # it is about a learner that is not the library's
names = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def read_cells(script):
    """(kind, text) of each cell of the paired notebook, as `jupytext` writes it."""
    return [
        (cell["cell_type"], "".join(cell["source"]))
        for cell in json.loads(script.with_suffix(".ipynb").read_text())["cells"]
    ]


def test_there_are_six():
    assert [script.stem[:2] for script in SCRIPTS] == ["01", "02", "03", "04", "05", "06"]


@names
def test_notebooks_call_and_define_nothing(script):
    tree = ast.parse(script.read_text())
    made = [
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    assert bool(made) == (script.stem == OWN_LEARNER), made
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imported if node.module.startswith("halp_jax")]
    assert ours
    for node in ours:  # what a notebook calls is there
        module = importlib.import_module(node.module)
        for alias in node.names:
            if not hasattr(module, alias.name):
                importlib.import_module(f"{node.module}.{alias.name}")


@names
def test_every_library_call_of_a_notebook_exists(script):
    tree = ast.parse(script.read_text())
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("halp_jax", "halp_jax.inspect"):
            for alias in node.names:
                if not hasattr(importlib.import_module(node.module), alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                modules[alias.name] = getattr(importlib.import_module(node.module), alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in modules:
                assert hasattr(modules[node.value.id], node.attr), f"{node.value.id}.{node.attr}"


@names
def test_pairs_say_the_same_and_hold_no_outputs(script):
    notebook = json.loads(script.with_suffix(".ipynb").read_text())
    for cell in notebook["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
    body = script.read_text().split("\n# ---\n", 1)[1]
    texts = []
    for part in re.split(r"^# %%", body, flags=re.MULTILINE)[1:]:
        head, _, text = part.partition("\n")
        if "[markdown]" in head:
            texts.append(("markdown", re.sub(r"^# ?", "", text.strip(), flags=re.MULTILINE)))
        else:
            texts.append(("code", re.sub(r"^# %(?=\w)", "%", text.strip(), flags=re.MULTILINE)))
    assert texts == read_cells(script), "run: jupytext --to ipynb --update notebooks/0*.py"


@pytest.mark.slow  # minutes: make notebooks
@names
def test_notebooks_run(script):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    resources = {"metadata": {"path": str(FOLDER)}}
    client = nbclient.NotebookClient(notebook, timeout=400, resources=resources)
    # What sliders draw stays with their cell. To keep it in their widget nbclient would write to the
    # socket it waits at, and now and then never see the answer (jupyter/nbclient issue 312).
    client.comm_open_handlers.clear()
    client.execute()
    shown = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {}) or "text/html" in output.get("data", {})
    ]
    assert shown
