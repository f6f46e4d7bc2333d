"""What MkDocs calls while it builds the site: pages made from sources, files included, links, maths.

<!-- include: README.md -->                           a whole file of the repository
<!-- include: README.md from "## A" to "## B" -->     from one heading up to another
<!-- code: halp_jax.core.sphere.angle -->             a function: signature, docstring, source
"""

import html
import os
import re
import tomllib
from pathlib import Path

import generate
from generate import ROOT
from latex2mathml.converter import convert
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File

log = get_plugin_logger("halp_jax")  # what it warns of fails a strict build
# Files of the repository that are pages of the site.
PAGES = {
    "README.md": "index.md", "GUIDE.md": "guide.md", "RESULTS.md": "results.md",
    "PERFORMANCE.md": "performance.md",
    "RELIABILITY.md": "reliability.md", "launch": "launch.md", "launch/README.md": "launch.md",
    "configs": "settings.md", "configs/default.py": "settings.md",
    "notebooks": "notebooks/index.md",
}  # fmt: skip
INCLUDED = {  # and these are nothing else
    "guide.md": '# Guide\n\n<!-- include: GUIDE.md from "## What it runs on" -->\n',
    **{PAGES[name]: f"<!-- include: {name} -->\n" for name in (
        "RESULTS.md", "PERFORMANCE.md", "RELIABILITY.md", "launch/README.md",
    )},
}  # fmt: skip
INCLUDE = re.compile(r'<!-- include: (\S+)(?: from "([^"]+)")?(?: to "([^"]+)")? -->')
CODE = re.compile(r"<!-- code: (\S+) -->")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
MATHS = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)
FUNCTION = """::: {name}
    options:
      heading_level: 4
      line_length: 56
      members: false
      show_root_toc_entry: false
      skip_local_inventory: true
"""


def on_config(config):
    notebooks = [
        {generate.title_of(p): f"notebooks/{p.stem}.md"} for p in generate.find_notebooks()
    ]
    filled = {"API": generate.make_api_nav(), "Notebooks": ["notebooks/index.md", *notebooks]}
    config.nav = [{k: filled.get(k, v) for k, v in item.items()} for item in config.nav]
    config.watch += [str(ROOT / name) for name in ("halp_jax", "configs", "notebooks", "README.md")]
    return config


def on_files(files, config):
    made = generate.make_api() | generate.make_notebooks()
    made |= {"commands.md": generate.make_commands(), "settings.md": generate.make_settings()}
    made |= INCLUDED
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    here = page.file.src_uri
    markdown = LINK.sub(lambda m: leave_docs(m, here), markdown)
    markdown = INCLUDE.sub(lambda m: include(m, here), markdown)
    return CODE.sub(lambda m: FUNCTION.format(name=m[1]), markdown)


def on_page_content(content, page, config, files):
    return MATHS.sub(lambda m: make_mathml(m[1], m[2], page.file.src_uri), content)


def include(match: re.Match, page: str) -> str:
    """The text that the comment names, with its links as they must be on this page."""
    name, start, end = match.groups()
    text = (ROOT / name).read_text()
    for heading in (start, end):
        if heading and f"\n{heading}\n" not in text:
            log.warning("%s includes %s, which has no heading %r", page, name, heading)
            return ""
    if start:
        text = text[text.index(f"\n{start}\n") + 1 :]
    if end:
        text = text[: text.index(f"\n{end}\n") + 1]
    fenced = text.split("```")
    fenced[::2] = [LINK.sub(lambda m: move_link(m, name, page), part) for part in fenced[::2]]
    return "```".join(fenced)


def leave_docs(match: re.Match, page: str) -> str:
    """A link of a page in docs/ to a file outside of it, as it must be on the site."""
    source = f"docs/{page}"
    path = os.path.normpath(os.path.join(os.path.dirname(source), match[3]))
    out = match[3].startswith("../") and not path.startswith("docs/")
    return move_link(match, source, page) if out else match[0]


def move_link(match: re.Match, source: str, page: str) -> str:
    """A link of `source` (a file of the repository) as it must be on `page`."""
    image, label, target = match.groups()
    if re.match(r"[a-z]+:|#", target):
        return match[0]
    target, _, anchor = target.partition("#")
    path = os.path.normpath(os.path.join(os.path.dirname(source), target))
    if not (ROOT / path).exists():
        log.warning("%s links to %s, which is no file of the repository", source, target)
        return label
    place = find_page(path)
    if place:
        place = os.path.relpath(place, os.path.dirname(page) or ".")
        label = LINK.sub(lambda m: move_link(m, source, page), label)
        return f"{image}[{label}]({place}{'#' + anchor if anchor else ''})"
    url = read_repository()
    if url:
        return f"[{label}]({url}/blob/main/{path})"
    return label if label.strip("`/") == path else f"{label} (`{path}`)"


def find_page(path: str) -> str | None:
    """The page or picture of the site that a file of the repository is."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return generate.page_of(module) if module in generate.find_modules() else None


def read_repository() -> str:
    """The URL of the repository in pyproject.toml, or "" where there is none."""
    project = tomllib.loads((Path(ROOT) / "pyproject.toml").read_text())["project"]
    urls = {name.lower(): url for name, url in project.get("urls", {}).items()}
    return next(
        (urls[n].rstrip("/") for n in ("repository", "source", "homepage") if n in urls), ""
    )


def make_mathml(tag: str, text: str, page: str) -> str:
    """LaTeX between \\( \\) or \\[ \\] as MathML, which browsers draw without a script."""
    latex = html.unescape(text).strip()[2:-2].strip()
    latex = re.sub(r"\\(sin|cos|log|arctan|tanh)\s+(?=[\w\\])", r"\\\1\\, ", latex)  # else: sinW
    try:
        made = convert(latex, display="block" if tag == "div" else "inline")
    except Exception as error:
        log.warning("%s: %r in the equation %s", page, error, latex)
        return html.escape(latex)
    if "\\" in re.sub(r"<[^>]*>", "", made):
        log.warning("%s: part of the equation was not understood: %s", page, latex)
    return f'<{tag} class="maths">{made}</{tag}>'
