// rows.js: a list of any length of which only what is seen exists: rows or a gallery, one of them in hand, some of them chosen.
import { el, say } from "./dom.js";

const PAGE = 100, AIR = 6; // rows asked for at once; lines drawn above and below what is seen

export class Rows {
  /** `load(start, n)` gives {total, rows}; `draw(row, i, isTile)` makes a node; `moved(row, i)` and `chosen()` are told; `open(row, i)` on Enter or a double click. */
  constructor({ load, draw, cells, label, moved = () => {}, chosen = () => {}, open = () => {} }) {
    Object.assign(this, { load, draw, cells, moved, chosen, open, total: null, at: 0, gallery: false, round: 0, pages: new Map(), asked: new Set(), nodes: new Map(), selected: new Map(), trouble: null });
    this.space = el("div.rows-space");
    this.empty = el("div.rows-empty", { hidden: true });
    this.node = el("div.rows", { tabIndex: 0, role: "listbox", ariaLabel: label, onscroll: () => this.#soon() }, this.space, this.empty);
    this.node.setAttribute("aria-multiselectable", "true");
    this.space.addEventListener("click", (e) => this.#click(e));
    this.space.addEventListener("dblclick", (e) => { const i = this.#under(e); if (i !== null && this.row(i) && !e.target.closest("a, .pick")) this.open(this.row(i), i); });
    new ResizeObserver(() => this.#resized()).observe(this.node);
  }

  row(i) { return this.pages.get(Math.floor(i / PAGE))?.[i % PAGE]; }
  get current() { return this.row(this.at); }
  get known() { return [...this.pages.values()].flat(); }

  /** Begins again: another filter, order or search. What was shown stays until the new rows are there. */
  async reset(at = 0) {
    const round = ++this.round;
    this.asked.clear();
    this.node.ariaBusy = "true";
    const first = Math.floor(at / PAGE);
    let answer;
    try {
      answer = await this.load(first * PAGE, PAGE);
      if (round === this.round && at >= answer.total && first > 0) { at = Math.max(0, answer.total - 1); answer = await this.load(Math.floor(at / PAGE) * PAGE, PAGE); }
    } catch (failure) { if (round === this.round) this.#fail(failure); return null; }
    if (round !== this.round) return null;
    this.pages = new Map([[Math.floor(at / PAGE), answer.rows]]);
    for (const node of this.nodes.values()) node.remove();
    this.nodes.clear();
    Object.assign(this, { total: answer.total, at: Math.min(at, Math.max(0, answer.total - 1)), trouble: null });
    this.node.ariaBusy = "false";
    this.empty.hidden = answer.total > 0;
    if (!answer.total) this.empty.replaceChildren(el("p", {}, "Nothing here."), el("p.muted", {}, "No item meets all of these conditions. Esc takes them away."));
    this.#size();
    this.node.scrollTop = 0;
    this.#show(true);
    this.paint();
    this.moved(this.current, this.at);
    return answer;
  }

  setGallery(on) {
    this.gallery = on;
    for (const node of this.nodes.values()) node.remove();
    this.nodes.clear();
    this.node.classList.toggle("gallery", on);
    this.#size();
    this.#show();
    this.paint();
  }

  #fail(failure) {
    this.trouble = failure;
    this.node.ariaBusy = "false";
    if (this.total === null || failure.status >= 400) {
      this.empty.hidden = false;
      this.empty.replaceChildren(el("p", {}, failure.text ?? String(failure)));
      if (failure.status >= 400) { this.total = 0; this.pages.clear(); for (const node of this.nodes.values()) node.remove(); this.nodes.clear(); this.#size(); this.moved(undefined, 0); }
    }
    if (!failure.status || failure.status >= 500) setTimeout(() => { if (this.trouble === failure) { this.asked.clear(); if (this.total === null) this.reset(this.at); else this.paint(); } }, 2500);
  }

  // ---------------------------------------------------------------- places
  #size() {
    const width = this.node.clientWidth, { tile, row } = this.cells;
    this.cols = this.gallery ? Math.max(1, Math.floor((width - 8) / (tile.w + 8))) : 1;
    this.step = this.gallery ? tile.h + 8 : row;
    this.wide = this.gallery ? (width - 8) / this.cols : width;
    this.space.style.height = `${Math.ceil((this.total ?? 0) / this.cols) * this.step + (this.gallery ? 8 : 0)}px`;
  }

  #resized() {
    if (!this.node.clientWidth) return;
    const before = this.cols;
    this.#size();
    if (this.cols !== before) this.#show();
    for (const [i, node] of this.nodes) this.#place(node, i);
    this.paint();
  }

  #place(node, i) {
    const x = (i % this.cols) * this.wide + (this.gallery ? 8 : 0), y = Math.floor(i / this.cols) * this.step + (this.gallery ? 8 : 0);
    Object.assign(node.style, { transform: `translate(${x}px, ${y}px)`, width: `${this.gallery ? this.wide - 8 : this.wide}px`, height: `${this.gallery ? this.step - 8 : this.step}px` });
  }

  #soon() { this.drawing ||= requestAnimationFrame(() => { this.drawing = 0; this.paint(); }); }

  /** Draws what is seen, takes away what is not, asks for what is missing. */
  paint() {
    if (!this.total) return;
    const { scrollTop, clientHeight } = this.node, from = Math.max(0, Math.floor(scrollTop / this.step) - AIR) * this.cols, end = Math.min(this.total, (Math.ceil((scrollTop + clientHeight) / this.step) + AIR) * this.cols);
    for (const [i, node] of this.nodes) if (i < from || i >= end) { node.remove(); this.nodes.delete(i); }
    const fresh = document.createDocumentFragment();
    for (let i = from; i < end; i++) {
      const row = this.row(i);
      if (!row) { this.#ask(Math.floor(i / PAGE)); continue; }
      if (this.nodes.has(i)) continue;
      fresh.append(this.#make(row, i));
    }
    this.space.append(fresh);
  }

  #make(row, i) {
    const node = this.draw(row, i, this.gallery);
    node.dataset.i = i;
    node.setAttribute("role", "option");
    node.classList.toggle("here", i === this.at);
    node.setAttribute("aria-selected", String(this.selected.has(row.item)));
    this.#place(node, i);
    this.nodes.set(i, node);
    return node;
  }

  /** Draws these items again, or all. */
  redraw(items = null) {
    for (const [i, node] of [...this.nodes]) { // a copy: what is made anew is put in again
      const row = this.row(i);
      if (!row || (items && !items.includes(row.item))) continue;
      this.nodes.delete(i);
      node.replaceWith(this.#make(row, i));
    }
  }

  #ask(page) {
    if (this.asked.has(page)) return;
    this.asked.add(page);
    const round = this.round;
    clearTimeout(this.timer);
    this.wanted = [...(this.wanted ?? []), page].slice(-4); // of a quick run through the list only where it ends
    this.timer = setTimeout(async () => {
      const pages = this.wanted;
      this.wanted = [];
      for (const p of this.asked) if (!pages.includes(p) && !this.pages.has(p)) this.asked.delete(p);
      for (const p of pages) {
        try {
          const { rows } = await this.load(p * PAGE, PAGE);
          if (round !== this.round) return;
          this.pages.set(p, rows);
          this.paint();
          if (Math.floor(this.at / PAGE) === p) this.moved(this.current, this.at);
        } catch (failure) { this.asked.delete(p); if (round === this.round) this.#fail(failure); return; }
      }
    }, 40);
  }

  // ---------------------------------------------------------------- in hand and chosen
  /** Brings a row into sight. */
  #show(centre = false) {
    const top = Math.floor(this.at / this.cols) * this.step, bottom = top + this.step + (this.gallery ? 8 : 0), { scrollTop, clientHeight } = this.node;
    if (centre && (top < scrollTop || bottom > scrollTop + clientHeight)) this.node.scrollTop = Math.max(0, top - clientHeight / 3);
    else if (top < scrollTop) this.node.scrollTop = top;
    else if (bottom > scrollTop + clientHeight) this.node.scrollTop = bottom - clientHeight;
  }

  go(i, centre = false) {
    if (!this.total) return;
    this.nodes.get(this.at)?.classList.remove("here");
    this.at = Math.min(this.total - 1, Math.max(0, i));
    this.#show(centre);
    this.paint();
    this.nodes.get(this.at)?.classList.add("here");
    this.moved(this.current, this.at);
  }

  choose(i, on) {
    const row = this.row(i);
    if (!row) return;
    if (on ?? !this.selected.has(row.item)) this.selected.set(row.item, row); else this.selected.delete(row.item);
    this.nodes.get(i)?.setAttribute("aria-selected", String(this.selected.has(row.item)));
    this.chosen();
  }

  clear() {
    if (!this.selected.size) return false;
    this.selected.clear();
    for (const node of this.nodes.values()) node.setAttribute("aria-selected", "false");
    this.chosen();
    say("Nothing is chosen");
    return true;
  }

  #under(event) { const node = event.target.closest("[data-i]"); return node ? Number(node.dataset.i) : null; }

  #click(event) {
    const i = this.#under(event);
    if (i === null || event.target.closest("a")) return;
    if (event.shiftKey) for (let k = Math.min(i, this.at); k <= Math.max(i, this.at); k++) this.choose(k, true);
    else if (event.target.closest(".pick") || event.ctrlKey || event.metaKey) this.choose(i);
    this.go(i);
  }

  /** The keys of every list. Was it one of them? */
  key(name, event) {
    const page = Math.max(1, Math.floor(this.node.clientHeight / this.step) - 1) * this.cols, { cols } = this;
    const step = { j: cols, k: -cols, ArrowDown: cols, ArrowUp: -cols, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity, ...(this.gallery ? { ArrowRight: 1, ArrowLeft: -1, l: 1, h: -1 } : {}) }[name];
    if (step !== undefined) {
      const next = step === Infinity ? this.total - 1 : step === -Infinity ? 0 : this.at + step;
      if (event.shiftKey && Number.isFinite(step)) { this.choose(this.at, true); this.go(next); this.choose(this.at, true); }
      else if (next >= 0 && next < (this.total ?? 0)) this.go(next);
      return true;
    }
    if (name === "x") { this.choose(this.at); return true; }
    if (name === "Enter" && this.current) { this.open(this.current, this.at); return true; }
    return false;
  }
}
