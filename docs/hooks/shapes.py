"""How the house writes docstrings and shapes, told to Griffe, which reads them for the API pages.

Shapes stay as written (`Float[Array, "batch dim"]`: a string there is no forward reference), the
comment behind a field becomes its description, and docstrings, which are plain text, become Markdown.
"""

import ast
import linecache
import re

from griffe import Docstring, Extension, get_expression

SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")
ITEM = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): (.*)")


def to_markdown(text: str, parameters: tuple[str, ...] = ()) -> str:
    """A docstring as Google-style Markdown: `queries, keys: ...` as two items, t* without emphasis.

    Indented blocks stay code, and a list that hangs on a line with a colon becomes code as well: it
    is set in columns. `parameters` described outside a section are put in one.
    """
    lines, found, section, hanging = [], [], "", False
    previous = ""
    for line in _spread_names(text.splitlines()):
        match = ITEM.match(line.strip())
        indent = _indent(line)
        if line.strip() and not indent:
            section = line if SECTION.match(line) else ""
            hanging = False
        if section and indent:
            lines.append(_escape(line))
        elif match and not indent and set(match[1].split(", ")) <= set(parameters):
            found.append([match[1].split(", "), [match[2]]])
        elif found and indent and previous == "item":
            found[-1][1].append(line.strip())
        else:
            last = lines[-1] if lines else ""
            if indent and not hanging and last.endswith(":") and not last.startswith(" "):
                lines.append("")
                hanging = True
            if hanging and match:  # "Args (of __call__):" and the like
                line = f"- {match[1]}: {match[2]}"
                lines.append(_escape(line))
                continue
            code = hanging or (indent >= 4 and (not last.strip() or last.startswith("    ")))
            lines.append("    " * hanging + line if code else _escape(line))
            previous = "" if line.strip() else previous
            continue
        previous = "item" if found and not section else ""
    if found and "Args:" not in lines:
        lines += ["", "Args:"]
        for names, words in found:
            lines += [f"  {name}: {_escape(' '.join(words))}" for name in names]
    return "\n".join(lines)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _spread_names(lines: list[str]) -> list[str]:
    """In sections `queries, keys: ...`, whatever its length, as an item for each name."""
    out, depth, number = [], None, 0
    while number < len(lines):
        line = lines[number]
        number += 1
        indent = _indent(line)
        if line.strip() and not indent:
            depth = 0 if SECTION.match(line) else None
        elif indent and depth is not None:
            depth = depth or indent  # that of the first item
        match = ITEM.match(line.strip())
        if not (match and depth and indent == depth and ", " in match[1]):
            out.append(line)
            continue
        words = [match[2]]
        while number < len(lines) and _indent(lines[number]) > depth:
            words.append(lines[number].strip())
            number += 1
        out += [f"{' ' * indent}{name}: {' '.join(words)}" for name in match[1].split(", ")]
    return out


def _escape(line: str) -> str:
    """Without emphasis and HTML, but for what stands between backticks."""
    parts = line.split("`")
    parts[::2] = [part.replace("*", "\\*").replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


class Shapes(Extension):
    """See the module."""

    def on_instance(self, *, node, obj, agent, **_):
        if obj.docstring:
            names = tuple(p.name for p in obj.parameters) if obj.is_function else ()
            obj.docstring.value = to_markdown(obj.docstring.value, names)

    def on_function_instance(self, *, node, func, agent, **_):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        a = node.args
        for arg in (*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg):
            if arg is not None and arg.annotation is not None:
                func.parameters[arg.arg].annotation = self._as_written(arg.annotation, func)
        if node.returns is not None:
            func.returns = self._as_written(node.returns, func)

    def on_attribute_instance(self, *, node, attr, agent, **_):
        if not isinstance(node, ast.AnnAssign | ast.Assign):
            return
        if isinstance(node, ast.AnnAssign):
            attr.annotation = self._as_written(node.annotation, attr)
        line = linecache.getline(str(attr.filepath), node.end_lineno)
        behind = line.encode()[node.end_col_offset :].decode()
        comment = re.match(r"\s*#\s*(?!fmt:|noqa|type:)(.+)", behind)
        if comment and not attr.docstring:
            attr.docstring = Docstring(
                to_markdown(comment[1].strip()), parent=attr, lineno=node.lineno
            )

    @staticmethod
    def _as_written(node, obj):
        return get_expression(node, parent=obj.parent, parse_strings=False)
