"""The looks of the report page: one style sheet, light or dark as the reader's system is."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --card: #ffffff; --ink: #1d2125; --soft: #676e76; --rule: #e4e5e7;
  --light: 0.56; --accent: oklch(0.5 0.13 250); --good: oklch(0.52 0.13 150); --bad: oklch(0.55 0.19 27); }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --card: #1c1f23; --ink: #e4e6e8; --soft: #969da5;
  --rule: #2e3338; --light: 0.74; --accent: oklch(0.76 0.11 250); --good: oklch(0.76 0.13 150);
  --bad: oklch(0.7 0.17 27); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 2.2rem 1.6rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; letter-spacing: -0.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2.6rem 0 0.9rem; padding-bottom: 0.35rem; border-bottom: 1px solid var(--rule); }
p { margin: 0.3rem 0 0; }
nav { margin-top: 1.2rem; color: var(--soft); font-size: 0.88rem; }
nav a { color: var(--accent); text-decoration: none; }
.soft { color: var(--soft); }
.state { display: inline-block; margin-left: 0.7rem; padding: 0.1rem 0.6rem; border-radius: 1rem; font-size: 0.8rem;
  font-weight: 600; vertical-align: 0.3rem; letter-spacing: 0; color: var(--accent); border: 1px solid currentColor; }
.state.done { color: var(--good); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.2rem, 1fr)); gap: 0.7rem; margin: 1.5rem 0 0; }
.tile, .card { background: var(--card); border: 1px solid var(--rule); border-radius: 0.6rem; }
.tile { padding: 0.6rem 0.9rem 0.7rem; }
.tile dt { color: var(--soft); font-size: 0.8rem; line-height: 1.35; }
.tile dd { margin: 0; white-space: nowrap; font-size: 1.3rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile small { font-size: 0.8rem; font-weight: 400; color: var(--soft); }
.grid-of { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(23rem, 100%), 1fr)); gap: 0.9rem; }
.card { margin: 0; padding: 0.8rem 0.9rem 0.7rem; min-width: 0; }
.card header { display: flex; justify-content: space-between; gap: 1rem; align-items: baseline; }
.card h3 { margin: 0; font-size: 0.95rem; }
.card header span { font-variant-numeric: tabular-nums; font-weight: 600; white-space: nowrap; }
.card figcaption { color: var(--soft); font-size: 0.8rem; line-height: 1.4; margin-top: 0.45rem; }
svg { display: block; width: 100%; height: auto; margin-top: 0.3rem; }
.grid { stroke: var(--rule); fill: none; } .axis { stroke: var(--soft); stroke-opacity: 0.6; fill: none; }
.tick { fill: var(--soft); font-size: 10.5px; font-variant-numeric: tabular-nums; }
.line, .raw { fill: none; stroke: oklch(var(--light) 0.15 var(--hue)); stroke-linejoin: round; stroke-linecap: round; }
.line { stroke-width: 1.7; } .raw { stroke-width: 0.9; stroke-opacity: 0.32; }
.run1 { stroke-dasharray: 6 4; } .run2 { stroke-dasharray: 2 4; } .run3 { stroke-dasharray: 9 3 2 3; }
.run4 { stroke-dasharray: 1 7; }
circle { fill: oklch(var(--light) 0.15 var(--hue)); }
.bad { stroke: var(--bad); stroke-width: 1.5; }
.stop rect { fill: transparent; } .stop path { stroke: var(--soft); stroke-width: 1; visibility: hidden; }
.stop:hover path { visibility: visible; }
.keys { display: flex; flex-wrap: wrap; gap: 0.1rem 0.9rem; margin: 0.4rem 0 0; padding: 0; list-style: none;
  font-size: 0.78rem; font-variant-numeric: tabular-nums; }
.keys li { display: flex; align-items: center; gap: 0.35rem; min-width: 0; overflow-wrap: anywhere; }
.keys svg { width: 1.3rem; height: 0.5rem; margin: 0; flex: none; } .keys b { font-weight: 600; }
.row { margin: 0 0 1.1rem; } .row > p { margin: 0 0 0.35rem; }
.strip { display: flex; gap: 0.7rem; overflow-x: auto; padding-bottom: 0.4rem; }
.strip figure { margin: 0; flex: none; } .strip figcaption { color: var(--soft); font-size: 0.78rem; }
video, .strip img { display: block; height: 9rem; max-width: 100%; border-radius: 0.4rem; background: var(--rule); }
.sheet { max-width: 100%; border-radius: 0.3rem; margin: 0.5rem 0 1rem; background: #fff; }
details { margin: 0.5rem 0; } summary { cursor: pointer; }
pre { margin: 0.6rem 0; padding: 0.9rem 1rem; overflow-x: auto; background: var(--card);
  font: 12.5px/1.5 ui-monospace, Menlo, Consolas, monospace; border: 1px solid var(--rule); border-radius: 0.6rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.88rem; } th, td { text-align: left; vertical-align: top;
  padding: 0.28rem 1.4rem 0.28rem 0; border-bottom: 1px solid var(--rule); overflow-wrap: break-word; }
th { font-weight: 600; color: var(--soft); } td { font-variant-numeric: tabular-nums; }
td:first-child { white-space: nowrap; }
code { font: 0.88em ui-monospace, Menlo, Consolas, monospace; }
footer { margin-top: 3rem; color: var(--soft); font-size: 0.8rem; }
"""
