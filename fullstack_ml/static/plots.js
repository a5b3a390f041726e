// plots.js: small plots. Everything that stands for items can be pressed: `href` leads to them.
import { el } from "./dom.js";
import { count, percent } from "./address.js";

const NS = "http://www.w3.org/2000/svg";

function svg(tag, props = {}, ...children) {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value); else node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

const link = (href, label, ...inside) => (href ? svg("a", { href, "aria-label": label }, svg("title", {}, label), inside) : svg("g", {}, svg("title", {}, label), inside));
const round = (x) => Math.round(10 * x) / 10;
const written = (x, y, anchor, text, className = "") => svg("text", { x: round(x), y: round(y), "text-anchor": anchor, class: className }, text);

/** A share with its interval on a line from `from` to 1. */
export function interval({ accuracy, low, high }, from = 0) {
  const at = (v) => round((100 * Math.max(0, v - from)) / (1 - from));
  return svg("svg", { class: "interval", viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("line", { x1: 0, x2: 100, y1: 6, y2: 6 }), svg("rect", { x: at(low), y: 3.5, width: Math.max(0.8, at(high) - at(low)), height: 5, class: "span" }), svg("rect", { x: at(accuracy) - 0.5, y: 0.5, width: 1, height: 11, class: "mid" }));
}

/** Where an axis of shares begins: a full tenth below the lowest one. */
export const floorOf = (lows) => Math.max(0, Math.floor(10 * Math.min(1, ...lows.filter((v) => v !== null && v !== undefined)) - 1e-9) / 10);

/** Shares by value: name, interval, figure, how many; `href(row)` leads to the items. */
export function shares(rows, href, from = floorOf(rows.map((r) => r.low))) {
  return el("ul.shares", {}, rows.map((r) => el("li", {}, el("a", { href: href(r), title: `${r.value}: ${percent(r.accuracy)} of ${count(r.n)} (${percent(r.low)} to ${percent(r.high)})` },
    el("span.shares-name", {}, String(r.value)), interval(r, from), el("b.num", {}, percent(r.accuracy)), el("span.num.muted", {}, count(r.n))))));
}

/** Confidence against accuracy; a bin is as large as many items it holds. */
export function reliability(bins, href) {
  const [w, h, m] = [340, 250, { l: 40, r: 10, t: 10, b: 34 }], x = (v) => m.l + v * (w - m.l - m.r), y = (v) => h - m.b - v * (h - m.t - m.b);
  const most = Math.max(...bins.map((b) => b.n), 1), ticks = [0, 0.25, 0.5, 0.75, 1];
  return svg("svg", { class: "plot", viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": "Accuracy by confidence" },
    ticks.map((t) => [svg("line", { class: "grid", x1: m.l, x2: w - m.r, y1: y(t), y2: y(t) }), written(m.l - 6, y(t) + 3.5, "end", `${100 * t}`), written(x(t), h - m.b + 15, "middle", `${100 * t}`)]),
    svg("line", { class: "ideal", x1: x(0), y1: y(0), x2: x(1), y2: y(1) }),
    written(x(0.5), h - 4, "middle", "how sure the model says it is, %", "axis"), svg("text", { class: "axis", transform: `translate(11 ${y(0.5)}) rotate(-90)`, "text-anchor": "middle" }, "right, %"),
    bins.length > 1 && svg("polyline", { class: "line s0", points: bins.map((b) => `${round(x(b.confidence))},${round(y(b.accuracy))}`).join(" ") }),
    bins.map((b) => link(href(b), `sure ${percent(b.low, 0)} to ${percent(b.high, 0)}: ${percent(b.accuracy)} right of ${count(b.n)}`, svg("circle", { class: "dot", cx: round(x(b.confidence)), cy: round(y(b.accuracy)), r: round(4 + 7 * Math.sqrt(b.n / most)) }))));
}

/** Round marks of an axis of shares: from the top down, not below `low`. */
function sharesFrom(low) {
  const step = low > 0.75 ? 0.05 : low > 0.45 ? 0.1 : low > 0 ? 0.2 : 0.25;
  return Array.from({ length: Math.floor((1 - low) / step + 1e-9) + 1 }, (_, i) => 1 - i * step);
}

/** Series of points {x, y, low, high, n, href}; `names` stand under the plot as its key. */
export function lines(series, { label, ticks = null, low = 0 }) {
  const [w, h, m] = [340, 220, { l: 40, r: 12, t: 10, b: 34 }], all = series.flatMap((s) => s.points);
  const [x0, x1] = [Math.min(...all.map((p) => p.x)), Math.max(...all.map((p) => p.x))], x = (v) => (x1 === x0 ? (m.l + w - m.r) / 2 : m.l + ((v - x0) * (w - m.l - m.r)) / (x1 - x0)), y = (v) => h - m.b - ((v - low) * (h - m.t - m.b)) / (1 - low);
  const marks = ticks ?? [...new Set(all.map((p) => p.x))].sort((a, b) => a - b).map((v) => [v, String(v)]), every = Math.ceil(marks.length / 8);
  return el("figure.plotted", {}, svg("svg", { class: "plot", viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": label },
    sharesFrom(low).map((t) => [svg("line", { class: "grid", x1: m.l, x2: w - m.r, y1: y(t), y2: y(t) }), written(m.l - 6, y(t) + 3.5, "end", `${Math.round(100 * t)}`)]),
    marks.filter((_, i) => i % every === 0).map(([v, text]) => written(x(v), h - m.b + 15, "middle", text)), written(x((x0 + x1) / 2), h - 4, "middle", label, "axis"),
    series.map((s, i) => [
      s.points.length > 1 && s.points.every((p) => p.low !== undefined) && series.length === 1 && svg("polygon", { class: `band s${i % 6}`, points: [...s.points.map((p) => `${round(x(p.x))},${round(y(p.high))}`), ...[...s.points].reverse().map((p) => `${round(x(p.x))},${round(y(Math.max(low, p.low)))}`)].join(" ") }),
      svg("polyline", { class: `line s${i % 6}`, points: s.points.map((p) => `${round(x(p.x))},${round(y(Math.max(low, p.y)))}`).join(" ") }),
      s.points.map((p) => link(p.href, `${s.name ? `${s.name}, ` : ""}${p.about ?? p.x}: ${percent(p.y)}${p.n ? ` of ${count(p.n)}` : ""}`, svg("circle", { class: `dot s${i % 6}`, cx: round(x(p.x)), cy: round(y(Math.max(low, p.y))), r: 3.5 })))])),
    series.length > 1 && el("figcaption.key", {}, series.map((s, i) => el("span", {}, el(`i.s${i % 6}`, { ariaHidden: "true" }), s.name))));
}

const NUMBERS = 16, MOST = 60; // more classes than that: cells without figures, then no cells

/** Who is taken for whom; right answers green by their share of the row, confusions red by how frequent they are. */
export function matrix({ names, matrix: table }, href) {
  if (!table?.length) return null;
  if (names.length > MOST) return el("p.muted", {}, `${names.length} classes are too many for a matrix: the confusions beside it hold the most frequent ones.`);
  const isDense = names.length > NUMBERS;
  const most = Math.max(1, ...table.flatMap((line, i) => line.filter((_, j) => j !== i)));
  const cell = (n, i, j, sum) => {
    const node = el(`td${n ? (i === j ? ".d" : ".e") : ".z"}`, {}, n ? el("a", { href: href(names[i], names[j]), title: `${names[i]} read as ${names[j]}: ${count(n)}`, ariaLabel: `${names[i]} read as ${names[j]}: ${n}` }, isDense ? "" : count(n)) : "");
    if (n) node.style.setProperty("--a", `${Math.round(100 * Math.min(1, i === j ? 0.15 + (0.6 * n) / sum : 0.08 + (0.62 * n) / most))}%`);
    return node;
  };
  return el("div.matrix-place", {}, el(`table.confusion${isDense ? ".dense" : ""}`, {}, el("caption.visually-hidden", {}, "Rows: what it is. Columns: what was said."),
    el("thead", {}, el("tr", {}, el("td.corner", {}, isDense ? "" : "is ↓ said →"), names.map((n) => el("th", { scope: "col", title: n }, el("span", {}, n))))),
    el("tbody", {}, table.map((line, i) => { const sum = line.reduce((a, b) => a + b, 0) || 1; return el("tr", {}, el("th", { scope: "row", title: names[i] }, names[i]), line.map((n, j) => cell(n, i, j, sum))); }))));
}
