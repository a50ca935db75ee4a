"""Style sheet and script of a report, on top of the style that all pages share."""

from __future__ import annotations

PLOT_STYLE = """
:root { --s0: #0b62a8; --s1: #c2500a; --s2: #0a7d5a; --s3: #a9448c; --s4: #8a6a00; --s5: #2b8fc0; --s6: #5d4aa8;
  --s7: #444b57; --bar: #8fb4dc; --better: #17713d; --noise: #606978; }
@media (prefers-color-scheme: dark) { :root { --s0: #6cb4f5; --s1: #f59a5c; --s2: #4fd3a6; --s3: #eb9ad2; --s4: #e2c04a;
  --s5: #8fd6f7; --s6: #b5a6ff; --s7: #c3cad6; --bar: #3d5f86; --better: #7be0a1; --noise: #9aa4b5; } }
.plot { display: block; width: 100%; max-width: 640px; height: auto; font-size: 12.5px; }
.plot text { fill: var(--soft); } .plot .x { text-anchor: middle; } .plot .y { text-anchor: end; }
.rule { stroke: var(--line); } .axis { stroke: var(--soft); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .bar { fill: var(--bar); } .bar:hover { opacity: .7; }
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

STYLE = """
nav { margin-top: 20px; font-size: .9rem; } nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px;
  margin: 0; padding: 0; }
.block { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 16px 18px;
  margin: 0 0 20px; min-width: 0; }
.block.text { max-width: 84ch; } .block.text p { margin: 0; } .block > :last-child { margin-bottom: 0; }
.charts { display: grid; gap: 20px; margin-bottom: 20px;
  grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); }
.charts > .block { margin: 0; }
.note { color: var(--soft); font-size: .8rem; margin: 8px 0 0; }
.vh { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
button, select { font: inherit; color: inherit; background: var(--code); border: 1px solid var(--line);
  border-radius: 8px; padding: 4px 12px; min-height: 36px; cursor: pointer; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 6px 0 0; padding: 0;
  font-size: .85rem; } .legend b { font-weight: 600; font-variant-numeric: tabular-nums; }
.swatch { width: 28px; height: 8px; margin-right: 7px; vertical-align: middle; }
.scroll { overflow-x: auto; position: relative; }
table { border-collapse: collapse; font-size: .9rem; min-width: 100%; }
caption { text-align: left; color: var(--soft); padding-bottom: 8px; font-size: .85rem; }
th, td { padding: 6px 12px; text-align: left; border-bottom: 1px solid var(--line); vertical-align: baseline; }
tbody tr:last-child td { border-bottom: 0; } tbody tr:hover { background: var(--code); }
th { white-space: nowrap; font-weight: 600; } th.number, td.number { text-align: right; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; } td small { color: var(--soft); }
th button { background: none; border: 0; padding: 2px 0; font-weight: inherit; min-height: 0; }
th[aria-sort] button::after { content: " \\2195"; color: var(--soft); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
td.better { color: var(--better); font-weight: 600; } td.noise { color: var(--noise); }
.videos { display: grid; gap: 12px; margin-bottom: 12px;
  grid-template-columns: repeat(auto-fit, minmax(min(150px, 45%), 1fr)); }
.videos figure { margin: 0; max-width: 420px; } .videos figure:only-child { max-width: 860px; }
 .videos video { border-radius: 8px; }
figcaption { font-size: .85rem; color: var(--soft); } video.small { image-rendering: pixelated; }
.scale { display: flex; align-items: center; gap: 6px; } .scale i { flex: 1; height: 10px; border-radius: 3px;
  border: 1px solid var(--line); min-width: 40px; }
.controls { display: flex; flex-wrap: wrap; align-items: center; gap: 8px; margin-bottom: 12px; }
.controls input { flex: 1 1 160px; min-width: 120px; min-height: 36px; accent-color: var(--accent); }
.controls output { font-variant-numeric: tabular-nums; font-size: .85rem; min-width: 5.5em; text-align: right; }
.controls label { font-size: .85rem; color: var(--soft); }
.rank { color: var(--soft); font-weight: 400; }
details.block > summary { cursor: pointer; font-weight: 600; } details.block[open] > summary { margin-bottom: 14px; }
details .block { border: 0; padding: 0; }
@media print { .controls, nav { display: none; } .block { break-inside: avoid; } }
@media (max-width: 560px) { .block { padding: 12px; } th, td { padding: 6px 8px; } }
"""

SCRIPT = """
"use strict";
const TIMES = {  // the middle of a frame, so that rounding never shows its neighbour
  of: (frame, fps) => (frame + 0.5) / fps,
  frame: (time, fps, frames) => Math.max(0, Math.min(frames - 1, Math.floor(time * fps + 1e-3))),
};
function small(video) {
  video.addEventListener("loadedmetadata", () => video.classList.toggle("small", video.videoWidth <= 200));
}
function synced(group) {
  const videos = [...group.querySelectorAll("video")];
  const [play, back, next, slider, counter, speed] =
    ["play", "back", "next", "frame", "counter", "speed"].map((name) => group.querySelector("." + name));
  const fps = Number(group.dataset.fps), frames = Number(group.dataset.frames), slack = Math.max(0.5 / fps, 0.04);
  let running = false;
  const end = (video) => video.duration || 0;
  const lead = () => videos.reduce((a, b) => (end(b) > end(a) ? b : a));
  function show(frame) {
    slider.value = frame;
    counter.textContent = (frame + 1) + " / " + frames;
    slider.setAttribute("aria-valuetext", "frame " + (frame + 1) + " of " + frames);
  }
  function put(video, time) {
    const last = end(video) ? end(video) - 0.5 / fps : time;
    const wanted = Math.max(0, Math.min(time, last));
    if (Math.abs(video.currentTime - wanted) > 1e-4) video.currentTime = wanted;
  }
  function seek(frame) { videos.forEach((video) => put(video, TIMES.of(frame, fps))); show(frame); }
  function name() {
    play.textContent = running ? "\\u23F8 Pause" : "\\u25B6 Play";
    group.classList.toggle("running", running);
  }
  function stop() {
    running = false; name();
    videos.forEach((video) => video.pause());
    seek(TIMES.frame(lead().currentTime, fps, frames));
  }
  function go() {
    videos.forEach((video) => {
      video.playbackRate = Number(speed.value);
      Promise.resolve(video.play()).catch(() => running && stop());
    });
  }
  function start() {
    if (Number(slider.value) >= frames - 1) seek(0);
    running = true; name(); go(); requestAnimationFrame(tick);
  }
  function tick() {
    if (!running) return;
    const first = lead();
    if (first.ended) {
      videos.forEach((video) => { video.currentTime = 0; });
      go();
    } else for (const video of videos) {
      const wanted = Math.min(first.currentTime, end(video));
      if (video !== first && !video.seeking && Math.abs(video.currentTime - wanted) > slack) video.currentTime = wanted;
    }
    show(TIMES.frame(first.currentTime, fps, frames));
    requestAnimationFrame(tick);
  }
  function step(by) {
    if (running) stop();
    seek(Math.max(0, Math.min(frames - 1, Number(slider.value) + by)));
  }
  const turn = () => (running ? stop() : start());
  play.addEventListener("click", turn);
  videos.forEach((video) => { video.addEventListener("click", turn); small(video); });
  back.addEventListener("click", () => step(-1));
  next.addEventListener("click", () => step(1));
  slider.addEventListener("input", () => { const frame = Number(slider.value); if (running) stop(); seek(frame); });
  speed.addEventListener("change", () => videos.forEach((video) => { video.playbackRate = Number(speed.value); }));
  name(); show(0);
}
function sortable(table) {
  const body = table.tBodies[0];
  table.querySelectorAll("th").forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("th").forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.sort;
    const rank = (a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = head.classList.contains("number") ? Number(x) - Number(y) : x.localeCompare(y);
      return down ? -order : order;
    };
    [...body.rows].sort(rank).forEach((row) => body.append(row));
  }));
}
document.querySelectorAll(".synced").forEach(synced);
document.querySelectorAll("table.sortable").forEach(sortable);
const lazy = [...document.querySelectorAll("video.lazy")];
const load = (video) => { video.preload = "metadata"; };
lazy.forEach(small);
for (const video of lazy) {
  const toggle = () => (video.paused ? video.play() : video.pause());
  video.addEventListener("click", toggle);
  video.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(); }
  });
}
if ("IntersectionObserver" in window) {
  const seen = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (entry.isIntersecting) { load(entry.target); seen.unobserve(entry.target); }
  }), { rootMargin: "300px" });
  lazy.forEach((video) => seen.observe(video));
} else lazy.forEach(load);
"""
