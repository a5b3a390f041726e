// verdicts.js: what the team says about a case. A verdict is written down in the browser first, and sent behind the judge's back.
import { api, boot } from "./address.js";
import { button, el, hexId, kbd, say, toast } from "./dom.js";
import { Outbox } from "./outbox.js";
import { State } from "./state.js";

export const VERDICTS = ["wrong label", "model error", "ambiguous", "bad picture", "fine"];
export const TONES = { "wrong label": "warn", "model error": "bad", ambiguous: "info", "bad picture": "info", fine: "good" };

export class Judge {
  /** `changed(items)` is told what must be drawn again. */
  constructor(changed) {
    Object.assign(this, { changed, done: [], notes: new Map() });
    this.outbox = new Outbox(api, `report ${boot.report}`, boot.me.name);
    this.state = new State(this.outbox, { one: "verdict" });
    this.outbox.addEventListener("settled", ({ detail }) => {
      if (!detail.error) return;
      for (const { row } of this.done.flat()) if (row.verdict?.own?.id === detail.record.body.id) delete row.verdict.own; // it was refused
      this.changed([detail.record.body.item]);
    });
    this.state.paint();
  }

  get may() { return Boolean(boot.me.judges); }
  open() { return this.outbox.open(); }

  /** What this person said last, be it sent or not: {verdict, comment} or null. */
  mine(row) {
    const waits = this.outbox.records.findLast((r) => r.kind === "verdicts" && r.body.item === row.item)?.body;
    const held = waits ?? row.verdict?.own ?? (row.verdict?.mine ? (typeof row.verdict.mine === "string" ? { verdict: row.verdict.mine, comment: row.verdict.comment ?? "" } : row.verdict.mine) : null);
    return held?.verdict ? held : null;
  }

  /** How many people said what, with what this person says now. */
  counts(row) {
    const said = { ...(row.verdict?.counts ?? {}) }, before = row.verdict?.mine?.verdict ?? row.verdict?.mine, now = this.mine(row)?.verdict;
    if (before && said[before]) said[before]--;
    if (now) said[now] = (said[now] ?? 0) + 1;
    return Object.entries(said).filter(([, n]) => n > 0);
  }

  /** Says a verdict about some rows; the comment of one that is judged again stays, unless there is a new one. */
  judge(rows, verdict, comment = null) {
    if (!this.may) { toast("Your role looks, it does not judge.", "bad"); return false; }
    this.done.push(rows.map((row) => ({ row, before: this.mine(row) })));
    for (const row of rows) this.#say(row, verdict, comment ?? this.notes.get(row.item) ?? this.mine(row)?.comment ?? "");
    say(rows.length > 1 ? `${rows.length} items: ${verdict}` : verdict);
    this.changed(rows.map((r) => r.item));
    return true;
  }

  #say(row, verdict, comment) {
    const body = { id: hexId(), item: row.item, verdict, comment };
    this.notes.delete(row.item);
    this.outbox.add("verdicts", body, { item: row.item });
    row.verdict = { counts: {}, ...row.verdict, own: body };
  }

  /** Takes the last act back: what was said before is said again, or that nothing is said. Gives the rows. */
  undo() {
    const last = this.done.pop();
    if (!last) { toast("Nothing to take back."); return []; }
    for (const { row, before } of last) this.#say(row, before?.verdict ?? "", before?.comment ?? "");
    const rows = last.map((d) => d.row);
    this.changed(rows.map((r) => r.item));
    say("Taken back");
    return rows;
  }

  /** A comment of a case: with its verdict where there is one, kept for it where there is none yet. */
  comment(row, text) {
    const now = this.mine(row);
    if (now && now.comment !== text) this.judge([row], now.verdict, text);
    else if (!now) this.notes.set(row.item, text);
  }

  noteOf(row) { return this.notes.get(row.item) ?? this.mine(row)?.comment ?? ""; }

  /** What people said, as small marks; one's own is filled. */
  marks(row) {
    const mine = this.mine(row)?.verdict;
    return el("span.marks", {}, this.counts(row).map(([v, n]) => el(`span.badge.${TONES[v] ?? "info"}${v === mine ? ".own" : ""}`, { title: v === mine ? "your verdict" : "" }, v, n > 1 && ` ${n}`)));
  }

  /** Buttons for the row in hand. */
  buttons(act) {
    return VERDICTS.map((v, i) => el("button.verdict", { type: "button", ariaPressed: "false", disabled: !this.may, dataset: { tone: TONES[v], verdict: v }, onclick: () => act(v), onmousedown: (e) => e.preventDefault() }, kbd(String(i + 1)), el("span", {}, v), el("span.who")));
  }

  paintButtons(buttons, row) {
    const mine = row && this.mine(row)?.verdict, said = row ? Object.fromEntries(this.counts(row)) : {};
    buttons.forEach((b, i) => {
      b.ariaPressed = String(VERDICTS[i] === mine);
      b.disabled = !row || !this.may;
      const others = (said[VERDICTS[i]] ?? 0) - (VERDICTS[i] === mine ? 1 : 0);
      b.lastChild.textContent = others > 0 ? `+${others}` : "";
      b.lastChild.title = others > 0 ? `${others} ${others === 1 ? "other says" : "others say"} so` : "";
    });
  }
}

/** The bar over the work: what it is about, tools, and the state of what is sent. */
export function bar(title, about, tools, state) {
  return [el("div.bar", {}, el("div.bar-title", {}, title, about), el("div.bar-tools", { role: "toolbar", ariaLabel: "Tools" }, tools.map((t) => (t instanceof Node ? t : button(...t, "button.btn.quiet.small")))), state.node), state.banner];
}
