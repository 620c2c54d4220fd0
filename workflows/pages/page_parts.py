"""The style of a report's page, and the few lines of script that move its swipe."""

COLORS = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #1d2329; --soft: #545d66; --line: #dcdad3;
  --accent: #0b5f7a; --good: #1c6b3a; --good-back: #e3f2e6; --warn: #7d4300; --warn-back: #fdecd2;
  --bar: #0b5f7a; --code: #f1efe9;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181c; --card: #1c2227; --ink: #e8e6e1; --soft: #a8b0b8; --line: #343c44;
    --accent: #7cc7e0; --good: #93d9a8; --good-back: #16321f; --warn: #f5c07a;
    --warn-back: #3b2a12; --bar: #5aa9c4; --code: #262d33;
  }
}
"""
"""Variables of all pages, in both colour schemes."""

STYLE = (
    COLORS
    + """* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif;
}
.wrap { max-width: 70rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1, h2, h3 { line-height: 1.2; text-wrap: balance; overflow-wrap: anywhere; }
h1 { font-size: clamp(1.5rem, 1.1rem + 2vw, 2.3rem); margin: 0 0 .35rem; letter-spacing: -.015em; }
h2 { font-size: 1.2rem; margin: 0 0 .9rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; overflow-wrap: anywhere; }
.lead, .note { color: var(--soft); }
.note { font-size: .875rem; }
.badge {
  display: inline-block; padding: .15rem .7rem; border-radius: 99px; font-weight: 600;
  font-size: .875rem; color: var(--good); background: var(--good-back);
}
.badge.approximate { color: var(--warn); background: var(--warn-back); }
.figures {
  display: grid; grid-template-columns: repeat(4, 1fr); gap: 1px;
  margin: 1.5rem 0;
  padding: 0; background: var(--line); border: 1px solid var(--line); border-radius: .6rem;
  overflow: hidden;
}
.figures div { background: var(--card); padding: .8rem 1rem; }
.figures dt { color: var(--soft); font-size: .8125rem; }
.figures dd { margin: .1rem 0 0; font-size: 1.2rem; font-weight: 600; overflow-wrap: anywhere; }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1.3rem 1.4rem; margin: 1.25rem 0;
}
.columns { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.25rem; align-items: start; }
.columns > div { min-width: 0; }
.columns > div > :first-child { margin-top: 0; }
figure { margin: 0; }
.pictures {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr));
  gap: .75rem;
}
.pictures img {
  display: block; width: 100%; height: auto; background: var(--code); border-radius: .3rem;
}
.small img { image-rendering: pixelated; }
.pictures figcaption { color: var(--soft); font-size: .875rem; margin-top: .3rem; }
.control { display: none; }
@media screen {
  .swipes .pictures {
    display: block; position: relative; max-width: min(100%, calc(82vh * var(--ratio)));
    margin: 0 auto;
    overflow: hidden; border-radius: .3rem; cursor: ew-resize; touch-action: pan-y;
    user-select: none;
  }
  .swipes .pictures figcaption {
    position: absolute; top: .6rem; left: .6rem; max-width: 45%; margin: 0; padding: .1rem .6rem;
    border-radius: 99px; color: var(--ink); background: var(--card); font-size: .8125rem;
  }
  .swipes .map figcaption { left: auto; right: .6rem; }
  .swipes .pictures figure + figure { position: absolute; inset: 0; }
  .swipes .map img { clip-path: inset(0 0 0 var(--at)); background: none; }
  .swipes .map::before {
    content: ""; position: absolute; inset: 0; background: var(--code);
    clip-path: inset(0 0 0 var(--at));
  }
  .swipes .map img { position: relative; }
  .swipes .pictures::after {
    content: ""; position: absolute; top: 0; bottom: 0; left: var(--at); width: 3px;
    margin-left: -1.5px; background: #fff; box-shadow: 0 0 0 1px #0009;
  }
  .swipes .control {
    display: block; max-width: min(100%, calc(82vh * var(--ratio))); margin: .75rem auto 0;
  }
  .control input {
    display: block; width: 100%; height: 2rem; margin: 0; accent-color: var(--accent);
  }
}
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.scroll { overflow-x: auto; position: relative; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; }
caption { text-align: left; color: var(--soft); font-size: .875rem; padding-bottom: .4rem; }
th, td {
  padding: .42rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top;
}
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--soft); font-size: .8125rem; font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 500; min-width: 6.5rem; overflow-wrap: anywhere; }
tbody tr:last-child > * { border-bottom: 0; }
tfoot > tr > * { font-weight: 600; border-bottom: 0; border-top: 2px solid var(--line); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.swatch {
  display: inline-block; width: 1.05em; height: 1.05em; margin-right: .55em; vertical-align: -.17em;
  border: 1px solid #8888; border-radius: .2em;
}
.shares { width: 34%; }
.unseen { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
.bar {
  display: block; height: .8rem; min-width: 2px; width: var(--share); margin-top: .4rem;
  border-radius: .15rem; background: var(--color, var(--bar)); box-shadow: inset 0 0 0 1px #8888;
}
.histogram {
  display: block; width: 100%; height: 9rem; margin-top: .9rem;
  border-bottom: 1px solid var(--soft);
}
.histogram rect { fill: var(--bar); }
.ticks {
  display: flex; justify-content: space-between; max-width: none; margin: .2rem 0 0;
  color: var(--soft); font-size: .8125rem;
}
.facts th { width: 36%; color: var(--soft); font-weight: 400; }
.facts td { overflow-wrap: anywhere; }
code, pre {
  font: .875rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
td code { font-size: .8125rem; overflow-wrap: anywhere; }
pre {
  margin: .6rem 0; padding: .9rem 1rem; border-radius: .4rem; background: var(--code);
  white-space: pre-wrap; overflow-wrap: anywhere;
}
.tiling { display: block; width: 100%; max-width: 20rem; max-height: 20rem; margin: 1rem 0 .3rem; }
.tiling .ground { fill: var(--code); }
.tiling .cut {
  stroke: var(--soft); stroke-width: 1; vector-effect: non-scaling-stroke; opacity: .55;
}
.tiling .core { fill: var(--bar); }
.tiling .read {
  fill: none; stroke: var(--warn); stroke-width: 2; stroke-dasharray: 5 3;
  vector-effect: non-scaling-stroke;
}
footer { color: var(--soft); font-size: .875rem; margin-top: 2rem; }
@media screen and (max-width: 48rem) {
  .wrap { padding: 1.25rem .8rem 3rem; }
  section { padding: 1rem .9rem; }
  .figures { grid-template-columns: 1fr 1fr; }
  .figures dd { font-size: 1.05rem; }
  .columns { grid-template-columns: 1fr; }
  .minor { display: none; }
  .shares { width: 26%; }
  th, td { padding-left: .35rem; padding-right: .35rem; }
}
@media print {
  @page { margin: 15mm; }
  :root {
    color-scheme: light;
    --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --accent: #0b5f7a;
    --good: #1c6b3a; --good-back: #e3f2e6; --warn: #7d4300; --warn-back: #fdecd2;
    --bar: #0b5f7a; --code: #f3f3f3;
  }
  body { font-size: 9pt; }
  th, td { padding-top: .22rem; padding-bottom: .22rem; }
  tfoot { display: table-row-group; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .wrap { max-width: none; padding: 0; }
  section { border: 0; padding: 0; margin: 1.6rem 0; }
  .columns { display: block; }
  .pictures { grid-template-columns: 1fr 1fr; }
  .view, .figures, .scroll, tr, pre, svg, #measured { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .tiling { max-width: 12rem; }
}
"""
)

SCRIPT = """
const view = document.querySelector(".view");
const input = view.querySelector("input");
const pictures = view.querySelector(".pictures");
const show = () => {
  view.style.setProperty("--at", input.value + "%");
  input.setAttribute("aria-valuetext", input.value + " % scene, " + (100 - input.value) + " % map");
};
const follow = (event) => {
  const box = pictures.getBoundingClientRect();
  input.value = 100 * (event.clientX - box.left) / box.width;
  show();
};
input.addEventListener("input", show);
pictures.addEventListener("pointerdown", (event) => {
  pictures.setPointerCapture(event.pointerId);
  follow(event);
});
pictures.addEventListener("pointermove", (event) => { if (event.buttons) follow(event); });
pictures.addEventListener("dragstart", (event) => event.preventDefault());
view.classList.add("swipes");
show();
"""
