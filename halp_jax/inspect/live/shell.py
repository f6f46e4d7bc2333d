"""The live page around its contents: HTML, style and the one script of our own, for both themes."""

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
