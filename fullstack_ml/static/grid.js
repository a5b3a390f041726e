// grid.js: a screenful at once. Every tile begins with its suggestion or with the chosen class; what is wrong is switched, Enter sends the rest.
import { boot as readBoot, button, classKeys, drawn, el, hexId, isComposing, isTyping, kbd, keyName, sameLabel, say, sheet, toast } from "./dom.js";
import { Frame } from "./frame.js";
import { isOpen, showKeys } from "./panels.js";
import { Tasks } from "./tasks.js";

const SIZES = [24, 60, 96], RESERVED = [..."acgpqu"];
const boot = readBoot(), { project, me } = boot, { classes } = project, { several } = project.rules;
const keys = classKeys(classes, RESERVED), sizeKey = `fsml.grid.${me.name}`;
let count = Number(localStorage.getItem(sizeKey)) || 60;
let tiles = [], active = 0, cursor = 0, locked = true, began = 0, back = 0, painting = null, wanted = "suggestion";
const screens = []; // sent, oldest first
let front = null; // the screen without answers, while one looks at an older one

await sheet("grid.css");
const frame = new Frame(boot, { tools: [["undo", "Back", "U", goBack], ["questions", "Questions", "Q", () => frame.side.toggle("questions")], ["guide", "Guide", "G", () => frame.side.toggle("guide")], ["help", "Keys", "?", help]] });
const { outbox, pace, side } = frame;
const tasks = new Tasks(frame.api, { ahead: 2 * count, address: (t) => t.thumb ?? t.picture.replace(/picture$/, "thumb"), known: (id) => [...tiles, ...(front ?? []), ...screens.flat()].some((t) => t.entry.id === id) || outbox.has((b) => b.assignment === id) });
frame.trouble = () => tasks.trouble;
window.fsml = { timings: [], outbox, tasks, screens };

// ---------------------------------------------------------------- the page
const board = el("div.board", { role: "grid", ariaLabel: "Pictures", onpointerleave: () => { painting = null; } });
const buttons = classes.map((c, i) => el("button.class", { type: "button", ariaPressed: "false", onclick: () => setActive(i), onmousedown: (e) => e.preventDefault() }, keys[i] && kbd(keys[i].toUpperCase()), el("span", {}, c), el("span.count")));
const first = el("select", { ariaLabel: "Tiles begin with", onchange: () => { wanted = first.value; tiles.forEach(prefill); first.blur(); paint(); } }, [["suggestion", "suggestion"], ["class", "chosen class"], ["nothing", "nothing"]].map(([value, text]) => el("option", { value }, text)));
const many = el("select", { ariaLabel: "Pictures on a screen", onchange: () => resize(Number(many.value)) }, SIZES.map((n) => el("option", { value: n, selected: n === count }, `${n} pictures`)));
const preview = el("img.preview", { alt: "" }), told = el("p.facts"), hint = el("p.hint", { ariaLive: "polite" }), send = button("Send", "Enter", enter, "button.btn.primary");
const veil = el("div.veil", { hidden: true }), trace = el("div.trace", { hidden: true });
const putBack = button("Put back", "P", giveBack, "button.btn.small"), all = button("All / none", "A", switchAll, "button.btn.small");
frame.host.append(el("div.widget.grid", {}, el("div.board-place", {}, board, trace, veil), el("div.side", {}, el("div.preview-place", {}, preview), told, el("div.classes", { role: "group", ariaLabel: "Class to give", dataset: { many: classes.length > 9 ? "1" : "" } }, buttons),
  el("div.choices", {}, el("label", {}, "Begin with", first), el("label", {}, "Show", many)), el("div.tools", {}, all, putBack), el("div.side-foot", {}, hint, send))));

function layout() {
  const { clientWidth: w, clientHeight: h } = board.parentElement, n = Math.max(tiles.length, 1), gap = 5;
  let best = { side: 0, cols: 1 };
  for (let cols = 1; cols <= n; cols++) {
    const side = Math.min((w - 20 - gap * (cols - 1)) / cols, (h - 20 - gap * (Math.ceil(n / cols) - 1)) / Math.ceil(n / cols));
    if (side > best.side) best = { side, cols };
  }
  best.side = Math.min(180, Math.floor(best.side));
  board.style.gridTemplateColumns = `repeat(${best.cols}, ${best.side}px)`;
  board.style.gridAutoRows = `${best.side}px`;
  board.dataset.cols = best.cols;
}
new ResizeObserver(layout).observe(board.parentElement);

// ---------------------------------------------------------------- tiles
function tileOf(entry) {
  const name = el("span.tile-name"), node = el("button.tile", { type: "button", tabIndex: -1, onmousedown: (e) => e.preventDefault() }, name);
  const tile = { entry, node, name, names: new Set(), touched: false };
  node.addEventListener("pointerdown", (e) => {
    if (locked || e.button) return;
    node.releasePointerCapture?.(e.pointerId);
    toggle(tile);
    painting = e.pointerType === "mouse" ? tile.names.has(classes[active]) : null;
    focus(tiles.indexOf(tile));
  });
  node.addEventListener("pointerenter", (e) => {
    look(tile);
    if (painting === null || !(e.buttons & 1) || locked) return;
    if (tile.names.has(classes[active]) !== painting) toggle(tile);
  });
  node.addEventListener("click", (e) => { if (e.detail === 0 && !locked) toggle(tile); }); // from a screen reader
  prefill(tile);
  return tile;
}
addEventListener("pointerup", () => { painting = null; });

function prefill(tile) {
  if (tile.touched || tile.done) return;
  const names = wanted === "suggestion" && !project.rules.blind ? tile.entry.suggestion?.names : null;
  tile.names = new Set(names ?? (wanted === "nothing" ? [] : [classes[active]]));
}

function toggle(tile) {
  const c = classes[active], has = tile.names.has(c);
  tile.touched = true;
  if (several) { if (has) tile.names.delete(c); else tile.names.add(c); }
  else if (has && back) { toast("An answer cannot be taken away: give another class."); return; }
  else tile.names = new Set(has ? [] : [c]);
  say(`Picture ${tiles.indexOf(tile) + 1}: ${[...tile.names].join(", ") || "left for later"}`);
  paint();
}

function switchAll() {
  const isFull = tiles.every((t) => t.names.has(classes[active]));
  if (back) return;
  for (const t of tiles) { t.touched = true; t.names = new Set(isFull ? [] : [classes[active]]); }
  paint();
}

function setActive(i) {
  active = i;
  tiles.forEach(prefill);
  say(`Class ${classes[i]}`);
  paint();
}

function focus(i) {
  cursor = Math.min(Math.max(0, i), tiles.length - 1);
  tiles.forEach((t, j) => t.node.classList.toggle("here", j === cursor));
  if (tiles[cursor]) { look(tiles[cursor]); side.of(tiles[cursor].entry); }
}

function look(tile) {
  if (preview.dataset.item === tile.entry.item) return;
  preview.dataset.item = tile.entry.item;
  preview.src = tile.entry.picture;
  preview.classList.toggle("tiny", tile.entry.width < 120);
  told.textContent = tile.entry.caption ?? "";
}

const ready = () => tiles.filter((t) => t.names.size && !t.entry.broken && (!t.done || !sameLabel(labelOf(t), t.done)));
const labelOf = (t) => ({ kind: "choice", names: classes.filter((c) => t.names.has(c)) });

function paint() {
  const c = classes[active], tally = new Map();
  for (const t of tiles) {
    for (const n of t.names) tally.set(n, (tally.get(n) ?? 0) + 1);
    const text = [...t.names].join(", "), kind = t.entry.broken ? "broken" : !t.names.size ? "none" : t.names.has(c) ? "on" : "other";
    if (t.node.dataset.kind !== kind) t.node.dataset.kind = kind;
    if (t.name.textContent !== text) t.name.textContent = text;
    t.node.ariaPressed = String(kind === "on");
    t.node.ariaLabel = text || "left for later";
  }
  buttons.forEach((b, i) => { b.ariaPressed = String(i === active); b.lastChild.textContent = tally.get(classes[i]) ?? ""; });
  const n = ready().length, rest = tiles.filter((t) => !t.names.size).length;
  send.firstChild.textContent = back ? (n ? `Send ${n} changed` : "On") : `Send ${n}`;
  send.disabled = locked || (!n && !back);
  putBack.disabled = !rest || Boolean(back);
  hint.textContent = back ? "Your answers. Choose a class, click what is different." : rest ? `${rest} left for later: they stay on the screen.` : tiles.length ? "Click what is not right." : "";
  trace.hidden = !back;
  trace.replaceChildren(el("b", {}, `${back} ${back === 1 ? "screen" : "screens"} back`), el("span.trace-keys", {}, "Page Down: on · Esc: to the front"));
  frame.tools.undo.disabled = back >= screens.length;
  frame.setLeft(tasks.left === null ? null : Math.max(tasks.left, tasks.queue.length + (back ? front.length : tiles.length)));
}

// ---------------------------------------------------------------- screens
function show(list) {
  tiles = list;
  locked = true;
  for (const t of list) if (t.entry.image && t.node.firstChild !== t.entry.image) { t.entry.image.className = t.entry.width < 120 ? "tiny" : ""; t.node.prepend(t.entry.image); }
  board.replaceChildren(...list.map((t) => t.node));
  layout();
  focus(0);
  paint();
  settle();
}

/** Enter counts once every picture of the screen has been drawn. */
function settle() {
  if (!locked) return;
  for (const t of tiles) if (t.entry.image && !t.entry.image.isConnected) { t.entry.image.className = t.entry.width < 120 ? "tiny" : ""; t.node.prepend(t.entry.image); }
  if (!tiles.length || tiles.some((t) => !t.entry.image && !t.entry.broken)) return;
  const list = tiles;
  drawn().then(() => { if (tiles !== list || !locked) return; locked = false; began = performance.now(); paint(); });
}

function fill() {
  if (back) return;
  const kept = tiles.filter((t) => !t.done);
  const fresh = tasks.take(Math.max(0, count - kept.length)).map(tileOf);
  tasks.held = [...kept, ...fresh].map((t) => t.entry);
  const isEmpty = !kept.length && !fresh.length;
  veil.hidden = !isEmpty;
  if (isEmpty) veil.replaceChildren(el("div.veil-in", {}, el("p", {}, tasks.state === "closed" ? "This project is closed." : tasks.dry ? "Nothing is left to do here." : tasks.trouble ? "The server does not answer. Your answers are kept here." : "Loading …"), tasks.dry && el("p.muted", {}, "New pictures appear here by themselves.")));
  if (fresh.length || kept.length !== tiles.length) show([...kept, ...fresh]);
}

function enter() {
  if (locked) return;
  const done = ready();
  if (back) { done.forEach((t) => post(t, 0)); goOn(); return; }
  if (!done.length) { hint.textContent = "Nothing to send: every tile is left for later."; return; }
  const seconds = Math.round((performance.now() - began) / done.length) / 1000;
  done.forEach((t) => post(t, seconds));
  pace.add(done.length);
  screens.push(done);
  for (const t of screens.at(-13) ?? []) { t.entry.image?.remove(); t.entry.image = null; }
  fill();
  if (tiles.every((t) => t.done)) { tiles = []; board.replaceChildren(); fill(); }
}

function post(tile, seconds) {
  const { entry } = tile, label = labelOf(tile), suggestion = project.rules.blind ? null : entry.suggestion ?? null;
  outbox.add("answers", { id: hexId(), assignment: entry.id, label, skip: "", seconds, meta: { suggestion, accepted: Boolean(suggestion && sameLabel(label, suggestion)), guide: tasks.guide || boot.guide, comment: "", grid: true } },
    { item: entry.item, width: entry.width, height: entry.height, picture: entry.picture, caption: entry.caption });
  tile.done = label;
}

function goBack() {
  if (back >= screens.length) { toast("This is your first screen here."); return; }
  if (!back) front = tiles;
  back++;
  move();
}

function goOn(to = back - 1) {
  if (!back) return;
  back = Math.max(0, to);
  move();
}

function move() {
  const list = back ? screens[screens.length - back] : front;
  for (const t of list) { if (t.done) t.names = new Set(t.done.names); tasks.load(t.entry); }
  if (!back) front = null;
  show(list);
  if (!back) fill();
}

function giveBack() {
  const rest = tiles.filter((t) => !t.names.size);
  if (!rest.length || back) return;
  tasks.giveBack(rest.map((t) => t.entry));
  tiles = tiles.filter((t) => t.names.size);
  show(tiles);
  fill();
}

function resize(n) {
  count = n;
  localStorage.setItem(sizeKey, n);
  tasks.ahead = 2 * n;
  many.blur();
  tasks.refill();
  fill();
}

// ---------------------------------------------------------------- keys
function help() {
  showKeys([["Grid", [["the key on a class", "the class to give"], ["click or Space", "this class, or left for later"], ["drag", "the same for every picture on the way"], ["arrows", "move from picture to picture"], ["Enter", "send all that have a class; the others stay"], ["A", "all of this class, or none"], ["P", "put the ones without a class back for others"]]],
    ["Everywhere", [["U", "back to the screen before; also Backspace, Page Up, Ctrl+Z"], ["Page Down", "forward again"], ["Esc", "to the front"], ["G", "guide"], ["Q", "ask about the picture in hand"], ["?", "these keys"]]]]);
}

addEventListener("keydown", (event) => {
  if (isComposing(event) || isOpen() || event.defaultPrevented) return;
  const name = keyName(event), cols = Number(board.dataset.cols) || 1;
  if (isTyping(event)) { if (name === "Escape") event.target.blur(); return; }
  if (event.target.matches?.("button:not(.tile), a") && (name === "Enter" || name === " ")) return;
  if ((event.ctrlKey || event.metaKey || event.altKey) && name !== "z") return;
  const arrows = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -cols, ArrowDown: cols };
  const at = keys.indexOf(name);
  const act = arrows[name] ? () => focus(cursor + arrows[name]) : name === " " ? () => !locked && tiles[cursor] && toggle(tiles[cursor]) : at >= 0 && !event.ctrlKey ? () => setActive(at)
    : { Enter: enter, a: switchAll, p: giveBack, u: goBack, z: event.ctrlKey || event.metaKey ? goBack : null, Backspace: goBack, PageUp: goBack, PageDown: () => goOn(), "?": help, g: () => side.toggle("guide"), q: () => side.toggle("questions"), Escape: () => (side.open ? side.close() : goOn(0)) }[name];
  if (!act || (event.repeat && !arrows[name])) return;
  event.preventDefault();
  act();
});

tasks.addEventListener("loaded", settle);
tasks.addEventListener("change", () => { frame.paint(); fill(); paint(); });
if (project.label_kind !== "choice") {
  veil.replaceChildren(el("div.veil-in", {}, el("p", {}, "The grid is for choosing classes."), el("a.btn.primary", { href: `/p/${project.id}/work` }, "Work on this project")));
  veil.hidden = false;
} else {
  fill();
  await outbox.open();
  tasks.refill();
}
