// review.js: where answers differ. One key takes an answer as the decision; nothing that people answered is changed by it.
import { boot as readBoot, button, drawn, el, hexId, isComposing, isTyping, kbd, keyName, sameLabel, say, sheet, toast } from "./dom.js";
import { marked } from "./diff.js";
import { Frame } from "./frame.js";
import { Painter } from "./paint.js";
import { askComment, isOpen, showKeys } from "./panels.js";
import { Stage } from "./stage.js";

const TONES = ["#ff5c7a", "#35c2ff", "#ffd23f", "#5fe08a", "#c58bff", "#ff9f3d", "#3fe0d0", "#ff86d0", "#b6e34b"], AHEAD = 50, SOON = 4;
const boot = readBoot(), { project } = boot, { classes, label_kind: kind } = project;
const WIDGETS = { choice: "./choice.js", text: "./text.js", boxes: "./boxes.js" };
await sheet("review.css");

let queue = [], trail = [], back = 0, shown = null, locked = true, asking = false, at = 0, solo = -1, own = null, trouble = null, comment = "";
const seen = new Set(); // decided or put off on this page: the server may name them once more
const frame = new Frame(boot, { tools: [["undo", "Back", "U", goBack], ["later", "Later", "S", putOff], ["own", "Own answer", "O", () => makeOwn()], ["comment", "Comment", "C", write], ["questions", "Questions", "Q", () => frame.side.toggle("questions")], ["guide", "Guide", "G", () => frame.side.toggle("guide")], ["help", "Keys", "?", help]] });
const { api, outbox, pace: mine, side } = frame;
frame.trouble = () => trouble;
window.fsml = { timings: [], outbox, trail };

const stage = new Stage({ changed: () => later(), most: kind === "choice" ? 14 : 64 }), painter = new Painter(stage, classes);
const list = el("div.answers", { role: "listbox", ariaLabel: "Answers" }), why = el("div.why"), editor = el("div.place.own", { hidden: true }), view = el(`div.widget.review.of-${kind}`, {}, stage.window, el("div.side", {}, why, list, el("div.side-foot", {}, el("p.hint", {}, "A number takes this answer. O makes an own one."))));
const veil = el("div.veil"), trace = el("div.trace", { hidden: true });
frame.host.append(view, editor, trace, veil);

// ---------------------------------------------------------------- loading
async function refill() {
  if (asking || queue.length > 10) return;
  asking = true;
  let wait = 0;
  try {
    const { disputes } = await api.get(`/disputes?n=${AHEAD}`), held = new Set([...queue, ...trail].map((d) => d.item));
    trouble = null;
    const fresh = disputes.filter((d) => !held.has(d.item) && !seen.has(d.item) && !outbox.has((b) => b.item === d.item));
    queue.push(...fresh.map(prepare));
    wait = fresh.length ? 0 : 15000; // what is left was put off, or nothing is
  } catch (failure) { trouble = failure; wait = 3000; if ([401, 403].includes(failure.status)) await api.renew().catch(() => ""); }
  asking = false;
  if (wait) setTimeout(refill, wait);
  frame.paint();
  soon();
  if (!shown) show();
}

/** Equal answers become one card, the most frequent first. */
function prepare(dispute) {
  const cards = [];
  const skips = (dispute.skips ?? []).map((s) => ({ annotator: s.annotator, label: null, skip: s.reason }));
  for (const a of [...dispute.answers, ...skips]) {
    const same = cards.find((c) => sameLabel(c.label, a.label) && (a.label || c.skip === a.skip));
    if (same) same.by.push(a); else cards.push({ label: a.label, skip: a.skip ?? "", by: [a] });
  }
  cards.sort((a, b) => Boolean(b.label) - Boolean(a.label) || b.by.length - a.by.length);
  cards.forEach((c, i) => { c.tone = TONES[i % TONES.length]; });
  if (kind === "text") {
    const texts = cards.filter((c) => c.label);
    if (texts.length) marked(texts.map((c) => c.label.text)).forEach((parts, i) => { texts[i].parts = parts; });
  }
  if (kind === "boxes") for (const c of cards) c.odd = (c.label?.boxes ?? []).filter((b) => cards.some((o) => o !== c && o.label && !o.label.boxes.some((p) => p.name === b.name && overlap(b, p) >= 0.5)));
  return { ...dispute, cards };
}

function overlap(a, b) {
  const w = Math.min(a.x + a.w, b.x + b.w) - Math.max(a.x, b.x), h = Math.min(a.y + a.h, b.y + b.h) - Math.max(a.y, b.y);
  return w <= 0 || h <= 0 ? 0 : (w * h) / (a.w * a.h + b.w * b.h - w * h);
}

function load(dispute) {
  dispute.loading ??= (async () => {
    for (let tries = 0; !dispute.image; tries++) {
      const image = new Image();
      image.alt = "The picture in dispute";
      image.src = dispute.picture;
      try { await image.decode(); dispute.image = image; } catch { if (tries > 4) { dispute.broken = true; break; } await new Promise((done) => setTimeout(done, 300 * 2 ** tries)); }
    }
    if (dispute === current()) show();
  })();
}

const soon = () => queue.slice(0, SOON).forEach(load);
const current = () => (back ? trail[trail.length - back] : queue[0]);

// ---------------------------------------------------------------- showing
function show() {
  const dispute = current();
  locked = true;
  closeOwn();
  frame.setLeft(queue.length || !asking ? queue.length : null);
  frame.tools.undo.disabled = back >= trail.length;
  for (const tool of ["later", "own", "comment"]) frame.tools[tool].disabled = !dispute;
  trace.hidden = !back;
  trace.replaceChildren(el("b", {}, `${back} back`), el("span.trace-keys", {}, "Page Down: on · Esc: to the front"));
  if (!dispute || (!dispute.image && !dispute.broken)) {
    if (dispute) load(dispute);
    shown = null;
    veil.replaceChildren(el("div.veil-in", {}, el("p", {}, dispute || asking ? "Loading …" : trouble ? trouble.status === 403 ? "Only reviewers decide." : "The server does not answer." : "No disputes are left."), !dispute && !asking && !trouble && el("p.muted", {}, "Where answers differ, they appear here.")));
    veil.hidden = false;
    return;
  }
  veil.hidden = true;
  shown = dispute;
  [at, solo, comment] = [0, -1, ""];
  if (dispute.image) stage.show(dispute.image, dispute.width, dispute.height); else stage.clear();
  why.replaceChildren(el("span.badge.warn", {}, dispute.why || "differ"), el("span.muted", {}, `${dispute.answers.length} ${dispute.answers.length === 1 ? "answer" : "answers"}`), dispute.decided ? el("span.badge.good", {}, "decided") : "");
  list.replaceChildren(...dispute.cards.map(cardOf));
  paint();
  draw();
  side.of(dispute);
  drawn().then(() => { if (shown === dispute) locked = false; });
}

function cardOf(card, i) {
  const swatch = el("i.swatch", { ariaHidden: "true" });
  swatch.style.background = card.tone;
  const node = el("button.answer", { type: "button", role: "option", onmousedown: (e) => e.preventDefault(), onclick: () => take(i), onpointerenter: () => { solo = i; later(); }, onpointerleave: () => { solo = -1; later(); } },
    el("span.answer-head", {}, kbd(String(i + 1)), kind === "boxes" && swatch, el("span.answer-who", {}, card.by.map((a) => a.annotator).join(", ")), el("span.muted", {}, pace(card))), bodyOf(card));
  return node;
}

const pace = (card) => { const s = card.by.map((a) => a.seconds).filter((n) => n > 0); return s.length ? `${(s.reduce((a, b) => a + b) / s.length).toFixed(1)} s` : ""; };

function bodyOf(card) {
  if (!card.label) return el("span.answer-body", {}, el("span.badge.warn", {}, "skipped"), ` ${card.skip}`);
  if (kind === "choice") return el("span.answer-body", {}, card.label.names.map((n) => el("span.chip", {}, n)));
  if (kind === "text") return el("span.answer-body.answer-text", {}, card.parts.map((p) => [p.gap && el("i.gap", { title: "Something is missing here" }), p.differs ? el("mark", {}, p.text === " " ? "␣" : p.text) : p.text]));
  const tally = new Map();
  for (const b of card.label.boxes) tally.set(b.name, (tally.get(b.name) ?? 0) + 1);
  return el("span.answer-body", {}, `${card.label.boxes.length} boxes`, el("span.muted", {}, ` · ${[...tally].map(([n, c]) => `${c} ${n}`).join(", ") || "none"}`), card.odd.length > 0 && el("span.odd", {}, `${card.odd.length} without a partner`));
}

function paint() {
  [...list.children].forEach((node, i) => { node.ariaSelected = String(i === at); node.classList.toggle("picked", Boolean(shown?.decided) && sameLabel(shown.cards[i].label, shown.decided)); });
  list.children[at]?.scrollIntoView({ block: "nearest" });
  frame.tools.comment.classList.toggle("has", comment !== "");
}

let drawing = 0;
const later = () => { drawing ||= requestAnimationFrame(draw); };

/** What nobody else drew stands out; what all agree on steps back. */
function draw() {
  drawing = 0;
  painter.begin();
  if (kind !== "boxes" || !shown) return;
  shown.cards.forEach((card, i) => {
    if (!card.label || (solo >= 0 && solo !== i)) return;
    const odd = new Set(card.odd);
    painter.boxes(card.label.boxes.filter((b) => !odd.has(b)), { colour: card.tone, names: solo === i, dash: solo === i ? [] : [3, 4] });
    painter.boxes(card.odd, { colour: card.tone });
  });
}

// ---------------------------------------------------------------- deciding
function take(i) {
  const card = shown?.cards[i];
  if (locked || !card) return;
  if (!card.label) { toast("A decision needs a label: take another answer, or make an own one with O."); return; }
  decide(card.label);
}

function decide(label) {
  const dispute = shown;
  locked = true;
  if (!dispute.decided || !sameLabel(dispute.decided, label) || comment) outbox.add("decisions", { id: hexId(), item: dispute.item, label, comment }, { item: dispute.item });
  if (!dispute.decided) mine.add();
  dispute.decided = label;
  say("Decided");
  leave(dispute);
}

function putOff() {
  if (!locked && shown) leave(shown);
}

function leave(dispute) {
  seen.add(dispute.item);
  if (back) back--;
  else { trail.push(queue.shift()); const old = trail[trail.length - 25]; if (old) Object.assign(old, { image: null, loading: null }); }
  soon();
  refill();
  show();
}

async function makeOwn(from = null) {
  if (locked || !shown || own) return;
  const module = await import(WIDGETS[kind]), dispute = shown;
  own = module.mount(editor, { ...boot, locked: () => locked, send: (label) => decide(label) });
  editor.hidden = false;
  view.hidden = true;
  own.show({ ...dispute, suggestion: null }, dispute.image, from ?? dispute.decided ?? dispute.cards[at]?.label ?? null);
  toast("Your own answer: Enter sends it, Esc goes back to the others.");
}

function closeOwn() {
  if (!own) return;
  own.destroy();
  own = null;
  editor.hidden = true;
  editor.replaceChildren();
  view.hidden = false;
  if (shown?.image) stage.show(shown.image, shown.width, shown.height);
}

function write() { if (shown) askComment(comment, (text) => { comment = text; paint(); }); }

function goBack() {
  if (back >= trail.length) { toast("This is the first one here."); return; }
  back++;
  show();
}

function goOn(to = back - 1) { if (back) { back = Math.max(0, to); show(); } }

// ---------------------------------------------------------------- keys
function help() {
  showKeys([["Decide", [["1 … 9", "take this answer as the decision"], ["↑ ↓, Enter", "choose an answer, take it"], ["Shift+1 … 9", "begin an own answer from this one"], ["O", "make an own answer"], ["S", "leave it for later"], ["C", "comment on the decision"], ["X", "only the chosen answer on the picture"]]],
    ["Everywhere", [["U", "back to the one before; also Backspace, Page Up, Ctrl+Z"], ["Page Down", "forward again"], ["+ − F", "zoom in, zoom out, fit"], ["G", "guide"], ["Q", "questions"], ["?", "these keys"]]]]);
}

const LETTERS = { s: putOff, o: () => makeOwn(), c: write, u: goBack, q: () => side.toggle("questions"), g: () => side.toggle("guide"), x: () => { solo = solo < 0 ? at : -1; later(); }, "?": help, PageUp: goBack, PageDown: () => goOn(), Backspace: goBack, Enter: () => take(at) };

addEventListener("keydown", (event) => {
  if (isComposing(event) || isOpen() || event.defaultPrevented) return;
  const name = keyName(event), chord = event.ctrlKey || event.metaKey, inOwn = own && (editor.contains(event.target) || event.target === document.body);
  if (inOwn && own.key(event)) { event.preventDefault(); return; }
  if (own && name === "Escape") { event.preventDefault(); closeOwn(); return; }
  if (isTyping(event)) { if (name === "Escape") event.target.blur(); return; }
  if (own || event.altKey) return;
  if (event.target.matches?.("button, a") && (name === "Enter" || name === " ")) return;
  if (chord) { if (name === "z") { event.preventDefault(); goBack(); } return; }
  const digit = /^Digit([1-9])$/.exec(event.code)?.[1] ?? (/^[1-9]$/.test(name) ? name : "");
  const step = { ArrowDown: 1, ArrowUp: -1 }[name];
  if (step) { event.preventDefault(); if (shown) { at = (at + step + shown.cards.length) % shown.cards.length; if (solo >= 0) solo = at; paint(); later(); } return; }
  if (event.repeat) return;
  if (digit) { event.preventDefault(); const i = Number(digit) - 1; if (event.shiftKey) { if (shown?.cards[i]?.label) makeOwn(shown.cards[i].label); } else take(i); return; }
  if (stage.key(name)) { event.preventDefault(); return; }
  if (name === "Escape") { if (side.open) side.close(); else goOn(0); return; }
  if (LETTERS[name]) { event.preventDefault(); LETTERS[name](); }
});

show();
await outbox.open();
refill();
