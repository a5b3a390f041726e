// bench.js: what cases and compare share: a list, the case in hand beside it, filters over it, keys for all of it.
import { api, common, count, query, readView, to, toggled, words } from "./address.js";
import { cellsOf, known, sureness, thumb, tone } from "./cells.js";
import { Detail } from "./detail.js";
import { button, el, filled, hexId, isComposing, isTyping, keyName, toast } from "./dom.js";
import { isOpen, sheetOf, showKeys } from "./panels.js";
import { Rows } from "./rows.js";
import { bar, Judge, VERDICTS } from "./verdicts.js";

const OPS = { category: ["=", "!=", "in", "empty"], flag: ["=", "empty"], number: [">=", "<=", ">", "<", "=", "empty"], text: ["has", "=", "empty"] };
const MOST = 5000; // labels sent back at once
const NAMES = { "=": "is", "!=": "is not", in: "is one of", has: "contains", empty: "is empty" };

const said = (row) => [{ name: "said", predicted: row.predicted, confidence: row.confidence, right: row.right }];

export class Bench {
  /** `load(view, start, n)` asks for rows; `answers(row)` names what each model said; `changed()` is told of a new view; `tabs` and `side` are nodes. */
  constructor(app, boot, { title, about = "", columns, load, answers = said, heads = ["what was said"], changed = () => {}, keys = () => null, help = [], tools = [], tabs = null, side = null, searches = true,
    path = (view) => to.cases(view), item = (row, view) => to.item(row.item, view) }) {
    Object.assign(this, { boot, item, load, answers, changed, keys, help, columns, path, view: readView(), cells: cellsOf(boot.label_kind), asked: 0 });
    this.judge = new Judge((items) => { this.rows.redraw(items); this.detail.show(this.rows.current); this.#paintSend(); });
    this.rows = new Rows({ cells: this.cells, label: "Cases", load: (start, n) => this.#load(start, n), draw: (row, i, isTile) => (isTile ? this.#tile(row) : this.#line(row)), moved: (row, i) => this.#moved(row, i), chosen: () => this.#paintChosen(), open: (row, i) => this.open(row, i) });
    this.detail = new Detail(this.judge, { act: (v) => this.say(v), link: (row) => this.item(row, { ...this.view, at: this.rows.at }), answers });
    this.tally = el("p.tally", { ariaLive: "polite" });
    this.chips = el("div.chips");
    this.search = el("input.search", { type: "search", placeholder: "Search", ariaLabel: "Search in ids, labels, predictions and captions", value: this.view.q, oninput: () => this.#searched(), onkeydown: (e) => {
      if (isComposing(e) || (e.key !== "Enter" && e.key !== "Escape")) return;
      e.preventDefault();
      this.search.blur();
    } });
    this.sort = el("select", { ariaLabel: "Order", onchange: () => { this.sort.blur(); this.set({ sort: this.sort.value, down: ["confidence", "suspicion", "cer"].includes(this.sort.value) }); } },
      el("option", { value: "" }, "in order of the report"), columns.filter((c) => !c.many).map((c) => el("option", { value: c.name }, `by ${c.name.replaceAll("_", " ")}`)));
    this.down = button("↓", "", () => this.set({ down: !this.view.down }), "button.btn.small.order");
    this.kind = button("Gallery", "G", () => this.gallery(), "button.btn.small");
    this.more = button("Filter", "F", () => this.ask(), "button.btn.small");
    this.send = button("Send to annotation", "S", () => this.sendBack(), "button.btn.quiet.small");
    this.head = el("div.case-head", { ariaHidden: "true" });
    this.pickBar = el("div.picked", { hidden: true });
    this.toggleSide = side && button("Slices", "B", () => this.node.classList.toggle("open"), "button.btn.quiet.small.side-toggle");
    const used = [this.toggleSide, ...tools, ["Undo", "U", () => this.undo()], boot.me.sends && this.send, ["Keys", "?", () => this.showHelp()]].filter(Boolean);
    this.node = el(`div.bench.of-${this.cells.shape}${side ? "" : ".plain"}`, {}, ...bar(title, el("span.left", {}, about), used, this.judge.state),
      el("div.bench-body", {}, side, el("div.bench-list", {}, tabs,
        el("div.above", {}, el("div.asks", {}, searches && this.search, this.more, searches && el("span.sorting", {}, this.sort, this.down), !searches && el("span.spacer"), this.kind), this.chips, this.tally), this.head,
        el("div.rows-place", {}, this.rows.node, this.pickBar)), this.detail.node));
    this.head.append(el("span"), el("span"), el("span.pair", {}, el("span.is", {}, "what it is"), heads.map((name) => el("span.said", {}, name))), el("span", {}, "split"), el("span.marks", {}, "verdicts"));
    app.replaceChildren(this.node);
    addEventListener("popstate", () => { const before = this.view; this.view = readView(); this.#paintAsks(); this.rows.setGallery(this.view.view === "gallery"); this.refresh(this.view.at, before); });
    addEventListener("keydown", (e) => this.#key(e));
  }

  async start() {
    this.rows.setGallery(this.view.view === "gallery");
    this.#paintAsks();
    this.#paintSend();
    await Promise.all([this.judge.open(), this.refresh(this.view.at)]);
    this.rows.redraw();
    this.rows.node.focus({ preventScroll: true });
  }

  // ---------------------------------------------------------------- what is shown
  /** Changes what is shown; the back button leads to what was shown before. */
  set(change, { push = true } = {}) {
    const before = this.view;
    this.view = { ...before, at: 0, ...change };
    const address = this.path(this.view);
    if (push) history.pushState(null, "", address); else history.replaceState(null, "", address);
    this.#paintAsks();
    return this.refresh(this.view.at, before);
  }

  async refresh(at = 0, before = null) {
    this.changed(this.view, before);
    this.node.dataset.asks = "1";
    const answer = await this.rows.reset(at);
    delete this.node.dataset.asks;
    if (answer) this.#paintTally(answer);
  }

  async #load(start, n) {
    const answer = await this.load(this.view, start, n);
    for (const row of answer.rows) row.verdict ??= { mine: null, counts: {} };
    return answer;
  }

  filter(some) { return this.set({ f: toggled(this.view.f, some) }); }

  gallery() {
    this.view.view = this.view.view === "gallery" ? "" : "gallery";
    history.replaceState(null, "", this.path({ ...this.view, at: this.rows.at }));
    this.rows.setGallery(this.view.view === "gallery");
    this.#paintAsks();
  }

  open(row, i) { this.#note(i); location.href = this.item(row, { ...this.view, at: i }); }

  #note(i) { clearTimeout(this.noting); history.replaceState(null, "", this.path({ ...this.view, at: i })); }

  #moved(row, i) {
    this.detail.show(row);
    clearTimeout(this.noting);
    this.noting = setTimeout(() => this.#note(i), 300); // browsers slow down pages that write the address at every key
  }

  #searched() {
    clearTimeout(this.searching);
    this.searching = setTimeout(() => { const q = this.search.value.trim(); if (q !== this.view.q) this.set({ q }, { push: !this.view.q }); }, 150);
  }

  #paintAsks() {
    const { f, q, sort, down, view } = this.view;
    if (document.activeElement !== this.search) this.search.value = q;
    this.sort.value = sort;
    this.down.firstChild.textContent = down ? "↓" : "↑";
    this.down.ariaLabel = down ? "Largest first" : "Smallest first";
    this.down.hidden = !sort;
    this.kind.firstChild.textContent = view === "gallery" ? "Rows" : "Gallery";
    this.head.hidden = view === "gallery";
    this.chips.hidden = !f.length && !q;
    this.chips.replaceChildren(...f.map((one) => el("button.chip", { type: "button", title: "Take this condition away", onmousedown: (e) => e.preventDefault(), onclick: () => this.set({ f: this.view.f.filter((x) => x !== one) }) }, el("span", {}, words(one)), el("span", { ariaHidden: "true" }, "✕"))),
      ...(q ? [el("button.chip", { type: "button", title: "Search no more", onclick: () => this.set({ q: "" }) }, `“${q}”`, el("span", { ariaHidden: "true" }, "✕"))] : []),
      ...(f.length ? [button("Keep as a slice", "", () => this.keep(), "button.btn.quiet.small")] : []));
  }

  #paintTally({ total, right, wrong }) {
    const judged = (right ?? 0) + (wrong ?? 0), strip = el("i.strip", { ariaHidden: "true" }, filled(right / judged, "b"));
    this.tally.replaceChildren(el("b", {}, count(total)), ` ${total === 1 ? "item" : "items"}`, ...(judged && !this.view.f.some(([name]) => name === "right") ? [strip, el("span.yes", {}, `${count(right)} right`), el("span.no", {}, `${count(wrong)} wrong`), el("span", {}, `${((100 * right) / judged).toFixed(1)} %`)] : []));
  }

  // ---------------------------------------------------------------- rows and tiles
  #line(row) {
    const answers = this.answers(row), is = known(row);
    const node = el(`div.case.${tone(answers.at(-1))}`, {}, el("span.pick", { ariaHidden: "true" }), thumb(to.thumb(row.item, row.report), "", row.width && row.width <= 96), this.#pair(is, answers, row),
      el("span.part", {}, row.split ?? "", this.#sorted(row)), this.judge.marks(row));
    return node;
  }

  /** The figure that the list is sorted by, where no bar shows it. */
  #sorted(row) {
    const { sort } = this.view, value = row[sort];
    return sort !== "confidence" && typeof value === "number" && el("small.num", { title: sort }, Number.isInteger(value) ? count(value) : value.toFixed(2));
  }

  #pair(is, answers, row) {
    const shown = answers.map((a) => ({ ...a, nodes: this.cells.pair(is ?? null, a.predicted ?? null) }));
    const isOther = row.label !== null && row.label !== undefined && row.label !== is;
    return el("span.pair", {}, el("span.is", {}, shown[0].nodes[0], isOther && el("small.was", { title: "The label in the dataset is another" }, "label ", el("s", {}, row.label))),
      shown.map((a) => el(`span.said.${tone(a)}`, {}, el("span.said-what", {}, a.predicted === null || a.predicted === undefined ? el("span.nothing", {}, "no answer") : a.nodes[1]), sureness(a.confidence, tone(a)))));
  }

  #tile(row) {
    const answers = this.answers(row), is = known(row), last = answers.at(-1);
    return el(`div.case.tile.${tone(last)}`, {}, el("span.pick", { ariaHidden: "true" }), thumb(to.thumb(row.item, row.report), "", row.width && row.width <= 96),
      el("span.tile-pair", {}, answers.length > 1 ? [this.cells.pair(is, answers[0].predicted)[1], el("span.arrow", {}, "→"), this.cells.pair(is, last.predicted)[1]]
        : last.right === false ? [el("span.is", {}, this.cells.pair(is, last.predicted)[0]), el("span.arrow", {}, "→"), this.cells.pair(is, last.predicted)[1]] : this.cells.pair(is, last.predicted)[1]), this.judge.marks(row));
  }

  // ---------------------------------------------------------------- acts
  say(verdict) {
    const rows = this.rows.selected.size ? [...this.rows.selected.values()] : this.rows.current ? [this.rows.current] : [];
    if (rows.some((r) => r.report && r.report !== this.boot.report)) { toast("This item is not in this report. Judge it where it is: Enter."); return; }
    if (!rows.length || (!this.rows.selected.size && !this.detail.has(rows[0])) || !this.judge.judge(rows, verdict)) return;
    if (rows.length > 1 || this.rows.selected.size) { toast(`${count(rows.length)} judged: ${verdict}`); this.rows.clear(); } else this.rows.go(this.rows.at + 1);
  }

  undo() {
    const rows = this.judge.undo();
    if (!rows.length) return;
    const at = [...this.rows.nodes.keys()].find((i) => this.rows.row(i)?.item === rows[0].item) ?? this.#find(rows[0].item);
    if (at !== undefined && at >= 0) this.rows.go(at);
    toast(rows.length > 1 ? `${rows.length} verdicts taken back` : "Taken back");
  }

  #find(item) { for (const [page, rows] of this.rows.pages) { const i = rows.findIndex((r) => r.item === item); if (i >= 0) return page * 100 + i; } return -1; }

  /** Wrong labels that wait to be sent: the chosen ones, or all that were judged so in what is shown. */
  #wrong() {
    const rows = this.rows.selected.size ? [...this.rows.selected.values()] : [...new Map([...this.rows.known, ...this.judge.done.flat().map((d) => d.row)].map((r) => [r.item, r])).values()];
    return rows.filter((r) => !r.verdict?.sent && this.judge.counts(r).some(([v]) => v === "wrong label"));
  }

  /** The same, with those that this page has not loaded. */
  async #allWrong() {
    const rows = new Map(this.#wrong().map((r) => [r.item, r])), f = [...this.view.f, ["verdict", "has", "wrong label"]];
    if (this.rows.selected.size) return [...rows.values()];
    for (let start = 0, total = 1; start < total && start < MOST; start += 500) {
      const found = await api.get(`/cases${query({ f, q: this.view.q }, { start, n: 500 })}`).catch(() => ({ total: 0, rows: [] }));
      total = found.total;
      for (const r of found.rows) if (!r.verdict.sent && !rows.has(r.item) && this.judge.counts(r).some(([v]) => v === "wrong label")) rows.set(r.item, r);
    }
    return [...rows.values()].slice(0, MOST);
  }

  #paintSend() {
    const n = this.#wrong().length;
    this.send.firstChild.textContent = n ? `Send ${count(n)} to annotation` : "Send to annotation";
    this.send.disabled = !n;
  }

  async sendBack() {
    if (!this.boot.me.sends) { toast("Only reviewers send labels back.", "bad"); return; }
    const rows = await this.#allWrong();
    if (!rows.length) { toast("No wrong label waits here: judge with 1 first."); return; }
    if (this.judge.outbox.waiting) { await this.judge.outbox.flush(); if (this.judge.outbox.waiting) { toast("Verdicts still wait to be saved; send once they are.", "bad"); return; } }
    try {
      const told = await api.post("/send", { items: rows.map((r) => r.item) });
      for (const r of rows) if (!(r.item in (told.left ?? {}))) r.verdict = { ...r.verdict, sent: true };
      this.#paintSend();
      this.rows.clear();
      const size = (v) => (Array.isArray(v) ? v.length : v ?? 0), left = told.left ? Object.keys(told.left).length : 0;
      const link = told.link || this.boot.annotate;
      sheetOf("Sent to annotation", el("p", {}, `${count(size(told.new) + size(told.again))} wrong labels go to “${told.name ?? told.project}”`, size(told.again) ? `, ${count(size(told.again))} of them once more.` : "."), left > 0 && el("p.muted", {}, `${left} were left out.`),
        el("p.muted", {}, "They come first there, without a suggestion. Build the dataset again once they are answered."), link && el("div.form-foot", {}, el("a.btn.primary", { href: link, target: "_blank", rel: "noopener" }, "Open it there")));
    } catch (failure) { toast(failure.text ?? String(failure), "bad"); }
  }

  #paintChosen() {
    const n = this.rows.selected.size;
    this.pickBar.hidden = !n;
    this.pickBar.replaceChildren(el("b", {}, `${count(n)} chosen`), el("span.muted", {}, "1 to 5 judge all of them"), button("Clear", "Esc", () => this.rows.clear(), "button.btn.small"));
    this.#paintSend();
  }

  /** A condition, written down. */
  ask() {
    const columns = this.columns, column = el("select", { ariaLabel: "Column" }, columns.map((c) => el("option", { value: c.name }, c.name.replaceAll("_", " ")))), op = el("select", { ariaLabel: "Comparison" }), list = el("datalist", { id: `d${hexId()}` }), value = el("input", { ariaLabel: "Value", autocomplete: "off" });
    const of = () => columns.find((c) => c.name === column.value), hint = el("p.hint");
    value.setAttribute("list", list.id);
    const fill = () => {
      const c = of();
      op.replaceChildren(...(OPS[c.kind] ?? OPS.text).map((o) => el("option", { value: o }, NAMES[o] ?? o)));
      list.replaceChildren(...(c.values ?? []).map((v) => el("option", { value: String(v.value ?? v) })));
      hint.textContent = c.kind === "number" && c.low !== null ? `from ${Number(c.low.toPrecision(4))} to ${Number(c.high.toPrecision(4))}` : c.kind === "flag" ? "true or false" : "";
      value.value = c.kind === "flag" ? "true" : "";
    };
    column.onchange = fill;
    op.onchange = () => { if (op.value === "in") hint.textContent = "several, with commas"; if (op.value === "empty") { hint.textContent = "true or false"; value.value = "true"; } };
    fill();
    const done = () => {
      const c = of(), text = value.value.trim(), read = (t) => (op.value === "empty" || c.kind === "flag" ? /^(true|yes|1)$/i.test(t) : c.kind === "number" ? Number(t) : t);
      if (!text || (c.kind === "number" && op.value !== "empty" && Number.isNaN(Number(text)))) { value.setAttribute("aria-invalid", "true"); value.focus(); return; }
      box.close();
      this.set({ f: [...this.view.f, [c.name, op.value, op.value === "in" ? text.split(",").map((t) => read(t.trim())) : read(text)]] });
    };
    value.addEventListener("keydown", (e) => { if (e.key === "Enter" && !isComposing(e)) { e.preventDefault(); done(); } });
    const box = sheetOf("Show only items whose …", el("div.condition", {}, column, op, value), list, hint, el("div.form-foot", {}, button("Show", "Enter", done, "button.btn.primary")));
    column.focus();
  }

  /** Keeps the filters under a name, for everybody. */
  keep() {
    const name = el("input", { ariaLabel: "Name of the slice", maxLength: 100, placeholder: "thin strokes" });
    const done = async () => {
      if (!name.value.trim()) return name.focus();
      try { await common.post("/slices", { name: name.value.normalize("NFC").trim(), filter: this.view.f }); box.close(); this.changed(this.view, null); toast("Kept. Everybody finds it among the slices."); } catch (failure) { toast(failure.text, "bad"); }
    };
    name.addEventListener("keydown", (e) => { if (e.key === "Enter" && !isComposing(e)) { e.preventDefault(); done(); } });
    const box = sheetOf("Keep these conditions as a slice", el("p.muted", {}, this.view.f.map(words).join(" and ")), name, el("div.form-foot", {}, button("Keep", "Enter", done, "button.btn.primary")));
    name.focus();
  }

  showHelp() {
    showKeys([["Cases", [["J K or arrows", "move; with Shift they choose"], ["1 … 5", VERDICTS.join(", ")], ["C", "comment; Enter keeps it"], ["U", "take the last verdict back; also Ctrl+Z"], ["Enter", "the whole story of the case"], ["X", "choose this one; click with Shift for a range"], ["S", "send wrong labels to annotation"]]],
      ["Finding", [["/", "search"], ["F", "filter by any column"], ["G", "gallery or rows"], ["B", "show or hide the slices"], ["Esc", "clear: first what is chosen, then the search, then the filters"], ["+ − =", "zoom the picture; the wheel does too"]]], ...this.help]);
  }

  clear() {
    if (this.rows.clear()) return;
    if (this.node.classList.contains("open")) this.node.classList.remove("open");
    else if (this.view.q) this.set({ q: "" });
    else if (this.view.f.length) this.set({ f: [] });
  }

  #key(event) {
    if (isComposing(event) || isOpen() || event.defaultPrevented || isTyping(event)) return;
    const name = keyName(event);
    if (name === "z" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); this.undo(); return; }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches?.("button, a, summary") && (name === "Enter" || name === " ")) return;
    const own = this.keys(name);
    if (own) { event.preventDefault(); own(); return; }
    if (this.rows.key(name, event)) { event.preventDefault(); return; }
    const act = /^[1-5]$/.test(name) && !event.repeat ? () => this.say(VERDICTS[Number(name) - 1])
      : { c: () => this.detail.write(), u: () => this.undo(), Backspace: () => this.undo(), "/": () => this.search.select(), f: () => this.ask(), g: () => this.gallery(), b: () => this.toggleSide?.click(), s: () => this.sendBack(), "?": () => this.showHelp(), Escape: () => this.clear() }[name];
    if (act && !event.repeat) { event.preventDefault(); act(); return; }
    if (this.detail.stage.key(name)) event.preventDefault();
  }

  /** Everything asked for is there, and the picture in hand is drawn. */
  ready() { return this.rows.total !== null && !this.node.dataset.asks && (!this.rows.current || this.detail.has(this.rows.current)); }
}
