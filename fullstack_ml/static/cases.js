// cases.js: every right and wrong answer: slices on the left, the list, the case in hand.
import { api, boot, common, count, holds, percent, query, to } from "./address.js";
import { Bench } from "./bench.js";
import { el, filled } from "./dom.js";

const HIDDEN = new Set(["item", "caption", "error"]), FIRST = ["right", "split", "predicted"];

export async function mount(app) {
  const told = await api.get("/about"), { columns } = told;
  const side = new Slices(columns, (some) => bench.filter(some));
  const bench = new Bench(app, boot, {
    title: el("h1", {}, el("a", { href: to.report(), title: told.run }, told.task || "Report")), about: told.report, columns, side: side.node,
    load: (view, start, n) => api.get(`/cases${query({ ...view, at: 0, view: "", which: "" }, { start, n })}`),
    changed: (view) => side.show(view),
  });
  window.fsml = { bench, outbox: bench.judge.outbox, ready: () => bench.ready() };
  await bench.start();
}

/** Bars by the values of a column: how many, and how many of them are right. A press keeps only these. */
class Slices {
  constructor(columns, pick) {
    Object.assign(this, { pick, view: null });
    const key = `fsml.slices.${boot.label_kind}`;
    let open;
    try { open = JSON.parse(localStorage.getItem(key)); } catch { /* as at first */ }
    open = new Set(open ?? [...FIRST, "confused", "length"]);
    const some = columns.filter((c) => c.kind !== "text" && (c.known !== 0 || c.name === "verdict") && !HIDDEN.has(c.name));
    this.parts = some.map((c) => {
      const body = el("div.slice-body"), box = el("details.slice", { open: open.has(c.name) }, el("summary", {}, c.name.replaceAll("_", " ")), body);
      const part = { column: c, body, box, shown: "" };
      box.addEventListener("toggle", () => { if (box.open) { open.add(c.name); this.#fill(part); } else open.delete(c.name); localStorage.setItem(key, JSON.stringify([...open])); });
      return part;
    });
    this.kept = el("div.slice-body");
    this.keptBox = el("details.slice", { open: true, hidden: true }, el("summary", {}, "kept by the team"), this.kept);
    this.pairs = el("div.slice-body");
    this.pairsBox = el("details.slice", { open: true }, el("summary", {}, "taken for one another"), this.pairs);
    const [first, rest] = [this.parts.filter((p) => FIRST.includes(p.column.name)), this.parts.filter((p) => !FIRST.includes(p.column.name))];
    this.node = el("aside.slices", { ariaLabel: "Slices" }, this.keptBox, first.map((p) => p.box), this.pairsBox, rest.map((p) => p.box));
    this.pairsBox.addEventListener("toggle", () => this.#fillPairs());
  }

  show(view) {
    this.view = view;
    this.#fillKept();
    this.#fillPairs();
    for (const part of this.parts) if (part.box.open) this.#fill(part);
  }

  /** The bars of a column are counted among what the other columns leave. */
  async #fill(part) {
    const { column, body } = part, f = this.view.f.filter(([name]) => name !== column.name), asked = query({ f, q: this.view.q }, { column: column.name });
    if (part.shown === asked) return this.#mark(body);
    if (part.wanted === asked) return;
    part.wanted = asked;
    let rows;
    try { rows = await api.get(`/slice${asked}`); } catch (failure) { part.wanted = ""; body.replaceChildren(el("p.muted", {}, failure.message)); return; }
    if (part.wanted !== asked) return;
    part.shown = asked;
    const list = rows.slices ?? rows, most = Math.max(...list.map((r) => r.n), 1);
    body.replaceChildren(...list.map((r) => this.#bar(r, most)));
    if (!list.length) body.replaceChildren(el("p.muted", {}, "nothing"));
    this.#mark(body);
  }

  /** A button that keeps only the items of a filter, or lets the others in again. */
  #press(filter, title, spec, ...inside) {
    return el(spec, { type: "button", ariaPressed: "false", filter, title, onmousedown: (e) => e.preventDefault(), onclick: () => this.pick(filter) }, inside);
  }

  #mark(body) { for (const b of body.children) if (b.filter) b.ariaPressed = String(holds(this.view.f, b.filter)); }

  #bar(r, most) {
    const fill = filled(r.n / most, r.accuracy === null ? "i.open" : "i");
    const isTold = r.accuracy !== null && !this.view.f.some(([name]) => name === "right"); // among the wrong ones alone a share says nothing
    fill.append(filled(r.accuracy, "b"));
    const named = r.value === true || r.value === "true" ? "yes" : r.value === false || r.value === "false" ? "no" : String(r.value);
    const told = `${named}: ${count(r.n)}${r.accuracy === null ? "" : `, ${percent(r.accuracy)} right (${percent(r.low)} to ${percent(r.high)})`}`;
    return this.#press(r.filter, told, "button.slice-bar",
      el("span.slice-name", {}, named), el("span.num", {}, count(r.n)), el("span.num.share", {}, isTold ? percent(r.accuracy, r.accuracy >= 0.9995 ? 0 : 1) : ""), el("span.slice-fill", {}, fill));
  }

  async #fillPairs() {
    if (!this.pairsBox.open || !this.view) return;
    const asked = query({ f: this.view.f.filter(([name]) => !["predicted", "expected", "truth", "confused"].includes(name)), q: this.view.q });
    if (this.shownPairs === asked) return this.#mark(this.pairs);
    if (this.wantedPairs === asked) return;
    this.wantedPairs = asked;
    try {
      const { pairs } = await api.get(`/confusion${asked}`);
      if (this.wantedPairs !== asked) return;
      this.shownPairs = asked;
      this.pairsBox.hidden = !pairs.length;
      this.pairs.replaceChildren(...pairs.slice(0, 12).map((p) => this.#press(p.filter, `${p.truth} read as ${p.predicted}: ${count(p.n)}`, "button.slice-bar.pair-bar",
        el("span.slice-name", {}, p.truth, el("span.arrow", {}, " → "), el("span.no", {}, p.predicted)), el("span.num", {}, count(p.n)))));
      this.#mark(this.pairs);
    } catch { this.wantedPairs = ""; this.pairs.replaceChildren(); }
  }

  async #fillKept() {
    try {
      const { slices } = await common.get("/slices"), kept = slices ?? [];
      this.keptBox.hidden = !kept.length;
      this.kept.replaceChildren(...kept.map((s) => this.#press(s.filter, s.author ? `kept by ${s.author}` : "", "button.slice-bar.pair-bar", el("span.slice-name", {}, s.name))));
      this.#mark(this.kept);
    } catch { this.keptBox.hidden = true; }
  }
}
