"""Style sheet of plots that are pictures of their own."""

from __future__ import annotations

PLOT_STYLE = """
:root { --s0: #0b62a8; --s1: #c2500a; --s2: #0a7d5a; --s3: #a9448c; --s4: #8a6a00; --s5: #2b8fc0; --s6: #5d4aa8;
  --s7: #444b57; }
@media (prefers-color-scheme: dark) { :root { --s0: #6cb4f5; --s1: #f59a5c; --s2: #4fd3a6; --s3: #eb9ad2; --s4: #e2c04a;
  --s5: #8fd6f7; --s6: #b5a6ff; --s7: #c3cad6; } }
.plot { display: block; width: 100%; max-width: 640px; height: auto; font-size: 12.5px; }
.plot text { fill: var(--soft); } .plot .x { text-anchor: middle; } .plot .y { text-anchor: end; }
.rule { stroke: var(--line); } .axis { stroke: var(--soft); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.dot { stroke: var(--card); } .hit { opacity: 0; } .dot:hover, .hit:hover { opacity: 1; stroke: var(--ink); }
.line.s0 { stroke: var(--s0); } .line.s1 { stroke: var(--s1); stroke-dasharray: 7 3; }
.line.s2 { stroke: var(--s2); stroke-dasharray: 2 3; } .line.s3 { stroke: var(--s3); stroke-dasharray: 9 3 2 3; }
.line.s4 { stroke: var(--s4); stroke-dasharray: 4 2; } .line.s5 { stroke: var(--s5); stroke-dasharray: 12 4; }
.line.s6 { stroke: var(--s6); stroke-dasharray: 2 2 6 2; } .line.s7 { stroke: var(--s7); stroke-dasharray: 1 2; }
circle.s0 { fill: var(--s0); } circle.s1 { fill: var(--s1); } circle.s2 { fill: var(--s2); }
circle.s3 { fill: var(--s3); } circle.s4 { fill: var(--s4); } circle.s5 { fill: var(--s5); }
circle.s6 { fill: var(--s6); } circle.s7 { fill: var(--s7); }
"""
"""Colours, dashes and letters of plots, on top of `kinolab.reports.html.COLOURS`."""
