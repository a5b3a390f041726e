// work.js: one picture after the other. The next ones are loaded ahead, answers are written down at once and sent behind
// the annotator's back, and no key counts before the picture it is about has been drawn.
import { boot as readBoot, drawn, el, hexId, isCommand, isComposing, isTyping, keyName, MODIFIER, sameLabel, say, toast } from "./dom.js";
import { Frame } from "./frame.js";
import { askComment, askSkip, isOpen, showKeys } from "./panels.js";
import { Tasks } from "./tasks.js";

const KEEP_IMAGES = 24, SETTLED = 200;

const boot = readBoot(), { project, me } = boot;
const WIDGETS = { choice: "./choice.js", text: "./text.js", boxes: "./boxes.js" };
const module = await import(WIDGETS[project.label_kind] ?? "./choice.js");
const typing = project.label_kind === "text", command = (letter) => (typing ? `${MODIFIER}+${letter}` : letter);

const trail = []; // answered, oldest first
let back = 0; // how many steps behind the front; 0: the first task that has no answer
let shown = null, locked = true, key = 0, began = 0, hiddenFor = 0, hiddenAt = 0, more = SETTLED, next = null; // what is to be done as soon as the picture is there

const frame = new Frame(boot, {
  look: (record) => lookAt(record),
  tools: [["undo", "Back", command("U"), goBack], ["skip", "Skip", command("S"), skip], ["comment", "Comment", command("C"), comment],
    ["questions", "Questions", command("Q"), () => frame.side.toggle("questions")], ["guide", "Guide", command("G"), () => frame.side.toggle("guide")], ["help", "Keys", typing ? "F1" : "?", help]],
});
const { outbox, pace, side } = frame;
const tasks = new Tasks(frame.api, { ahead: project.rules.prefetch ?? boot.prefetch ?? 8, known: (id) => trail.some((e) => e.id === id) || outbox.has((b) => b.assignment === id) });
frame.trouble = () => tasks.trouble;

const place = el("div.place"), veil = el("div.veil", { hidden: true }), trace = el("div.trace", { hidden: true, role: "status" });
frame.host.append(place, trace, veil);
const widget = module.mount(place, { ...boot, locked: () => locked, send: answer });
window.fsml = { timings: [], outbox, tasks, trail, ready: () => Boolean(shown) && !locked }; // benchmarks and tests read these

const current = () => (back ? trail[trail.length - back] : tasks.queue[0]);
const hides = project.rules.blind;

// ---------------------------------------------------------------- showing
function show() {
  const entry = current();
  locked = true;
  next = null;
  if (shown && shown !== entry && !shown.done) keepDraft(shown);
  if (!entry || (!entry.image && !entry.broken)) { waitFor(entry); return; }
  veil.hidden = true;
  shown = entry;
  if (entry.broken) tellBroken();
  else widget.show(hides ? { ...entry, suggestion: null } : entry, entry.image, entry.done ? entry.label : entry.draft ?? readDraft(entry));
  paintTrace(entry);
  const at = key;
  key = 0;
  drawn().then(() => {
    if (shown !== entry) return;
    locked = false;
    [began, hiddenFor] = [performance.now(), 0];
    next?.();
    if (!at) return;
    performance.measure("fsml:key-to-picture", { start: at, end: began });
    window.fsml.timings.push(began - at);
  });
  side.of(entry);
}

function waitFor(entry) {
  shown = null;
  if (entry) tasks.load(entry);
  const text = entry || tasks.asking || (!tasks.dry && !tasks.trouble) ? "Loading …" : tasks.trouble ? "The server does not answer. The next pictures come as soon as it is back; your answers are kept here." : tasks.state === "closed" ? "This project is closed." : "Nothing is left to do here.";
  veil.replaceChildren(el("div.veil-in", {}, el("p", {}, text), !entry && tasks.dry && tasks.state !== "closed" && el("p.muted", {}, trail.length ? `Thank you. ${command("U")} goes back through your answers; new pictures appear here by themselves.` : "New pictures appear here by themselves.")));
  veil.hidden = false;
  widget.clear();
  paintTrace(null);
}

function tellBroken() {
  widget.clear();
  veil.replaceChildren(el("div.veil-in", {}, el("p", {}, "This picture cannot be shown."), el("p.muted", {}, `Skip it with ${command("S")}.`)));
  veil.hidden = false;
}

function paintTrace(entry) {
  trace.hidden = !back;
  if (back) trace.replaceChildren(el("b", {}, `${back} back`), entry?.skip ? ` · you skipped it: ${entry.skip}` : " · your answer is shown; change it or go on", el("span.trace-keys", {}, "Page Down: on · Esc: to the front"));
  frame.tools.undo.disabled = back >= trail.length && trail.length < more;
  frame.tools.skip.disabled = frame.tools.comment.disabled = frame.tools.questions.disabled = !entry;
  frame.tools.comment.classList.toggle("has", Boolean(entry?.comment));
  frame.setLeft(tasks.left);
}

// ---------------------------------------------------------------- answering
const seconds = () => Math.max(0, Math.round(performance.now() - began - hiddenFor) / 1000);

function answer(label, event, reason = "") {
  const entry = shown;
  if (locked || !entry || (entry.broken && !reason)) return;
  locked = true;
  key = event?.timeStamp || performance.now();
  const isChanged = !entry.done || !sameLabel(label, entry.label) || entry.skip !== reason || entry.commented !== (entry.comment ?? "");
  if (isChanged) send(entry, label, reason);
  Object.assign(entry, { label, skip: reason, done: true, draft: null, commented: entry.comment ?? "" });
  if (back) back--;
  else {
    trail.push(tasks.shift());
    const old = trail[trail.length - 1 - KEEP_IMAGES];
    if (old) old.image = null;
  }
  show();
  forgetDraft(entry);
}

function send(entry, label, reason) {
  const suggestion = hides ? null : entry.suggestion ?? null, isFirst = !entry.done;
  outbox.add("answers", { id: hexId(), assignment: entry.id, label, skip: reason, seconds: seconds(),
    meta: { suggestion, accepted: Boolean(suggestion && label && sameLabel(label, suggestion)), guide: tasks.guide || boot.guide, comment: entry.comment ?? "" } },
  { item: entry.item, width: entry.width, height: entry.height, picture: entry.picture, caption: entry.caption });
  if (isFirst) pace.add();
}

function skip() {
  if (!shown || locked) return;
  askSkip((reason, event) => answer(null, event, reason));
}

function comment() {
  const entry = shown;
  if (!entry) return;
  askComment(entry.comment ?? "", (text) => {
    entry.comment = text;
    paintTrace(entry);
    if (entry.done) toast("Kept: it is sent with your answer (Enter).");
    widget.focus?.();
  });
}

// ---------------------------------------------------------------- back and forth
async function goBack() {
  if (back >= trail.length && trail.length >= more) await readMine(more * 2);
  if (back >= trail.length) { toast("This is your first answer here."); return; }
  back++;
  step();
}

function goOn(to = back - 1) {
  if (!back) return;
  back = Math.max(0, to);
  step();
}

function step() {
  const entry = current();
  if (entry) tasks.load(entry);
  if (back < trail.length) tasks.load(trail[trail.length - back - 1]); // one more step may follow
  show();
  say(back ? `${back} back` : "At the front");
}

/** What an earlier page answered, with what still waits here on top: undo reaches across a reload. */
async function readMine(n = SETTLED) {
  const waiting = outbox.records.filter((r) => r.kind === "answers" && r.about); // some are stored while the server makes its list
  const { answers } = await frame.api.get(`/mine?n=${n}`).catch(() => ({ answers: [] }));
  more = answers.length >= n ? n : Infinity;
  const older = new Map();
  for (const a of answers.toReversed()) { older.delete(a.assignment); older.set(a.assignment, { ...a, id: a.assignment }); }
  for (const r of waiting) {
    older.delete(r.body.assignment);
    older.set(r.body.assignment, { ...r.about, id: r.body.assignment, label: r.body.label, skip: r.body.skip, comment: r.body.meta.comment });
  }
  for (const e of [...trail, ...tasks.queue]) older.delete(e.id);
  trail.unshift(...[...older.values()].map((e) => ({ ...e, skip: e.skip || "", done: true, comment: e.comment ?? "", commented: e.comment ?? "", suggestion: null })));
  paintTrace(shown);
}

/** An answer that was refused, once more on the screen. */
function lookAt({ body, about }) {
  let at = trail.findIndex((e) => e.id === body.assignment);
  if (at < 0) { trail.push({ ...about, id: body.assignment }); at = trail.length - 1; }
  Object.assign(trail[at], { label: body.label, skip: body.skip, done: true, commented: null });
  back = trail.length - at;
  step();
}

// ---------------------------------------------------------------- drafts: half a picture of boxes outlives a reload
const draftKey = (entry) => `fsml.draft.${me.name}.${project.id}.${entry.item}`;
function keepDraft(entry) { const value = widget.value(); entry.draft = value; if (value) try { localStorage.setItem(draftKey(entry), JSON.stringify(value)); } catch { /* full: the page itself still has it */ } }
function readDraft(entry) { try { return JSON.parse(localStorage.getItem(draftKey(entry))); } catch { return null; } }
function forgetDraft(entry) { localStorage.removeItem(draftKey(entry)); }

// ---------------------------------------------------------------- keys
const COMMANDS = { u: goBack, s: skip, c: comment, q: () => side.toggle("questions"), g: () => side.toggle("guide") };

function help() {
  showKeys([["Labels", module.HELP(boot)], ["Everywhere", [[command("U"), "back to the picture before; also Page Up, Ctrl+Z, Backspace"], ["Page Down", "forward again"], ["Esc", "to the front; closes what is open"],
    [command("S"), "skip, with a reason: one more key"], [command("C"), "comment on this answer"], [command("G"), "guide"], [command("Q"), "ask about this picture"], [typing ? "F1" : "?", "these keys"]]]]);
}

function pressed(event) {
  if (isComposing(event) || isOpen() || event.defaultPrevented) return;
  const name = keyName(event), inField = isTyping(event), field = place.contains(event.target), chord = event.ctrlKey || event.metaKey;
  if (name === "F1" || (name === "?" && !inField)) return use(event, help);
  if (name === "PageUp") return use(event, goBack);
  if (name === "PageDown") return use(event, goOn);
  if (inField && !(typing && field)) { if (name === "Escape") event.target.blur(), widget.focus?.(); return; }
  if (event.target instanceof HTMLElement && event.target.matches("button, a, summary") && (name === "Enter" || name === " ")) return;
  if (locked && shown && !chord && name.length <= 1 && (typing || name !== "u")) { // the picture is not on the screen yet
    event.preventDefault();
    if ("sc".includes(name) && !typing && !event.repeat) next = COMMANDS[name]; // else the reason or the comment that follows would be taken for keys
    return;
  }
  if (locked && shown && name === "Enter") { event.preventDefault(); return; }
  if ((typing ? isCommand(event) : !event.altKey && !chord) && COMMANDS[name] && !event.repeat) return use(event, COMMANDS[name]);
  const repeats = event.repeat && !/^Arrow|^[+=_-]$|^Tab$/.test(name);
  if (repeats && !(typing && field && name !== "Enter")) { event.preventDefault(); return; } // a key held down answers once
  if (shown && !shown.broken && (!chord || "zy".includes(name) || isCommand(event)) && widget.key(event)) { event.preventDefault(); return; }
  if (name === "Escape") return side.open ? use(event, () => side.close()) : back ? use(event, () => goOn(0)) : undefined;
  const goesBack = (chord && name === "z") || (name === "Backspace" && !inField);
  if (goesBack && (!inField || widget.untouched?.())) use(event, goBack);
}

function use(event, act) { event.preventDefault(); if (!event.repeat || act === goBack || act === goOn) act(); }

// ---------------------------------------------------------------- begin
addEventListener("keydown", pressed);
addEventListener("pagehide", () => { if (shown && !shown.done) keepDraft(shown); });
document.addEventListener("visibilitychange", () => {
  if (document.hidden) hiddenAt = performance.now(); // time away is not time on the picture
  else if (hiddenAt) hiddenFor += performance.now() - hiddenAt;
  if (document.hidden && shown && !shown.done) keepDraft(shown);
});
tasks.addEventListener("loaded", ({ detail }) => { if (detail === current() && shown !== detail) show(); });
tasks.addEventListener("change", () => {
  frame.paint();
  if (!shown) show(); else paintTrace(shown);
  const isNew = tasks.guide > Math.max(boot.guide ?? 0, side.seen);
  if (isNew && !frame.tools.guide.classList.contains("new")) toast("The guide has changed.");
  frame.tools.guide.classList.toggle("new", isNew);
});

show();
await outbox.open(); // before anything is asked for, so that what waits here is not handed out again
tasks.refill();
readMine();
