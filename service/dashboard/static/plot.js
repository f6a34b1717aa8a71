// Candidates on two axes of the reader's choice, as SVG. One tab stop; arrow keys walk the points from left to right.

import { element, marker, ticks } from "./shapes.js";

const LEGEND = [
  ["model", "a model alone"], ["uniform", "uniform merge"], ["start", "other start"], ["gradient", "gradient"], ["search", "search"],
];

export class Plot {
  constructor(figure) {
    this.figure = figure;
    this.points = [];
    this.revision = null;
    this.current = -1;
    new ResizeObserver(() => {
      if (this.drawn && this.width() !== this.drawn) this.draw();
    }).observe(figure);
  }

  /** Fetch and draw again if the server's revision is another. */
  async update() {
    const { revision, points } = this.figure.dataset;
    if (!revision || revision === this.revision || revision === "0") return;
    try {
      const response = await fetch(points, { headers: { Accept: "application/json" }, cache: "no-store" });
      if (!response.ok) return;
      this.points = (await response.json()).points;
      this.revision = revision;
    } catch {
      return;
    }
    if (!this.points.length) return;
    this.controls ??= this.build();
    this.fill();
    this.draw();
  }

  width() {
    return Math.max(280, Math.round(this.chart.clientWidth));
  }

  axes() {
    const named = this.figure.dataset.axes.split(" ").filter(Boolean);
    const domains = named.filter((axis) => axis !== "refusal" && axis !== "compliance");
    return domains.length > 1 ? [...named, "domains"] : named;
  }

  build() {
    const controls = document.createElement("div");
    controls.className = "controls";
    for (const side of ["x", "y"]) {
      const label = document.createElement("label");
      const select = document.createElement("select");
      select.id = `axis-${side}`;
      select.addEventListener("change", () => this.draw());
      label.append(side === "x" ? "Across" : "Up", select);
      controls.append(label);
    }
    const only = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.id = "front-only";
    box.addEventListener("change", () => this.draw());
    only.append(box, "front only");
    controls.append(only);
    this.chart = document.createElement("div");
    this.chart.className = "chart";
    this.spoken = document.createElement("p");
    this.spoken.className = "spoken";
    this.spoken.setAttribute("aria-live", "polite");
    this.legend = document.createElement("ul");
    this.legend.className = "legend";
    this.figure.replaceChildren(controls, this.chart, this.spoken, this.legend);
    return controls;
  }

  /** Offer every axis; keep the reader's choice, else refusal across and the mean domain up. */
  fill() {
    const axes = this.axes();
    const up = axes.includes("domains") ? "domains" : axes.find((axis) => axis !== "refusal" && axis !== "compliance") ?? axes.at(-1);
    const wanted = { x: axes.includes("refusal") ? "refusal" : axes[0], y: up };
    for (const side of ["x", "y"]) {
      const select = document.getElementById(`axis-${side}`);
      const chosen = axes.includes(select.value) ? select.value : wanted[side];
      select.replaceChildren(...axes.map((axis) => new Option(name(axis), axis, false, axis === chosen)));
    }
  }

  draw() {
    const [x, y] = ["x", "y"].map((side) => document.getElementById(`axis-${side}`).value);
    const only = document.getElementById("front-only").checked;
    const shown = this.points.filter((p) => x in p.scores && y in p.scores && (!only || p.front || p.winner || p.kind === "model" || p.kind === "uniform"));
    const width = this.width();
    const height = width < 620 ? Math.round(0.95 * width) + 40 : 440;
    const box = { left: 52, right: width - 18, top: 14, bottom: height - 46 };
    const [xs, ys] = [x, y].map((axis) => ticks(shown.map((p) => p.scores[axis]), axis === x && width < 620 ? 6 : 7));
    const place = (value, [low, high], from, to) => from + ((value - low) / (high - low)) * (to - from);
    for (const p of shown) {
      p.x = place(p.scores[x], xs.range, box.left, box.right);
      p.y = place(p.scores[y], ys.range, box.bottom, box.top);
    }
    this.shown = shown.sort((a, b) => a.x - b.x || a.y - b.y);
    const held = this.svg === document.activeElement ? this.held : null;
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, "aria-label": this.summary(x, y) });
    this.grid(svg, box, xs, ys, place, name(x), name(y));
    svg.append(element("path", { class: "edge", d: edge(shown, box) }));
    for (const p of [...shown].sort((a, b) => weight(a) - weight(b))) svg.append(...dot(p));
    labels(svg, shown, box);
    this.drawn = width;
    this.listen(svg);
    this.chart.replaceChildren(svg);
    this.svg = svg;
    this.tip = null;
    this.current = -1;
    this.legendFor(shown);
    if (held != null) {
      svg.focus({ preventScroll: true });
      this.point(this.shown.findIndex((p) => p.number === held), true);
    }
  }

  summary(x, y) {
    const best = this.points.find((p) => p.winner);
    const says = best ? ` The winner, trial ${best.number}, has ${name(x)} ${figure(best.scores[x])} and ${name(y)} ${figure(best.scores[y])}.` : "";
    return `${this.shown?.length ?? this.points.length} candidates by ${name(x)} and ${name(y)}.${says} Arrow keys walk the points.`;
  }

  grid(svg, box, xs, ys, place, across, up) {
    for (const value of xs.ticks) {
      const at = place(value, xs.range, box.left, box.right);
      svg.append(element("line", { class: "rule", x1: at, x2: at, y1: box.top, y2: box.bottom }));
      svg.append(element("text", { x: at, y: box.bottom + 17, "text-anchor": "middle" }, xs.text(value)));
    }
    for (const value of ys.ticks) {
      const at = place(value, ys.range, box.bottom, box.top);
      svg.append(element("line", { class: "rule", x1: box.left, x2: box.right, y1: at, y2: at }));
      svg.append(element("text", { x: box.left - 8, y: at + 4, "text-anchor": "end" }, ys.text(value)));
    }
    svg.append(element("text", { class: "axis-title", x: box.right, y: box.bottom + 36, "text-anchor": "end" }, `${across} →`));
    svg.append(element("text", { class: "axis-title", x: 14, y: box.top, "text-anchor": "end", transform: `rotate(-90 14 ${box.top})` }, `${up} →`));
  }

  listen(svg) {
    const nearest = (event) => {
      const frame = svg.getBoundingClientRect();
      const [px, py] = [event.clientX - frame.left, event.clientY - frame.top];
      let found = -1;
      let least = 26 ** 2;
      this.shown.forEach((p, index) => {
        const distance = (p.x - px) ** 2 + (p.y - py) ** 2 - (p.winner ? 60 : 0);
        if (distance < least) [found, least] = [index, distance];
      });
      this.point(found, false);
    };
    svg.addEventListener("pointermove", nearest);
    svg.addEventListener("pointerdown", nearest);
    svg.addEventListener("pointerleave", () => this.point(-1, false));
    svg.addEventListener("blur", () => this.point(-1, false));
    svg.addEventListener("keydown", (event) => {
      const last = this.shown.length - 1;
      const at = this.current;
      const to = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at < 0 ? last : at - 1, ArrowDown: at < 0 ? last : at - 1, Home: 0, End: last }[event.key];
      if (event.key === "Escape") this.point(-1, false);
      if (event.key === "Enter" && at >= 0) location.href = `?trial=${this.shown[at].number}#coefficients`;
      if (to === undefined) return;
      event.preventDefault();
      this.point(Math.min(last, Math.max(0, to)), true);
    });
  }

  /** Show one point's scores beside it; -1 hides them. */
  point(index, aloud) {
    if (index === this.current) return;
    this.current = index;
    this.svg.querySelector(".cursor")?.remove();
    this.tip?.remove();
    this.tip = null;
    this.held = null;
    if (index < 0) return;
    const p = this.shown[index];
    this.held = p.number;
    this.svg.append(element("circle", { class: "cursor", cx: p.x, cy: p.y, r: 9 }));
    this.tip = this.card(p);
    this.chart.append(this.tip);
    const [left, top] = [p.x, p.y];
    const { offsetWidth: wide, offsetHeight: high } = this.tip;
    this.tip.style.left = `${left + wide + 18 > this.chart.clientWidth ? Math.max(0, left - wide - 14) : left + 14}px`;
    this.tip.style.top = `${Math.max(0, Math.min(top - high / 2, this.chart.clientHeight - high))}px`;
    if (aloud) this.spoken.textContent = `${this.tip.querySelector("h3").textContent}. ${this.names().map((axis) => `${name(axis)} ${figure(p.scores[axis])}`).join(", ")}`;
  }

  names() {
    return this.axes();
  }

  card(p) {
    const tip = document.createElement("div");
    tip.className = "tip";
    const title = document.createElement("h3");
    title.textContent = `Trial ${p.number}, ${p.title}${p.winner ? ", the winner" : p.front ? ", on the front" : ""}`;
    const list = document.createElement("dl");
    const add = (tag, text, kind = "") => Object.assign(list.appendChild(document.createElement(tag)), { textContent: text, className: kind });
    if (p.judged) for (const [tag, text] of [["dt", ""], ["dd", "search"], ["dd", "judged"]]) add(tag, text, "over");
    for (const axis of this.names()) {
      add("dt", name(axis));
      add("dd", figure(p.scores[axis]));
      add("dd", p.judged ? figure(p.judged[axis]) : "");
    }
    tip.append(title, list);
    return tip;
  }

  legendFor(shown) {
    const kinds = new Set(shown.map((p) => p.kind));
    const item = (text, ...shapes) => {
      const li = document.createElement("li");
      const svg = element("svg", { width: 14, height: 14, viewBox: "-7 -7 14 14", class: "chart", "aria-hidden": "true" });
      svg.append(...shapes);
      li.append(svg, text);
      return li;
    };
    this.legend.className = "legend chart";
    this.legend.replaceChildren(
      ...LEGEND.filter(([kind]) => kinds.has(kind)).map(([kind, text]) => item(text, marker(kind, 0, 0, 5, `mark front kind-${kind}`))),
      item("filled: on the front of all axes", marker("search", -3, 0, 4, "mark kind-search"), marker("search", 4, 0, 4, "mark front kind-search")),
      item("best trade-offs of these two axes", element("path", { class: "edge", d: "M-7 -3H0V4H7" })),
    );
  }
}

function name(axis) {
  return axis === "domains" ? "Mean domain" : axis.charAt(0).toUpperCase() + axis.slice(1).replaceAll("_", " ");
}

function figure(value) {
  return value === undefined || value === null ? "–" : value.toFixed(3);
}

/** Drawn last, seen best. */
function weight(p) {
  return p.winner ? 4 : p.kind === "model" || p.kind === "uniform" ? 3 : p.front ? 2 : 1;
}

function dot(p) {
  const shape = marker(p.kind, p.x, p.y, p.winner ? 6.5 : p.front || p.kind !== "search" ? 5 : 4, `mark kind-${p.kind}${p.front || p.winner ? " front" : ""}`);
  shape.dataset.trial = p.number;
  return p.winner ? [shape, element("circle", { class: "halo", cx: p.x, cy: p.y, r: 11 })] : [shape];
}

/** Staircase of the points that no other beats on both drawn axes. */
function edge(shown, box) {
  const best = [];
  for (const p of [...shown].sort((a, b) => b.x - a.x || a.y - b.y)) if (!best.length || p.y < best.at(-1).y) best.push(p);
  if (!best.length) return "";
  const steps = best.slice(1).map((p) => `H${p.x}V${p.y}`).join("");
  return `M${best[0].x} ${box.bottom}V${best[0].y}${steps}H${box.left}`;
}

/** Names beside the winner, the models and the uniform merge, moved up or down where they would collide. */
function labels(svg, shown, box) {
  const taken = [];
  const named = shown.filter((p) => p.winner || p.kind === "model" || p.kind === "uniform").sort((a, b) => weight(b) - weight(a));
  for (const p of named) {
    const text = p.winner ? "winner" : p.title.replace(/ alone$/, "");
    const wide = 6.6 * text.length;
    const right = p.x + 16 + wide < box.right;
    const left = right ? p.x + (p.winner ? 15 : 10) : p.x - (p.winner ? 15 : 10) - wide;
    let y = p.y + 4;
    for (const shift of [0, -14, 14, -28, 28, -42, 42]) {
      y = Math.min(box.bottom - 4, Math.max(box.top + 8, p.y + 4 + shift));
      if (!taken.some((t) => Math.abs(t.y - y) < 13 && left < t.left + t.wide + 4 && t.left < left + wide + 4)) break;
    }
    taken.push({ left, wide, y });
    svg.append(element("text", { class: `label${p.winner ? " win" : ""}`, x: left, y }, text));
  }
}
