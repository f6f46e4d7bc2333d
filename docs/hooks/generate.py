"""Pages made from the sources: API, commands, settings, notebooks. Markdown out, no MkDocs in here."""

import ast
import io
import json
import os
import re
import subprocess
import sys
import textwrap
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "halp_jax"
# One process asks all commands, each run as `python -m` would: jax is imported once.
ASK = """
import contextlib, io, json, runpy, sys
answers = {}
for name in sys.argv[1:]:
    sys.argv, said = [f"halp_jax/{name}.py", "--help"], io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            runpy.run_module(f"halp_jax.{name}", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            assert not end.code, name
    answers[name] = said.getvalue()
print(json.dumps(answers))
"""
# What a line of a notebook drew, where the picture is at hand; the build runs no notebook.
PICTURES = {
    "plots.plot_walk(run, path)": "inspect_walk.png",
    "plots3d.plot_scene(plots3d.project_sphere(": "inspect_sphere.png",
    "plots.plot_keep_along(along)": "inspect_keep_class.png",
}


def find_modules() -> dict[str, Path]:
    """Every public module of the package, by its dotted name; packages come before what is in them."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            found[".".join(parts)] = path
    return dict(sorted(found.items()))


def page_of(module: str) -> str:
    """Where a module's page lies in the site."""
    if is_package(module):
        inner = module.split(".")[1:]
        return "/".join(["api", *inner, "index.md"])
    return "/".join(["api", *module.split(".")[1:]]) + ".md"


def is_package(module: str) -> bool:
    return (ROOT / module.replace(".", "/")).is_dir()


def first_line(path: Path) -> str:
    """What a module is: the first words of its docstring, of a package else the guide's."""
    text = _docstring(path) or describe_package(path.parent.name)
    line = " ".join(text.split("\n\n")[0].split())
    return line.replace("*", "\\*").replace("|", "\\|").replace("<", "&lt;")


def describe_package(name: str) -> str:
    """The line of the guide's architecture about a package of halp_jax, "" where there is none."""
    guide = (ROOT / "GUIDE.md").read_text()
    match = re.search(rf"^halp_jax/{name} {{2,}}(.+)$", guide, re.MULTILINE)
    return match[1][:1].upper() + match[1][1:] + "." if match else ""


def make_api() -> dict[str, str]:
    """A page for each module, and for each package one that lists its modules."""
    modules = find_modules()
    pages = {}
    for name, path in modules.items():
        text = f"::: {name}\n"
        if is_package(name):
            text += "    options:\n      members: false\n\n"
            text += "" if _docstring(path) else first_line(path) + "\n\n"
            text += _list_modules(name, modules)
        pages[page_of(name)] = text
    return pages


def _list_modules(package: str, modules: dict[str, Path]) -> str:
    here = Path(page_of(package)).parent
    lines = ["| module | what |", "|---|---|"]
    for name, path in modules.items():
        if name.rpartition(".")[0] == package:
            link = Path(os.path.relpath(page_of(name), here)).as_posix()
            lines.append(f"| [`{name}`]({link}) | {first_line(path)} |")
    return "\n".join(lines) + "\n"


def make_api_nav() -> list:
    """Packages as sections, each with its own page first."""

    def section(package):
        items = [page_of(package)]
        for name in modules:
            if name.rpartition(".")[0] == package:
                short = name.rpartition(".")[2]
                items.append({short: section(name) if is_package(name) else page_of(name)})
        return sorted(items, key=lambda item: isinstance(item, dict) and not _is_section(item))

    modules = find_modules()
    return section("halp_jax")


def _is_section(item: dict) -> bool:
    return isinstance(next(iter(item.values())), list)


def find_commands() -> dict[str, Path]:
    """The modules of the package that `python -m` runs, with the file of each."""
    found = {path.stem: path for path in PACKAGE.glob("*.py")}
    found |= {path.parent.name: path for path in PACKAGE.glob("*/__main__.py")}
    runs = {n: p for n, p in found.items() if 'if __name__ == "__main__"' in p.read_text()}
    return dict(sorted(runs.items()))


def make_commands() -> str:
    """What each command says of itself: its docstring and its --help."""
    parts = [
        "# Commands",
        "An error is one line that says what is wrong, where, and what to do; the exit status is then 1.",
    ]
    commands = find_commands()
    for name, said in ask_for_help(commands).items():
        about = _docstring(commands[name])
        options = said.replace(about.strip() + "\n\n", "")
        parts += [
            f"## {name}",
            _escape_prose(about),
            f'??? abstract "python -m halp_jax.{name} --help"',
            textwrap.indent(f"```text\n{options}```", "    "),
        ]
    return "\n\n".join(parts) + "\n"


def ask_for_help(names: list[str]) -> dict[str, str]:
    """What each command prints for --help, at a fixed width. All end with status 0."""
    environment = os.environ | {"COLUMNS": "88", "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", ASK, *names], capture_output=True, text=True, cwd=ROOT,
        env=environment, check=True, timeout=300,
    )  # fmt: skip
    answers = json.loads(result.stdout.splitlines()[-1].replace(f"{ROOT}/", ""))
    return {name: text.rstrip() + "\n" for name, text in answers.items()}


def _escape_prose(text: str) -> str:
    """Plain text to Markdown: blocks of four spaces are code, the rest is no markup."""
    lines = text.splitlines()
    return "\n".join(
        line if line.startswith("    ") else line.replace("*", "\\*").replace("<", "&lt;")
        for line in lines
    )


# Files with sections of a config besides configs/default.py.
METHODS = [ROOT / "halp_jax" / "methods" / f"{name}.py" for name in ("keys", "halp", "cmd")]
OTHERS = [  # sections that only the configs of other methods have
    ROOT / "halp_jax" / "methods" / f"{name}.py"
    for name in (
        "normal_view",
        "aimclr",
        "crossclr",
        "whole_view",
        "optim",
        "predict",
        "ms2l",
        "isc",
        "ascal",
        "ascal_view",
        "gltransformer",
        "relative_view",
    )  # fmt: skip
]


def read_settings(path: Path) -> list[tuple[str, str, str]]:
    """(field, value, comment) of each assignment to a config, in order; value "" opens a section.

    Of a config's `get_config`, or of a method's `default_config`, whose sections are local names.
    """
    source = path.read_text()
    functions = ("get_config", "default_config", "adam_config")
    function = next(n for n in ast.parse(source).body if getattr(n, "name", "") in functions)
    behind, above = _read_comments(source)
    names, found = {"config": ""}, []
    defaults = function.args.defaults
    given = dict(zip((a.arg for a in function.args.args[-len(defaults) :]), defaults, strict=False))
    for node in function.body:
        if not isinstance(node, ast.Assign):
            continue
        field = value = None
        for target in node.targets:
            if isinstance(target, ast.Attribute) and target.value.id in names:
                field = f"{names[target.value.id]}.{target.attr}".lstrip(".")
        section = "ConfigDict" in ast.unparse(node.value)
        if function.name != "get_config" and section:
            field = node.targets[0].id
        if field is None:
            continue
        for target in node.targets:
            if isinstance(target, ast.Name):
                names[target.id] = field
        if not section:
            name = getattr(node.value, "id", "")  # an argument's default stands for it
            value = _show(given.get(name, node.value))
        elif node.value.args:  # a section with fields of its own
            value = ast.unparse(node.value.args[0])
        lines = range(node.lineno, node.end_lineno + 1)
        words = [above.get(node.lineno, "")] + [behind[n] for n in lines if n in behind]
        found.append((field, value or "", " ".join(filter(None, words))))
    return found


def _show(value: ast.expr) -> str:
    text = ast.unparse(value).replace("'", '"')
    match = re.fullmatch(r"config_dict\.placeholder\((\w+)\)", text)
    return f"({match[1]}, to be given)" if match else text


def _read_comments(source: str) -> tuple[dict[int, str], dict[int, str]]:
    """Comments behind code, by line; and those on lines of their own, by the line of code below."""
    behind, above, waiting = {}, {}, []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        number, column = token.start
        if token.type == tokenize.COMMENT:
            words = token.string.lstrip("# ")
            if token.line[:column].strip():
                behind[number] = words
            else:
                waiting.append(words)
        elif token.type == tokenize.NAME and waiting:
            above[number] = " ".join(waiting)
            waiting = []
    return behind, above


def make_settings() -> str:
    """Every field of a config with its comment, and what the other configs are."""
    default = ROOT / "configs" / "default.py"
    parts = ["# Settings", _escape_prose(_docstring(default))]
    rows = ["## The run itself", ""]
    table = "| field | default | what |\n|---|---|---|"
    rows.append(table)
    settings = [row for path in (default, *METHODS, *OTHERS) for row in read_settings(path)]
    for field, value, comment in settings:
        comment = comment.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
        if value:
            rows.append(f"| `{field}` | `{value}` | {comment} |")
        else:
            rows += ["", f"## {field}", "", (comment[:1].upper() + comment[1:] + "\n"), table]
    parts.append("\n".join(rows))
    parts.append("## The configs\n\nEach starts from the default and changes what its file says.")
    for path in sorted((ROOT / "configs").glob("*.py")):
        if path != default:
            parts += [
                f"### configs/{path.name}",
                _escape_prose(_docstring(path)),
                f'??? quote "{path.name}"',
                textwrap.indent(f"```python\n{path.read_text()}```", "    "),
            ]
    return "\n\n".join(parts) + "\n"


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def find_notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("[0-9]*.py"))


def make_notebook(path: Path) -> str:
    """A notebook's cells (jupytext's percent format): words, code, and the pictures there are."""
    body = path.read_text().split("\n# ---\n", 1)[1]
    parts = []
    for cell in re.split(r"^# %%", body, flags=re.MULTILINE)[1:]:
        kind, _, text = cell.partition("\n")
        if "[markdown]" in kind:
            words = [re.sub(r"^# ?", "", line) for line in text.strip().splitlines()]
            parts.append("\n".join(words))
            if len(parts) == 1:
                parts.append(
                    f'!!! note ""\n    `notebooks/{path.stem}.ipynb`. To open it: '
                    "`pip install -e '.[notebooks]' jupyterlab`, then `jupyter lab notebooks`; what is shown "
                    "here has not been run anew."
                )
            continue
        code = text.replace("# %matplotlib inline\n", "").strip()
        parts.append(f"```python\n{code}\n```")
        for line, picture in PICTURES.items():
            if line in code:
                parts.append(f"![What such a cell draws](../{picture})")
                parts.append("*(Of another run: see the [gallery](../gallery.md).)*")
    return "\n\n".join(parts) + "\n"


def title_of(path: Path) -> str:
    return re.search(r"^# # (.+)$", path.read_text(), re.MULTILINE)[1]


def make_notebooks() -> dict[str, str]:
    lines = [
        "# Notebooks",
        "",
        "They call `halp_jax.inspect`, start from a run on synthetic data that they train themselves "
        "(two minutes the first time), and lie in `notebooks/` as `.ipynb` and as plain Python.",
        "",
    ]
    pages = {}
    for path in find_notebooks():
        pages[f"notebooks/{path.stem}.md"] = make_notebook(path)
        lines.append(f"- [{title_of(path)}]({path.stem}.md)")
    pages["notebooks/index.md"] = "\n".join(lines) + "\n"
    return pages
