// detail.js: the case in hand: its picture, what it is and what was said, and the verdict.
import { boot, count, percent, to } from "./address.js";
import { cellsOf, known, sureness, tone } from "./cells.js";
import { el, isComposing, kbd } from "./dom.js";
import { Stage } from "./stage.js";

const cells = cellsOf(boot.label_kind), LATE = 1500; // milliseconds after which a picture that does not come holds nobody up

/** What it is and what each model said, under one another. */
export function compared(row, answers = [{ name: "said", predicted: row.predicted, confidence: row.confidence, right: row.right }]) {
  const is = known(row), named = row.truth !== null && row.truth !== undefined ? "is" : "label", first = cells.pair(is ?? null, answers[0]?.predicted ?? null);
  return el(`dl.compared.of-${cells.shape}`, {},
    el("div", {}, el("dt", {}, named), el("dd.is", {}, first[0])),
    answers.map((a) => el(`div.${tone(a)}`, {}, el("dt", {}, a.name), el("dd", {}, a.predicted === null || a.predicted === undefined ? el("span.nothing", {}, row.error || "no answer") : cells.pair(is ?? null, a.predicted)[1]), a.confidence !== null && a.confidence !== undefined && el("dd.at-end", {}, sureness(a.confidence, tone(a))))),
    named === "is" && row.label !== null && row.label !== row.truth && el("div.no", {}, el("dt", {}, "label"), el("dd", {}, cells.pair(row.truth, row.label)[1]), el("dd.at-end.muted", {}, "in the dataset")));
}

export class Detail {
  /** `act(verdict)` judges; `answers(row)` names what each model said; `link(row)` leads to the whole story. */
  constructor(judge, { act, link, answers = undefined, most = 8 }) {
    Object.assign(this, { judge, link, answers, row: null });
    this.stage = new Stage({ most: cells.shape === "square" ? most : 4, margin: 8 });
    this.lost = el("p.lost", { hidden: true }, "no picture");
    this.body = el("div.detail-said");
    this.buttons = judge.buttons(act);
    this.comment = el("textarea", { rows: 1, maxLength: 2000, placeholder: "Comment", ariaLabel: "Comment on this case", disabled: !judge.may, onkeydown: (e) => this.#key(e), onblur: () => this.#keep() });
    this.facts = el("p.facts");
    this.story = el("a.btn.small", { href: "#" }, "Whole story", kbd("Enter"));
    this.node = el("aside.detail", { ariaLabel: "The case in hand" }, el("div.detail-picture", {}, this.stage.window, this.lost), this.body,
      el("div.verdicts", { role: "group", ariaLabel: "Verdict" }, this.buttons), el("label.comment", {}, this.comment, kbd("C")), this.facts, el("div.detail-foot", {}, this.story));
  }

  show(row) {
    if (this.row && this.row !== row) this.#keep();
    const isNew = this.row?.item !== row?.item;
    this.row = row ?? null;
    this.node.classList.toggle("none", !row);
    this.judge.paintButtons(this.buttons, row);
    if (!row) { this.stage.clear(); this.body.replaceChildren(); this.facts.replaceChildren(); this.comment.value = ""; this.drawn = null; return; }
    if (isNew) this.#picture(row);
    this.body.replaceChildren(compared(row, this.answers?.(row)));
    if (isNew || document.activeElement !== this.comment) this.comment.value = this.judge.noteOf(row);
    const other = row.suggested && row.suggested !== row.label && row.suggested !== row.predicted ? `, looks like ${row.suggested}` : "";
    const told = [row.split, row.suspicion > 0 && `suspicion ${row.suspicion.toFixed(2)}${other}`, row.cer > 0 && `${percent(row.cer, 0)} of the characters differ`, row.error].filter(Boolean);
    this.facts.replaceChildren(...(row.caption ? [el("q", {}, row.caption)] : []), ...told.map((t) => el("span", {}, t)));
    this.story.href = this.link(row);
  }

  async #picture(row) {
    const image = new Image();
    this.drawn = null;
    image.alt = `item ${row.item}`;
    image.src = to.picture(row.item, row.report);
    const late = setTimeout(() => { if (this.row?.item === row.item) this.drawn = row.item; }, LATE);
    try { await image.decode(); } catch { if (this.row?.item === row.item) { this.stage.clear(); this.lost.hidden = false; this.drawn = row.item; } return; } finally { clearTimeout(late); }
    if (this.row?.item !== row.item) return;
    this.lost.hidden = true;
    this.stage.show(image, image.naturalWidth, image.naturalHeight);
    this.drawn = row.item;
  }

  /** Is the picture of this row on the screen? Before that no key judges it. */
  has(row) { return this.drawn === row.item; }

  write() { if (this.row && this.judge.may) this.comment.focus(); }

  #keep() { if (this.row) { const text = this.comment.value.normalize("NFC").trim(); if (text !== this.judge.noteOf(this.row)) this.judge.comment(this.row, text); } }

  #key(event) {
    if (isComposing(event) || (event.key !== "Enter" && event.key !== "Escape") || event.shiftKey) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key === "Escape") this.comment.value = this.judge.noteOf(this.row);
    this.comment.blur();
  }
}

export const many = (n, one) => `${count(n)} ${n === 1 ? one : `${one}s`}`;
