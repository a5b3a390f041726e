// panels.js: what opens beside or over the work: guide, questions, skip, comment, keys.
import { button, el, isComposing, kbd, toast } from "./dom.js";

export const SKIPS = ["cannot be seen or read", "the picture is broken", "no class fits", "not sure", "should not be here: private or offensive"];

export const isOpen = () => document.querySelector("dialog[open]") !== null;

/** A modal sheet; the browser's own dialog keeps the focus and knows Escape. */
export function sheetOf(title, ...content) {
  const box = el("dialog.sheet", { ariaLabel: title, tabIndex: -1, onclose: () => box.remove(), oncancel: (e) => { e.preventDefault(); shut(box); }, onclick: (e) => e.target === box && shut(box) },
    el("div.sheet-in", {}, el("div.sheet-head", {}, el("h2", {}, title), el("button.btn.quiet.small", { type: "button", ariaLabel: "Close", onclick: () => shut(box) }, "✕")), content));
  document.body.append(box);
  box.showModal();
  box.focus(); // not the first button: Enter must not close what has just been opened
  return box;
}

/** Closes a sheet and takes it out at once: until the next frame a closed one would keep the focus, and swallow the next key. */
function shut(box) {
  box.close();
  box.remove();
}

/** One key opens it, one digit sends it. */
export function askSkip(send) {
  const pick = (reason, event) => { shut(box); send(reason, event); };
  const other = el("input", { type: "text", maxLength: 300, placeholder: "Another reason (6), then Enter", ariaLabel: "Another reason" });
  other.addEventListener("keydown", (e) => { if (e.key === "Enter" && !isComposing(e) && other.value.trim()) { e.preventDefault(); pick(other.value.normalize("NFC").trim(), e); } });
  const box = sheetOf("Skip, because …", el("div.options", {}, SKIPS.map((reason, i) => el("button.option", { type: "button", onclick: (e) => pick(reason, e) }, kbd(String(i + 1)), reason))), other);
  box.addEventListener("keydown", (e) => {
    if (e.target === other) return;
    const n = Number(/^(?:Digit|Numpad)([1-6])$/.exec(e.code)?.[1]);
    if (!n || e.repeat) return;
    e.preventDefault();
    if (n > SKIPS.length) other.focus(); else pick(SKIPS[n - 1], e);
  });
}

export function askComment(old, keep) {
  const field = el("textarea", { rows: 4, maxLength: 2000, value: old, ariaLabel: "Comment" });
  const done = () => { shut(box); keep(field.value.normalize("NFC").trim()); };
  field.addEventListener("keydown", (e) => { if (e.key === "Enter" && !e.shiftKey && !isComposing(e)) { e.preventDefault(); done(); } });
  const box = sheetOf("Comment on this answer", el("p.muted", {}, "It travels with your answer; reviewers read it."), field, el("div.form-foot", {}, button("Keep", "Enter", done, "button.btn.primary")));
  field.focus();
}

export function showKeys(groups) {
  sheetOf("Keys", el("div.keys", {}, groups.map(([title, rows]) => el("section", {}, el("h3", {}, title), el("dl", {}, rows.filter(Boolean).map(([keys, what]) => el("div", {}, el("dt", {}, kbd(keys)), el("dd", {}, what))))))));
}

/** What the server would not take: it stays until the person has seen it. */
export function showRefused(outbox, open) {
  const box = sheetOf("Not accepted", el("ul.refused", {}, outbox.refused.map((r) => el("li", {},
    el("p", {}, r.refused.message ?? "No reason was given."), r.refused.remedy && el("p.muted", {}, r.refused.remedy),
    el("div.actions", {}, open && r.about && button("Look at it", "", () => { shut(box); outbox.forget(r.id); open(r); }, "button.btn.small"), button("Forget it", "", (e) => { outbox.forget(r.id); e.target.closest("li").remove(); if (!outbox.refused.length) shut(box); }, "button.btn.small.danger"))))));
}

/** Guide and questions in one column beside the work. */
export class Side {
  constructor(api, me, changed) {
    Object.assign(this, { api, me, changed, open: "", seen: 0, task: null });
    this.guide = el("div.prose");
    this.list = el("div.stack");
    this.field = el("textarea", { rows: 3, maxLength: 2000, placeholder: "What do you want to know about this picture?", ariaLabel: "Your question", onkeydown: (e) => this.#key(e) });
    this.ask = el("div.stack", {}, this.field, button("Ask", "Enter", () => this.#send(), "button.btn.primary.small"), el("h3", {}, "Asked before"), this.list);
    this.body = el("div.side-body", { tabIndex: 0 });
    this.title = el("h2");
    this.node = el("aside.panel", { hidden: true, ariaLabel: "Guide and questions" }, el("div.panel-head", {}, this.title, el("button.btn.quiet.small", { type: "button", ariaLabel: "Close the panel", onclick: () => this.close() }, "✕")), this.body);
  }

  toggle(what) { if (this.open === what) this.close(); else this.show(what); }

  close() {
    this.open = "";
    this.node.hidden = true;
    if (this.node.contains(document.activeElement)) document.activeElement.blur();
    this.changed();
  }

  async show(what) {
    this.open = what;
    this.node.hidden = false;
    this.title.textContent = what === "guide" ? "Guide" : "Questions";
    this.body.replaceChildren(what === "guide" ? this.guide : this.ask);
    this.changed();
    if (what === "questions") this.field.focus();
    try { await (what === "guide" ? this.#readGuide() : this.#readQuestions()); } catch (failure) { toast(failure.message, "bad"); }
  }

  of(task) { this.task = task; if (this.open === "questions") this.#readQuestions().catch(() => null); }

  async #readGuide() {
    const { version, html } = await this.api.get("/guide");
    if (version === this.seen && this.guide.firstChild) return;
    this.seen = version;
    this.guide.innerHTML = html; // the one place: the server renders Markdown and escapes what people wrote
    if (!html) this.guide.textContent = "Nobody has written a guide yet.";
    for (const link of this.guide.querySelectorAll("a")) Object.assign(link, { target: "_blank", rel: "noopener" });
    this.title.textContent = version ? `Guide, version ${version}` : "Guide";
    this.changed();
  }

  async #readQuestions() {
    const { questions = [] } = await this.api.get("/questions"), mine = (q) => (q.item ?? q.item_id) === this.task?.item;
    const sorted = [...questions.filter(mine), ...questions.filter((q) => !mine(q) && q.answer)].slice(0, 60);
    this.list.replaceChildren(...(sorted.length ? sorted.map((q) => this.#one(q, mine(q))) : [el("p.muted", {}, "No questions yet.")]));
  }

  #one(q, here) {
    const answer = !q.answer && this.me.role === "manager" && el("textarea", { rows: 2, placeholder: "Answer, for everyone to see", ariaLabel: "Your answer", onkeydown: async (e) => {
      if (e.key !== "Enter" || e.shiftKey || isComposing(e) || !answer.value.trim()) return;
      e.preventDefault();
      try { await this.api.post(`/questions/${q.id}`, { answer: answer.value.normalize("NFC").trim() }); await this.#readQuestions(); } catch (failure) { toast(failure.text, "bad"); }
    } });
    return el("div.q", {}, el("p.asked", {}, q.text), q.answer ? el("p.answer", {}, q.answer) : answer || el("p.muted", {}, "Not answered yet."), el("p.meta", {}, here ? "this picture · " : "", `${q.author}${q.answered_by ? `, answered by ${q.answered_by}` : ""}`));
  }

  #key(event) {
    if (event.key === "Enter" && !event.shiftKey && !isComposing(event)) { event.preventDefault(); this.#send(); }
  }

  async #send() {
    const text = this.field.value.normalize("NFC").trim();
    if (!text || !this.task) return;
    try {
      await this.api.post("/questions", { item: this.task.item, text });
      this.field.value = "";
      toast("Asked. Go on or skip; the answer appears here.");
      await this.#readQuestions();
    } catch (failure) { toast(failure.text, "bad"); } // the text stays in the field
  }
}
