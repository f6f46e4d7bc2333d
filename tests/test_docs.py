"""The docs site: what its pages name exists, every module has a page, and it builds without a warning."""

import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import ml_collections
import pytest

import halp_jax

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
HOOKS = DOCS / "hooks"
HAS_MKDOCS = all(
    importlib.util.find_spec(name) for name in ("latex2mathml", "material", "mkdocstrings")
)


def load_hook(name):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", HOOKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load_hook("generate")


def test_every_page_of_the_nav_exists():
    nav = (ROOT / "mkdocs.yml").read_text().split("\nnav:")[1].split("\nvalidation:")[0]
    pages = re.findall(r"\S+\.md", nav)
    assert len(pages) > 5
    made = {"commands.md", "settings.md"} | {
        "guide.md", "results.md", "performance.md", "reliability.md", "launch.md",
    }  # fmt: skip
    assert [page for page in pages if not (DOCS / page).exists() and page not in made] == []
    assert {path.name for path in DOCS.glob("*.md")} <= set(pages)


def test_each_equation_stands_beside_a_function():
    text = (DOCS / "method.md").read_text()
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    assert len(sections) > 12
    numbers = [int(section.split(" ")[0]) for section in sections]
    assert numbers == list(range(1, len(sections) + 1))
    for section in sections:
        names = re.findall(r"<!-- code: (\S+) -->", section)
        assert "$$" in section and names, section.splitlines()[0]
        for name in names:
            module, _, function = name.rpartition(".")
            assert getattr(importlib.import_module(module), function).__doc__, name


def test_every_public_module_has_a_page():
    walked = {m.name for m in pkgutil.walk_packages(halp_jax.__path__, "halp_jax.")} | {"halp_jax"}
    public = {n for n in walked if not any(part.startswith("_") for part in n.split("."))}
    pages = generate.make_api()
    assert {name for name in public if f"::: {name}\n" in pages[generate.page_of(name)]} == public

    def leaves(items):
        for item in items:
            inner = item if isinstance(item, str) else next(iter(item.values()))
            yield from [inner] if isinstance(inner, str) else leaves(inner)

    assert sorted(leaves(generate.make_api_nav())) == sorted(pages)


def test_every_picture_is_in_the_gallery():
    gallery = (DOCS / "gallery.md").read_text()
    shown = set(re.findall(r"!\[[^\]]+\]\((\S+\.png)\)", gallery))
    assert shown == {path.name for path in DOCS.glob("*.png")}


def test_settings_are_those_of_the_config():
    path = ROOT / "configs" / "default.py"
    spec = importlib.util.spec_from_file_location("default", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def fields(config, before=""):
        for name, value in config.items():
            if isinstance(value, ml_collections.ConfigDict) and before != "linear.":
                yield f"{before}{name}"
                yield from fields(value, f"{before}{name}.")
            else:
                yield f"{before}{name}"

    found = [row for each in (path, *generate.METHODS) for row in generate.read_settings(each)]
    assert sorted(name for name, _, _ in found) == sorted(fields(module.get_config()))
    assert all(map(generate.read_settings, generate.OTHERS))  # of other methods
    table = {name: (value, comment) for name, value, comment in found}
    assert table["halp.num_positives"] == ("100", "G, a sample")
    assert table["train.precision"][1].startswith("Of the matrix products of encoders")
    assert table["data.dir"][0] == "(str, to be given)"


def test_commands_and_notebooks_are_found():
    commands = generate.find_commands()
    assert {"train", "evaluate", "inspect", "prepare", "table"} <= set(commands)
    for name, said in generate.ask_for_help(commands).items():
        assert said.startswith(f"usage: halp_jax.{name}")
    pages = generate.make_notebooks()
    assert len(pages) == 1 + len(list((ROOT / "notebooks").glob("[0-9]*.ipynb")))
    text = pages["notebooks/02_inspect_positives.md"]
    assert text.startswith("# What is a hallucinated positive?")
    assert "```python\nimport ipywidgets" in text and "inspect_walk.png" in text


@pytest.mark.skipif(not HAS_MKDOCS, reason="pip install -r requirements-docs.txt")
def test_docstrings_become_markdown():
    to_markdown = load_hook("shapes").to_markdown
    text = "A sum.\n\nArgs:\n  queries, keys: of\n    t*.\n  topk: at most\n    size."
    lines = to_markdown(text).splitlines()
    assert lines[3:] == [
        "  queries: of t\\*.", "  keys: of t\\*.", "  topk: at most", "    size.",
    ]  # fmt: skip
    free = to_markdown("A sum.\n\nkey: a key,\n  or many.\nAnd more.", ("key",))
    assert free.splitlines()[-2:] == ["Args:", "  key: a key, or many."]
    assert "And more." in free
    assert to_markdown("Run it:\n\n    a * b") == "Run it:\n\n    a * b"
    assert to_markdown("Two:\n  a* x\n  b  y\nEnd.") == "Two:\n\n      a* x\n      b  y\nEnd."


@pytest.mark.skipif(not HAS_MKDOCS, reason="pip install -r requirements-docs.txt")
def test_links_of_included_files_lead_somewhere():
    sys.path.insert(0, str(HOOKS))
    try:
        pages = load_hook("pages")
    finally:
        sys.path.remove(str(HOOKS))

    def moved(text, source="README.md", page="guide.md"):
        return pages.LINK.sub(lambda m: pages.move_link(m, source, page), text)

    assert moved("[RESULTS.md](RESULTS.md)") == "[RESULTS.md](results.md)"
    assert moved("![x](docs/clips.png)", page="notebooks/a.md") == "![x](../clips.png)"
    link = "[`core/hallucinate.py`](halp_jax/core/hallucinate.py)"
    assert moved(link) == "[`core/hallucinate.py`](api/core/hallucinate.md)"
    if not pages.read_repository():
        assert moved("[`LICENSE`](LICENSE)") == "`LICENSE`"
        assert moved("[terms](../LICENSE)", source="launch/README.md") == "terms (`LICENSE`)"
    assert "mfrac" in pages.make_mathml("div", "\\[\\frac{a}{b}\\]", "x.md")


@pytest.mark.long
@pytest.mark.skipif(not HAS_MKDOCS, reason="pip install -r requirements-docs.txt")
def test_the_site_builds_without_a_warning(tmp_path):
    """About 25 s. A broken link, an unresolved reference or an equation not understood fails it."""
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    method = (tmp_path / "method.html").read_text()
    assert method.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">') > 25
    assert "halp_jax.core.sphere.tie_angle" in method and "arithmatex" not in method
    linked = {  # nothing is fetched from elsewhere to show a page
        url
        for path in tmp_path.rglob("*.html")
        for url in re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]+)"', path.read_text())
    }  # fmt: skip
    assert linked == set()


def test_the_tables_of_systems_are_those_of_their_record():
    command = [sys.executable, "benchmarks/systems.py", "--report"]
    report = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = [line for line in report.splitlines() if line.startswith("|")]
    _, section = (
        (ROOT / "RESULTS.md").read_text().split("## The paper's systems on the same clips\n")
    )
    section, _ = section.split("\n## ", 1)
    assert len(rows) > 30 and rows == [each for each in section.splitlines() if each[:1] == "|"]
