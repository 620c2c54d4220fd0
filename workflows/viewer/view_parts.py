"""The style of a viewer's page, and the script that draws its map and moves it."""

from segpipe.workflows.pages.page_parts import COLORS

STYLE = (
    COLORS
    + """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
html, body { height: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif;
}
.view { display: grid; grid-template-columns: minmax(0, 1fr) 23rem; height: 100vh; height: 100dvh; }
.stage { position: relative; min-width: 0; min-height: 0; overflow: hidden; }
.map {
  position: absolute; inset: 0; background: var(--code); cursor: crosshair; touch-action: none;
  user-select: none; -webkit-user-select: none;
}
.map.moved { cursor: grabbing; }
.map canvas { position: absolute; inset: 0; width: 100%; height: 100%; }
.cross { position: absolute; width: 0; height: 0; pointer-events: none; }
.cross::before, .cross::after {
  content: ""; position: absolute; background: #fff; box-shadow: 0 0 0 1px #000b;
}
.cross::before { left: -13px; top: -1px; width: 26px; height: 2px; }
.cross::after { left: -1px; top: -13px; width: 2px; height: 26px; }
.cross[hidden] { display: none; }
.tools {
  position: absolute; top: .8rem; left: .8rem; display: flex; flex-direction: column;
  border: 1px solid var(--line); border-radius: .6rem; overflow: hidden;
  box-shadow: 0 1px 6px #0003;
}
.tools button {
  width: 2.75rem; height: 2.75rem; padding: 0; border: 0; border-radius: 0; font-size: 1.35rem;
  line-height: 1;
}
.tools button + button { border-top: 1px solid var(--line); }
.tools svg { width: 1.1rem; height: 1.1rem; vertical-align: middle; }
button {
  font: inherit; color: var(--ink); background: var(--card); border: 1px solid var(--line);
  border-radius: .4rem; cursor: pointer; touch-action: manipulation;
}
button:hover { background: var(--code); }
.told {
  position: absolute; left: .8rem; right: .8rem; bottom: .8rem; display: flex; gap: .6rem;
  align-items: flex-end; justify-content: space-between; pointer-events: none;
}
.told > * {
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  box-shadow: 0 1px 6px #0003;
}
.pixel {
  display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 0 .5rem; align-items: center;
  padding: .5rem .8rem; min-width: 0;
}
.pixel .swatch { width: 1rem; height: 1rem; }
.pixel .swatch:not([fill]), .pixel .swatch:not([fill]) + .what { grid-column: 1 / -1; }
.pixel .swatch:not([fill]) { display: none; }
.pixel p { margin: 0; overflow-wrap: anywhere; }
.what { font-weight: 600; }
.where span { display: inline-block; margin-right: .9em; }
.where {
  grid-column: 1 / -1; color: var(--soft); font-size: .8125rem;
  font-variant-numeric: tabular-nums;
}
.scale { flex: none; padding: .3rem .6rem .45rem; font-size: .8125rem; color: var(--soft); }
.scale svg { display: block; height: 5px; }
.scale path { fill: none; stroke: var(--ink); stroke-width: 1.5; }
.panel {
  border-left: 1px solid var(--line); background: var(--card); padding: 1.3rem 1.4rem 2rem;
  overflow-y: auto; min-height: 0;
}
.head { display: flex; flex-wrap: wrap; gap: .2rem .7rem; align-items: baseline; }
h1 { font-size: 1.3rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
h1, .lead { overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 0; }
.lead, .note { color: var(--soft); margin: .2rem 0; }
.lead, .note, .panel details { font-size: .875rem; }
.badge {
  display: inline-block; padding: .1rem .65rem; border-radius: 99px; font-weight: 600;
  font-size: .8125rem; color: var(--good); background: var(--good-back);
}
.badge.approximate { color: var(--warn); background: var(--warn-back); }
.slider { margin: 1.3rem 0; }
.slider label { display: flex; justify-content: space-between; font-weight: 600; }
.slider output { color: var(--soft); font-weight: 400; font-variant-numeric: tabular-nums; }
.slider input {
  display: block; width: 100%; height: 2rem; margin: 0; accent-color: var(--accent);
}
.legend { border: 0; margin: 0; padding: 0; min-width: 0; }
.legend legend { float: left; padding: 0; line-height: 2.2rem; font-weight: 600; }
.legend .all { display: flex; gap: .5rem; justify-content: end; margin: 0 0 .5rem; }
.legend .all button { padding: 0 .8rem; font-size: .875rem; height: 2.2rem; }
.legend ul { clear: both; }
.legend ul { list-style: none; margin: 0; padding: 0; }
.legend li { border-top: 1px solid var(--line); padding: .1rem .4rem; margin: 0 -.4rem; }
.legend li.here { background: var(--code); box-shadow: inset 3px 0 var(--accent); }
.legend label {
  display: grid; grid-template-columns: auto auto minmax(0, 1fr) auto; gap: 0 .6rem;
  align-items: center; min-height: 2.75rem; padding: .3rem 0; cursor: pointer;
}
.legend input { width: 1.1rem; height: 1.1rem; margin: 0; accent-color: var(--accent); }
.legend .name { overflow-wrap: anywhere; line-height: 1.25; }
.legend .much {
  text-align: right; color: var(--soft); font-size: .8125rem; font-variant-numeric: tabular-nums;
  line-height: 1.25;
}
.legend .much b { display: block; color: var(--ink); font-weight: 600; font-size: .9375rem; }
.swatch {
  display: block; width: 1.3rem; height: 1.3rem; border: 1px solid #8888; border-radius: .25rem;
}
.share { grid-column: 3 / -1; width: 100%; height: .4rem; border-radius: .15rem; display: block; }
.legend li:has(input:not(:checked)) .name { color: var(--soft); text-decoration: line-through; }
.panel details { margin-top: 1.3rem; color: var(--soft); }
.panel summary { cursor: pointer; min-height: 2rem; color: var(--ink); }
.panel dl { display: grid; grid-template-columns: auto 1fr; gap: .3rem .9rem; margin: .3rem 0; }
.panel dd { margin: 0; }
kbd {
  font: .8125rem/1 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  padding: .1rem .35rem; border: 1px solid var(--line); border-radius: .25rem;
  background: var(--code); color: var(--ink);
}
.trouble {
  position: absolute; top: .8rem; right: .8rem; left: 4.5rem; margin: 0 0 0 auto;
  width: fit-content;
  max-width: 32rem; padding: .5rem .9rem; border-radius: .6rem; color: var(--warn);
  background: var(--warn-back); overflow-wrap: anywhere;
}
.trouble[hidden] { display: none; }
.unseen {
  position: absolute; top: 0; margin: 0; clip-path: inset(50%); width: 1px; height: 1px;
  overflow: hidden;
}
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.map:focus-visible, .tools button:focus-visible { outline-offset: -3px; }
@media (max-width: 48rem) {
  .view {
    grid-template-columns: minmax(0, 1fr); grid-template-rows: minmax(0, 1fr) minmax(0, 45%);
  }
  .panel { border-left: 0; border-top: 1px solid var(--line); padding: .8rem 1rem 1.5rem; }
  .lead { display: inline; }
  .lead + .lead::before { content: "\\00a0· "; }
  h1 { font-size: 1.1rem; }
  .slider { margin: .6rem 0; }
  .told { gap: .4rem; left: .5rem; right: .5rem; bottom: .5rem; }
  .pixel { padding: .4rem .7rem; }
  .tools { top: .5rem; left: .5rem; }
}
@media (max-width: 62rem) and (max-height: 30rem) {
  .view { grid-template-columns: minmax(0, 1fr) 18rem; grid-template-rows: minmax(0, 1fr); }
}
"""
)

SCRIPT = """
"use strict";
const facts = JSON.parse(document.getElementById("facts").textContent);
const {height, width, side, top: TOP} = facts;
const find = (name) => document.querySelector(name);
const map = find(".map"), cross = find(".cross"), trouble = find(".trouble");
const boxes = [...document.querySelectorAll(".legend input")];
const rows = new Map(
  [...document.querySelectorAll(".legend li")].map((row) => [row.dataset.value, row]));
const KEPT = 200, NEAREST = 64;

// Where the middle of the window lies, in pixels of the map, and how long a pixel is drawn.
const at = {x: width / 2, y: height / 2, scale: 1};
let mark = null;      // a place that a finger or the keyboard chose
let fitted = false, frame = 0, waiting = false;

const complain = (text) => { trouble.textContent = text; trouble.hidden = !text; };

class Layer {
  constructor(canvas, path) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.path = path;
    this.query = "";
    this.tiles = new Map();
  }

  // The tile, asked for if it isn't there as it is wanted; an older one is shown until then.
  want(level, row, column) {
    const key = level + "/" + row + "/" + column;
    const tile = this.tiles.get(key) || {image: null, asked: null, coming: null, frame: 0};
    this.tiles.delete(key);
    this.tiles.set(key, tile);
    tile.frame = frame;
    if (tile.asked === this.query) return;
    if (tile.coming) tile.coming.src = "";
    const image = new Image();
    tile.asked = this.query;
    tile.coming = image;
    image.onload = () => {
      if (tile.coming !== image) return;
      tile.image = image;
      tile.coming = null;
      complain("");
      redraw();
    };
    image.onerror = () => {
      if (tile.coming !== image) return;
      tile.coming = null;
      complain("A part of the map can't be read. Is segpipe view still running?");
      redraw();
    };
    image.src = "tiles/" + this.path + "/" + key + ".png" + this.query;
  }

  draw(level, scale, ratio) {
    const {canvas, pen} = this, w = canvas.width, h = canvas.height;
    const across = (x) => Math.round((x - at.x) * scale * ratio + w / 2);
    const down = (y) => Math.round((y - at.y) * scale * ratio + h / 2);
    pen.clearRect(0, 0, w, h);
    for (let far = TOP; far >= level; far--) {
      const step = side * 2 ** far;
      const first = {x: at.x - w / 2 / scale / ratio, y: at.y - h / 2 / scale / ratio};
      const last = {x: at.x + w / 2 / scale / ratio, y: at.y + h / 2 / scale / ratio};
      const end = {x: Math.min(last.x, width - 1e-6), y: Math.min(last.y, height - 1e-6)};
      pen.imageSmoothingEnabled = 2 ** far * scale * ratio < 1;
      const start = {
        row: Math.max(0, Math.floor(first.y / step)),
        column: Math.max(0, Math.floor(first.x / step)),
      };
      for (let row = start.row; row * step <= end.y; row++) {
        for (let column = start.column; column * step <= end.x; column++) {
          if (far === level || far === TOP) this.want(far, row, column);
          const tile = this.tiles.get(far + "/" + row + "/" + column);
          if (!tile || !tile.image) continue;
          const x = across(column * step), y = down(row * step);
          const right = across(Math.min((column + 1) * step, width));
          const bottom = down(Math.min((row + 1) * step, height));
          pen.clearRect(x, y, right - x, bottom - y);
          pen.drawImage(tile.image, x, y, right - x, bottom - y);
        }
      }
    }
    return this.tidy();
  }

  // Gives up what nobody sees any more; how many tiles are still coming.
  tidy() {
    let coming = 0;
    for (const [key, tile] of this.tiles) {
      if (tile.coming && tile.frame !== frame) {
        tile.coming.src = "";
        tile.coming = null;
        tile.asked = null;
      }
      if (tile.coming) coming++;
      if (this.tiles.size > KEPT && tile.frame !== frame) this.tiles.delete(key);
    }
    return coming;
  }
}

const layers = [...map.querySelectorAll("canvas")].map(
  (canvas) => new Layer(canvas, canvas.dataset.path));
const classes = layers[layers.length - 1];

// The scale at which all of the map is seen.
const whole = () => 0.92 * Math.min(map.clientWidth / width, map.clientHeight / height);
const redraw = () => {
  if (!waiting) { waiting = true; requestAnimationFrame(paint); }
};

const paint = () => {
  waiting = false;
  frame++;
  const ratio = window.devicePixelRatio || 1;
  const w = Math.round(map.clientWidth * ratio), h = Math.round(map.clientHeight * ratio);
  if (!w || !h) return;
  if (!fitted) fit();
  const level = Math.min(TOP, Math.max(0, Math.round(-Math.log2(at.scale * ratio))));
  let coming = 0;
  for (const layer of layers) {
    if (layer.canvas.width !== w || layer.canvas.height !== h) {
      layer.canvas.width = w;
      layer.canvas.height = h;
    }
    coming += layer.draw(level, at.scale, ratio);
  }
  cross.hidden = !mark;
  if (mark) {
    cross.style.left = (mark.x - at.x) * at.scale + map.clientWidth / 2 + "px";
    cross.style.top = (mark.y - at.y) * at.scale + map.clientHeight / 2 + "px";
  }
  measure();
  document.documentElement.dataset.coming = coming;
};

const fit = () => {
  fitted = true;
  at.x = width / 2;
  at.y = height / 2;
  at.scale = Math.min(NEAREST, whole());
};

// What a length on the screen is on the ground.
const measure = () => {
  const unit = facts.metres || 1, most = 110 * unit / at.scale;
  const power = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].map((part) => part * power).find((part) => part <= most);
  const long = length * at.scale / unit;
  const ground = length >= 1000 ? length / 1000 + " km" : length + " m";
  find(".scale span").textContent = facts.metres ? ground : length + " px";
  find(".scale svg").setAttribute("width", long + 2);
  find(".scale path").setAttribute("d", "M1 0V4H" + (long + 1) + "V0");
};

const place = (event) => {
  const box = map.getBoundingClientRect();
  return {
    x: at.x + (event.clientX - box.left - box.width / 2) / at.scale,
    y: at.y + (event.clientY - box.top - box.height / 2) / at.scale,
  };
};
const within = (value, low, high) => Math.min(high, Math.max(low, value));
const go = (x, y) => {
  at.x = within(x, 0, width);
  at.y = within(y, 0, height);
  redraw();
};
const zoom = (factor, still) => {
  const fixed = still || {x: at.x, y: at.y};
  const scale = within(at.scale * factor, Math.min(1, whole()) / 2, NEAREST);
  const share = at.scale / scale;
  at.scale = scale;
  go(fixed.x + (at.x - fixed.x) * share, fixed.y + (at.y - fixed.y) * share);
};

// The class under the pointer: one question at a time, and always the latest.
let next = null, asking = false, asked = "", speaks = 0;
const ask = async (point, aloud) => {
  const row = Math.floor(point.y), column = Math.floor(point.x);
  if (row + "/" + column === asked && !aloud) return;
  asked = row + "/" + column;
  next = {row, column, aloud};
  if (asking) return;
  asking = true;
  while (next) {
    const now = next;
    next = null;
    if (now.row < 0 || now.column < 0 || now.row >= height || now.column >= width) {
      tell(null, now.aloud);
      continue;
    }
    try {
      const answer = await fetch("point?row=" + now.row + "&column=" + now.column);
      const told = await answer.json();
      if (!answer.ok) throw new Error(told.detail);
      tell(told, now.aloud);
    } catch (error) {
      complain(error instanceof TypeError ? "segpipe view has ended." : error.message);
    }
  }
  asking = false;
};

const number = (value, digits) => value.toLocaleString("en", {
  minimumFractionDigits: digits, maximumFractionDigits: digits});
const tell = (point, aloud) => {
  rows.forEach((row) => row.classList.remove("here"));
  let what = "outside the map";
  const where = [], swatch = find(".pixel .swatch");
  swatch.removeAttribute("fill");
  if (point) {
    const named = rows.get(String(point.value));
    if (named) {
      named.classList.add("here");
      swatch.setAttribute("fill", named.querySelector(".swatch rect").getAttribute("fill"));
    }
    what = point.value === null ? "no class" : (point.name || "a value without a name")
      + " (" + point.value + ")";
    where.push("row " + number(point.row, 0) + ", column " + number(point.column, 0));
    if (facts.crs && !facts.geographic) where.push(
      "x " + number(point.x, facts.digits) + ", y " + number(point.y, facts.digits));
    if (point.latitude !== null) {
      where.push(
        number(Math.abs(point.latitude), 5) + "° " + (point.latitude < 0 ? "S" : "N") + ", "
        + number(Math.abs(point.longitude), 5) + "° " + (point.longitude < 0 ? "W" : "E"));
    }
  }
  find(".what").textContent = what;
  find(".where").replaceChildren(...where.map((part) => {
    const span = document.createElement("span");
    span.textContent = part;
    return span;
  }));
  if (aloud) {
    clearTimeout(speaks);
    speaks = setTimeout(() => {
      find("[role=status]").textContent = [what, ...where].join(", ");
    }, 300);
  }
};

const pointers = new Map();
let still = true;
map.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  map.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, {x: event.clientX, y: event.clientY});
  still = pointers.size === 1;
});
map.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) {
    if (event.pointerType === "mouse") { mark = null; redraw(); ask(place(event)); }
    return;
  }
  const now = {x: event.clientX, y: event.clientY};
  if (still && Math.hypot(now.x - before.x, now.y - before.y) < 6) return;
  still = false;
  map.classList.add("moved");
  const other = [...pointers].find(([id]) => id !== event.pointerId);
  pointers.set(event.pointerId, now);
  if (!other) {
    go(at.x - (now.x - before.x) / at.scale, at.y - (now.y - before.y) / at.scale);
    return;
  }
  const far = (one) => Math.hypot(one.x - other[1].x, one.y - other[1].y);
  const middle = (one) => place({
    clientX: (one.x + other[1].x) / 2, clientY: (one.y + other[1].y) / 2});
  const old = middle(before);
  zoom(far(now) / Math.max(1, far(before)), old);
  const moved = middle(now);
  go(at.x + old.x - moved.x, at.y + old.y - moved.y);
});
const lift = (event) => {
  if (!pointers.delete(event.pointerId)) return;
  map.classList.remove("moved");
  if (still && event.type === "pointerup") {
    const point = place(event);
    mark = event.pointerType === "mouse" ? null : point;
    ask(point);
    redraw();
  }
};
map.addEventListener("pointerup", lift);
map.addEventListener("pointercancel", lift);
map.addEventListener("dblclick", (event) => zoom(2, place(event)));
map.addEventListener("wheel", (event) => {
  event.preventDefault();
  const lines = event.deltaMode ? 16 : 1;
  const delta = within(event.deltaY * lines, -200, 200);
  zoom(Math.exp(-delta * (event.ctrlKey ? 0.01 : 0.0025)), place(event));
}, {passive: false});

const STEPS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
map.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const step = STEPS[event.key];
  if (step) {
    const far = event.shiftKey ? 1 : Math.min(map.clientWidth, map.clientHeight) / 6 / at.scale;
    go(at.x + step[0] * far, at.y + step[1] * far);
  } else if (event.key === "+" || event.key === "=") zoom(1.5);
  else if (event.key === "-" || event.key === "_") zoom(1 / 1.5);
  else if (event.key === "0" || event.key === "Home") { fit(); redraw(); }
  else return;
  event.preventDefault();
  mark = at;
  ask(at, true);
});

find(".nearer").addEventListener("click", () => zoom(1.6));
find(".further").addEventListener("click", () => zoom(1 / 1.6));
find(".whole").addEventListener("click", () => { fit(); redraw(); });

const slider = find(".slider input");
const fade = () => {
  classes.canvas.style.opacity = slider.value / 100;
  find(".slider output").textContent = slider.value + " %";
};
slider.addEventListener("input", fade);

const choose = () => {
  const hidden = boxes.filter((box) => !box.checked).map((box) => box.value);
  classes.query = hidden.length ? "?hide=" + hidden.join(",") : "";
  redraw();
};
boxes.forEach((box) => box.addEventListener("change", choose));
find(".all").addEventListener("click", (event) => {
  if (!event.target.value) return;
  boxes.forEach((box) => { box.checked = event.target.value === "all"; });
  choose();
});

new ResizeObserver(redraw).observe(map);
fade();
choose();
"""
