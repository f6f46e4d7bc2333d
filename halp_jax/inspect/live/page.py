"""The live page: layout, callbacks, style. Dash serves it, with every script from this machine.

    app = make_app(watcher, spheres, every=5)

What it shows is made in `rows`, `charts` and `sphere`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from halp_jax.errors import import_optional
from halp_jax.inspect.live import charts
from halp_jax.inspect.live.charts import HEADINGS, PANELS
from halp_jax.inspect.live.files import Run, Watcher
from halp_jax.inspect.live.sphere import Spheres

SLOTS = 4  # spheres at a time: a browser draws only so many 3-D scenes
ALL = "all"  # streams together: their mean


def make_app(watcher: Watcher, spheres: Spheres, every: float = 5.0) -> Any:
    """The Dash app, with its callbacks. It answers to names of this machine alone.

    Raises UserError where Dash is not installed.
    """
    otherwise = "; without it, --config.train.tensorboard=True shows a run as it trains"
    extra = f", or this project's extra 'inspect'{otherwise}"
    dash = import_optional("dash", "dash", "the live page", extra)
    app = dash.Dash(
        "halp_jax.watch", title="halp_jax.watch", update_title=None, index_string=SHELL,
        serve_locally=True, assets_folder="/dev/null", enable_mcp=False, add_log_handler=False,
    )  # fmt: skip
    app.server.config["TRUSTED_HOSTS"] = ["127.0.0.1", "localhost"]
    app.layout = lambda: make_layout(watcher, every)  # anew for each visitor
    _connect(app, watcher, spheres)
    return app


def make_layout(watcher: Watcher, every: float) -> Any:
    """What the page holds before the first look."""
    from dash import dcc, html

    def switch(name: str, label: str, options: Iterable[str], value: str) -> Any:
        radio = dcc.RadioItems(list(options), value, id=name, inline=True, className="radio")
        return html.Div([html.Span(label, className="label"), radio], className="switch")

    graph = {"displayModeBar": False, "responsive": True}  # dragging zooms, a double click ends it
    panels = [
        dcc.Graph(id=f"chart-{p.name}", config=graph, className="card", style={"height": 250})
        for p in PANELS
    ]  # fmt: skip
    slots = [
        html.Div(
            [
                html.H3(id=f"sphere-name-{n}"),
                html.P(id=f"sphere-words-{n}", className="words"),
                html.P(id=f"sphere-message-{n}", className="message"),
                dcc.Graph(id=f"sphere-{n}", config=graph),
            ],
            id=f"sphere-card-{n}", className="card", hidden=True,
        )
        for n in range(SLOTS)
    ]  # fmt: skip
    runs = watcher.look()
    streams = [ALL, *dict.fromkeys(stream for run in runs for stream in run.streams)]
    stream = switch("stream", "stream", streams, ALL)
    stream.hidden = all(len(run.streams) < 2 for run in runs)
    return html.Div([
        dcc.Interval(id="tick", interval=round(1000 * every)),
        dcc.Store(id="theme"), dcc.Store(id="seen"), dcc.Store(id="seen-spheres"),
        html.Header([
            html.H1("halp_jax.watch"),
            html.Div(", ".join(map(str, watcher.folders)), className="where"),
            switch("axis", "x axis", charts.AXES, "epoch"), stream,
            switch("choice", "page", ("auto", "light", "dark"), "auto"),
        ]),
        html.Div(id="table"),
        html.Div([
            html.Span("tick to hide", className="label"),
            dcc.Checklist(id="hidden", inline=True, className="legend"),
        ], className="legendbar"),
        html.Div(panels, className="charts"),
        html.Div([
            html.H2("newest sphere"),
            dcc.Dropdown([run.name for run in runs], choose_spheres(runs), id="chosen", multi=True,
                         placeholder=f"choose up to {SLOTS} runs"),
        ], className="spherebar"),
        html.Div(slots, className="spheres"),
    ])  # fmt: skip


def choose_spheres(runs: Sequence[Run]) -> list[str]:
    """Two runs to begin with: one with HaLP on and one without it, where there are both."""
    ready = [run for run in runs if run.checkpoint is not None] or list(runs)
    on = [bool(run.records and run.records[-1].get("mu")) for run in ready]
    first = [ready[on.index(kind)].name for kind in (False, True) if kind in on]
    return first or [run.name for run in ready[:1]]


def make_table(runs: Sequence[Run], stream: str) -> Any:
    """A row for each run; what is wrong with it in a line below."""
    from dash import html

    body = []
    for place, run in enumerate(runs):
        row = charts.summarize(run, stream)
        name, state, *figures = charts.write_row(row)
        swatch = html.Img(src=charts.plot_swatch(place), alt="")
        kind = "state " + row.state.replace(" ", "-")
        cells = [html.Th([swatch, name]), html.Td(state, className=kind), *map(html.Td, figures)]
        body.append(html.Tr(cells))
        if row.warning:
            body.append(
                html.Tr(html.Td(f"⚠ {row.warning}", colSpan=len(HEADINGS)), className="warning")
            )
    head = html.Thead(html.Tr([html.Th(name) for name in HEADINGS]))
    return html.Table([head, html.Tbody(body)])


def _connect(app: Any, watcher: Watcher, spheres: Spheres) -> None:
    from dash import Input, Output, State, html, no_update

    app.clientside_callback(THEME, Output("theme", "data"), Input("choice", "value"),
                            Input("tick", "n_intervals"), State("theme", "data"))  # fmt: skip

    @app.callback(
        output=(
            Output("table", "children"), Output("hidden", "options"), Output("chosen", "options"),
            Output("seen", "data"), [Output(f"chart-{p.name}", "figure") for p in PANELS],
        ),
        inputs=(
            Input("tick", "n_intervals"), Input("axis", "value"), Input("stream", "value"),
            Input("hidden", "value"), Input("theme", "data"), State("seen", "data"),
        ),
    )  # fmt: skip
    def refresh(tick, axis, stream, hidden, theme, seen):
        """Table each time; names and curves only where they differ from what the page has."""
        runs, stream, hidden = watcher.look(), "" if stream == ALL else stream, hidden or []
        names = [run.name for run in runs]
        now = [names, repr((axis, stream, hidden, theme, [run.stamp for run in runs]))]
        table = make_table(runs, stream)
        if seen == now or not theme:
            return table, no_update, no_update, no_update, [no_update] * len(PANELS)
        figures = [charts.plot_panel(p, runs, hidden, axis, stream, theme) for p in PANELS]
        if seen and seen[0] == names:
            return table, no_update, no_update, now, figures
        options = [
            {"value": n, "label": html.Span([html.Img(src=charts.plot_swatch(i), alt=""), n])}
            for i, n in enumerate(names)
        ]
        return table, options, names, now, figures

    slots = [
        [
            Output(f"sphere-card-{n}", "hidden"), Output(f"sphere-name-{n}", "children"),
            Output(f"sphere-words-{n}", "children"), Output(f"sphere-message-{n}", "children"),
            Output(f"sphere-{n}", "figure"), Output(f"sphere-{n}", "style"),
        ]
        for n in range(SLOTS)
    ]  # fmt: skip

    @app.callback(
        output=(slots, Output("seen-spheres", "data")),
        inputs=(
            Input("tick", "n_intervals"), Input("chosen", "value"), Input("stream", "value"),
            Input("theme", "data"), State("seen-spheres", "data"),
        ),
    )  # fmt: skip
    def refresh_spheres(tick, chosen, stream, theme, seen):
        """Pictures only where the page has another one, so that a turned sphere stays turned."""
        runs = {run.name: run for run in watcher.look()}
        chosen = [name for name in chosen or [] if name in runs][:SLOTS]
        seen, now, cards = seen or [None] * SLOTS, [], []
        for place in range(SLOTS):
            if place >= len(chosen) or not theme:
                cards.append([True, *[no_update] * 5])
                now.append(None)
                continue
            run = runs[chosen[place]]
            sphere = spheres.ask(run, "" if stream == ALL else stream)
            title = run.name + ("" if sphere.step is None else f", step {sphere.step:,}")
            now.append(repr((run.name, stream, theme, sphere.step, sphere.title)))
            picture = no_update
            if now[-1] != seen[place] and sphere.pictures:
                picture = sphere.pictures[theme]
            style = {"height": 420} if sphere.pictures else {"display": "none"}
            cards.append([False, title, sphere.title, sphere.message, picture, style])
        return cards, now


# The theme is set before anything is drawn, and kept up to date by THEME.
SHELL = """<!DOCTYPE html>
<html lang="en">
<head>
{%metas%}
<title>{%title%}</title>
{%favicon%}
{%css%}
<script>
document.documentElement.dataset.theme =
  matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
</script>
<style>
:root { --ink: #1a1a1a; --faint: #5b6168; --paper: #f5f6f8; --card: #fff; --line: #d9dce1;
  --good: #007a59; --bad: #b34700; }
:root[data-theme=dark] { --ink: #e8e8e8; --faint: #a0a7af; --paper: #101214; --card: #16181c;
  --line: #33373d; --good: #3fc79a; --bad: #ff9b5c; color-scheme: dark; }
:root { --Dash-Text-Primary: var(--ink); --Dash-Text-Strong: var(--ink); --Dash-Text-Weak: var(--faint);
  --Dash-Text-Disabled: var(--faint); --Dash-Fill-Inverse-Strong: var(--card);
  --Dash-Stroke-Strong: var(--faint); --Dash-Stroke-Weak: var(--line);
  --Dash-Fill-Interactive-Strong: #0072B2; --Dash-Fill-Interactive-Weak: var(--line);
  --Dash-Fill-Primary-Hover: var(--line); --Dash-Fill-Primary-Active: var(--line); }
body { margin: 0 auto; padding: 14px 20px 40px; max-width: 1720px; background: var(--paper);
  color: var(--ink); font: 14px/1.4 system-ui, sans-serif; }
header { display: flex; flex-wrap: wrap; gap: 4px 26px; align-items: center; margin-bottom: 10px; }
h1 { font-size: 19px; margin: 0; } h2 { font-size: 16px; margin: 0; white-space: nowrap; }
h3 { font-size: 14px; margin: 0 0 2px; overflow-wrap: anywhere; }
.where { color: var(--faint); flex: 1 1 200px; overflow-wrap: anywhere; }
.label { color: var(--faint); margin-right: 8px; white-space: nowrap; }
.switch { display: flex; align-items: center; } .switch[hidden] { display: none; }
.radio label, .legend label { margin-right: 12px; white-space: nowrap; }
#table { overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 12px; text-align: right; white-space: nowrap; border: 0; color: var(--ink); }
thead th { color: var(--faint); font-weight: 500; border-bottom: 1px solid var(--line); }
tbody th { font-weight: 600; } th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left; }
img { vertical-align: middle; margin-right: 8px; }
.training { color: var(--good); } .stopped { color: var(--bad); }
.warning td { text-align: left; color: var(--bad); white-space: normal; padding-top: 0; }
.legendbar { display: flex; align-items: center; padding: 8px 0; position: sticky; top: 0;
  background: var(--paper); z-index: 5; }
.legend { display: flex; flex-wrap: wrap; max-height: 92px; overflow-y: auto; }
.charts { display: grid; gap: 10px; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); }
.spheres { display: grid; gap: 10px; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  overflow: hidden; min-width: 0; }
.spheres .card { padding: 10px 14px; }
.spherebar { display: flex; align-items: center; gap: 16px; margin: 16px 0 8px; }
.spherebar > :last-child { flex: 1; min-width: 0; }
.words { color: var(--faint); font-size: 12px; margin: 0; } .message { margin: 4px 0; color: var(--bad); }
.message:empty { display: none; }
</style>
</head>
<body>
{%app_entry%}
<footer>{%config%}{%scripts%}{%renderer%}</footer>
</body>
</html>"""

THEME = """function (choice, tick, now) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const theme = choice === "auto" ? (dark ? "dark" : "light") : choice;
  document.documentElement.dataset.theme = theme;
  return theme === now ? window.dash_clientside.no_update : theme;
}"""
