// cells.js: how a label of each kind is shown. A new kind of label brings one more entry, and nothing else knows kinds by name.
//
// shape: what room a picture takes; row and tile: heights and widths in pixels; pair: nodes for what it is and what was said;
// paper: the sheet on which a person draws for the demo: width, height, the usual pen, and how soft its edge is, as a scanned stroke has one.
import { el, filled } from "./dom.js";
import { marked } from "./diff.js";

const none = () => el("span.nothing", {}, "–");
const chip = (text, tone) => el(`span.tag${tone ? "." + tone : ""}`, {}, text);

function choices(truth, predicted) {
  const [t, p] = [truth, predicted].map((v) => (v ? v.split(", ") : []));
  const tags = (names, others, tone) => (names.length ? el("span.tags", {}, names.map((n) => chip(n, others.includes(n) ? "yes" : tone))) : none());
  return [truth === null ? none() : tags(t, t, ""), predicted === null ? none() : tags(p, t, "no")];
}

const written = (parts, tone) => el("span.line", {}, parts.map((p) => [p.gap && el("i.gap", { title: "Something is missing here" }), p.differs ? el(`mark.${tone}`, {}, p.text === " " ? "␣" : p.text) : p.text]));

function texts(truth, predicted) {
  if (truth === null || predicted === null) return [truth, predicted].map((v) => (v === null ? none() : el("span.line", {}, v || "␀")));
  const [t, p] = marked([truth, predicted]);
  return [truth ? written(t, "yes") : el("span.nothing", {}, "empty"), predicted ? written(p, "no") : el("span.nothing", {}, "empty")];
}

/** Names that both hold go out in pairs; what is left over stands out. */
function lists(cut) {
  return (truth, predicted) => {
    const show = (mine, other, tone) => {
      if (mine === null) return none();
      const rest = new Map();
      for (const n of cut(other ?? "")) rest.set(n, (rest.get(n) ?? 0) + 1);
      return el("span.tags", {}, cut(mine).map((n) => { const has = rest.get(n) > 0; if (has) rest.set(n, rest.get(n) - 1); return chip(n, has ? "yes" : tone); }));
    };
    return [show(truth, predicted, ""), show(predicted, truth, "no")];
  };
}

export const CELLS = {
  choice: { shape: "square", row: 60, tile: { w: 124, h: 158 }, pair: choices, paper: { w: 280, h: 280, pen: 42, soft: 7 } },
  text: { shape: "strip", row: 76, tile: { w: 330, h: 132 }, pair: texts, paper: { w: 640, h: 120, pen: 6, soft: 1 } },
  boxes: { shape: "square", row: 68, tile: { w: 190, h: 214 }, pair: lists((v) => v.split(", ").filter(Boolean)), paper: { w: 480, h: 360, pen: 10, soft: 1 } },
  sequence: { shape: "none", row: 60, tile: { w: 330, h: 132 }, pair: lists((v) => v.split(" ").filter(Boolean)), paper: null },
};
export const cellsOf = (kind) => CELLS[kind] ?? CELLS.choice;

/** A thumbnail; where there is no picture it says so in its place. */
export function thumb(src, alt, small = false) {
  const place = el("span.shot");
  const image = el("img", { alt, decoding: "async", draggable: false, onerror: () => place.replaceChildren(el("span.lost", {}, "no picture")) });
  if (small) image.className = "tiny";
  image.src = src;
  place.append(image);
  return place;
}

/** How sure the model was, as a bar with its figure. */
export function sureness(value, tone = "") {
  if (value === null || value === undefined) return el("span.sure", {}, none());
  return el(`span.sure${tone ? "." + tone : ""}`, { title: `${(100 * value).toFixed(1)} %` }, el("span.sure-bar", { ariaHidden: "true" }, filled(value)), el("span.num", {}, value >= 0.9995 ? "1.00" : value.toFixed(2)));
}

export const tone = (row) => (row.right === true ? "yes" : row.right === false ? "no" : "open");
/** What the item is, as far as anybody knows: what the report judged by, else the checked label, else the label. */
export const known = (row) => row.expected ?? row.truth ?? row.label;
