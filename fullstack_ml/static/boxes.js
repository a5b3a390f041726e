// boxes.js: the widget for boxes: with a mouse, a pen, two fingers, or the keyboard alone.
import { button, classKeys, el, kbd, keyName, say } from "./dom.js";
import { between, borderAt, clamp, edgeAt, holds, pull, smallestAt } from "./geometry.js";
import { colourOf, Painter } from "./paint.js";
import { Stage } from "./stage.js";

export const RESERVED = [..."acdfghnqstuvz"];
export const HELP = () => [
  ["drag", "draw a box; on a border, a handle or inside the chosen box: resize or move it"],
  ["click", "choose the smallest box here"],
  ["N, arrows, Enter", "begin a box at the cursor, size it, keep it"],
  ["arrows", "move the chosen box by a pixel (Shift: 10); with none chosen: move the cursor"],
  ["Alt+arrows", "resize the chosen box (with Shift: by 10)"],
  ["the key on a class", "class of the chosen box, or of the next ones"],
  ["Tab, Shift+Tab", "choose the next or the previous box"],
  ["Delete or Backspace", "delete the chosen box; with none chosen, Backspace goes back"],
  ["Ctrl+Z, Ctrl+Y", "undo and redo on this picture; then back to the picture before"],
  ["V", "copy the boxes of the last picture"], ["D", "the chosen box once more, a little aside"], ["T", "text of the chosen box"],
  ["A", "take the suggested boxes to mend them"], ["H", "hide the boxes while it is held"],
  ["+ − F Z", "zoom in, zoom out, fit, zoom to the chosen box; wheel and two fingers zoom, Space with a drag moves the picture"],
  ["Enter", "send; with no boxes of your own: accept the suggestion"],
];

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const CURSORS = { n: "ns-resize", s: "ns-resize", e: "ew-resize", w: "ew-resize", nw: "nwse-resize", se: "nwse-resize", ne: "nesw-resize", sw: "nesw-resize" };

export function mount(host, boot) {
  const { classes } = boot.project, keys = classKeys(classes, RESERVED);
  let boxes = [], chosen = -1, name = classes[0] ?? "", ghosts = [], last = [], undone = [], done = [];
  let size = { w: 1, h: 1 }, cursor = null, drag = null, sizing = false, hidden = false, asked = false, frame = 0, stale = true, isMouseHere = false;

  const stage = new Stage({ pans: false, changed: () => later() });
  // What moves has a canvas of its own, so that a drag redraws one box and not all of them.
  const painter = new Painter(stage, classes), top = new Painter(stage, classes);
  stage.window.setAttribute("aria-label", "Picture. N begins a box, Tab chooses one, the arrows move it.");
  stage.window.setAttribute("role", "application");

  // ---------------------------------------------------------------- the side
  const counts = classes.map(() => el("span.count"));
  const buttons = classes.map((c, i) => {
    const swatch = el("i.swatch", { ariaHidden: "true" });
    swatch.style.background = colourOf(classes, c);
    return el("button.class", { type: "button", ariaPressed: "false", onclick: () => setClass(c), onmousedown: (e) => e.preventDefault() }, keys[i] && kbd(keys[i].toUpperCase()), swatch, el("span", {}, c), counts[i]);
  });
  const facts = el("p.facts"), hint = el("p.hint", { ariaLive: "polite" }), caption = el("p.caption", { hidden: true }), about = boot.project.about ? el("p.about", {}, boot.project.about) : "";
  const text = el("input.box-text", { type: "text", ariaLabel: "Text of the chosen box", placeholder: "Text in the box (T)", autocomplete: "off", oninput: () => write(text.value), onkeydown: textKey });
  const tool = (label, key, act, spec = "button.btn.small") => button(label, key, () => { if (!boot.locked()) act(); }, spec);
  const remove = tool("Delete", "Del", drop), copy = tool("Copy last", "V", copyLast), adopt = tool("Mend suggestion", "A", takeGhosts), refuse = tool("Put away", "Esc", () => { ghosts = []; paint(); });
  const send = button("Send", "Enter", enter, "button.btn.primary");
  host.replaceChildren(el("div.widget.boxes", {}, stage.window, el("div.side", {}, about, caption,
    el("div.classes", { role: "group", ariaLabel: "Class of the box", dataset: { many: classes.length > 12 ? "1" : "" } }, buttons),
    el("div.in-hand", {}, facts, text),
    el("div.tools", {}, tool("New", "N", begin), remove, copy, adopt, refuse, tool("Fit", "F", () => stage.fit()), tool("Zoom", "+", () => stage.zoom(1.25)), tool("Out", "−", () => stage.zoom(0.8))),
    el("div.side-foot", {}, hint, send))));

  function textKey(event) {
    event.stopPropagation();
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === "Enter" || event.key === "Escape") { event.preventDefault(); text.blur(); }
  }

  // ---------------------------------------------------------------- drawing
  const later = (all = true) => { stale ||= all; frame ||= requestAnimationFrame(draw); };

  function draw() {
    cancelAnimationFrame(frame);
    frame = 0;
    if (stale) {
      stale = false;
      painter.begin();
      if (!hidden && !boxes.length && ghosts.length) painter.boxes(ghosts, { dash: [5, 4] });
      if (!hidden) painter.boxes(boxes, { skip: chosen });
    }
    top.begin();
    if (hidden) return;
    if (drag?.made) top.chosen({ ...drag.made, name });
    else if (boxes[chosen]) top.chosen(boxes[chosen], { sizing });
    if (cursor && chosen < 0 && !drag) top.cross(cursor);
  }

  function paint() {
    const now = boxes[chosen], tally = new Map();
    for (const b of boxes) tally.set(b.name, (tally.get(b.name) ?? 0) + 1);
    buttons.forEach((b, i) => { b.ariaPressed = String(classes[i] === (now?.name ?? name)); counts[i].textContent = tally.get(classes[i]) ?? ""; });
    facts.textContent = now ? `Box ${chosen + 1} of ${boxes.length}: ${now.w} × ${now.h} at ${now.x}, ${now.y}` : boxes.length ? `${boxes.length} ${boxes.length === 1 ? "box" : "boxes"}` : "No boxes yet";
    text.disabled = remove.disabled = !now;
    if (document.activeElement !== text || text.value !== (now?.text ?? "")) text.value = now?.text ?? "";
    copy.disabled = !last.length;
    adopt.hidden = refuse.hidden = !ghosts.length || boxes.length > 0;
    send.firstChild.textContent = ghosts.length && !boxes.length ? "Accept suggestion" : boxes.length ? `Send ${boxes.length}` : asked ? "Really none: send" : "Send";
    hint.textContent = sizing ? "Arrows size the box, Enter keeps it, Esc drops it." : asked && !boxes.length ? "No boxes: Enter once more if there is nothing to mark."
      : ghosts.length && !boxes.length ? `Suggested: ${ghosts.length}. Enter accepts, A mends, Esc puts them away.` : "";
    later();
  }

  // ---------------------------------------------------------------- changes
  const fits = (box) => clamp(box, size.w, size.h);

  /** Every change goes through here: it can be taken back, and what "no boxes" asked is asked again. */
  function change(next, pick = chosen) {
    done.push([boxes, chosen]);
    if (done.length > 300) done.shift();
    undone = [];
    [boxes, chosen, asked] = [next, pick, false];
    paint();
  }

  const replace = (i, box) => boxes.map((b, j) => (j === i ? box : b));
  const add = (...made) => change([...boxes, ...made.map((b) => fits({ text: "", ...b }))], boxes.length + made.length - 1);

  function step(from, to) {
    const before = from.pop();
    if (!before) return false;
    to.push([boxes, chosen]);
    [boxes, chosen] = before;
    sizing = false;
    paint();
    return true;
  }

  function setClass(to) {
    name = to;
    if (boxes[chosen] && boxes[chosen].name !== to) change(replace(chosen, { ...boxes[chosen], name: to }));
    else paint();
    say(`Class ${to}`);
  }

  function write(value) { // one undo step for one visit of the field
    if (!boxes[chosen]) return;
    const next = replace(chosen, { ...boxes[chosen], text: value });
    if (done.at(-1)?.[2] === chosen) { boxes = next; paint(); } else { change(next); done.at(-1)[2] = chosen; }
  }

  function drop() {
    if (!boxes[chosen]) return false;
    const next = boxes.filter((_, i) => i !== chosen);
    sizing = false;
    change(next, Math.min(chosen, next.length - 1));
    say(`Deleted. ${boxes.length} left`);
    return true;
  }

  function begin() {
    const at = cursor ?? { x: (stage.size.w / 2 - stage.x) / stage.scale, y: (stage.size.h / 2 - stage.y) / stage.scale };
    const side = Math.max(2, Math.round(64 / stage.scale)), like = boxes[chosen] ?? boxes.at(-1) ?? { w: side, h: side };
    const start = chosen >= 0 && !isMouseHere ? { x: like.x + Math.max(4, like.w / 4), y: like.y + Math.max(4, like.h / 4) } : at;
    add({ x: start.x, y: start.y, w: like.w, h: like.h, name });
    sizing = true;
    paint();
    say("New box. The arrows size it, Enter keeps it.");
  }

  function copyLast() {
    if (last.length) { add(...last); chosen = -1; paint(); say(`${last.length} boxes copied`); }
  }

  function takeGhosts() {
    if (!ghosts.length || boxes.length) return false;
    change(ghosts.map((g) => fits({ text: "", ...g })), -1);
    say(`${boxes.length} suggested boxes taken`);
    return true;
  }

  function choose(i) {
    chosen = i;
    sizing = false;
    if (boxes[i]) { name = boxes[i].name; say(`Box ${i + 1} of ${boxes.length}, ${name}`); reveal(boxes[i]); }
    paint();
  }

  function reveal(box) {
    const r = painter.on(box), { w, h } = stage.size;
    if (r.x + r.w < 8 || r.y + r.h < 8 || r.x > w - 8 || r.y > h - 8) stage.pan(w / 2 - r.x - r.w / 2, h / 2 - r.y - r.h / 2);
  }

  // ---------------------------------------------------------------- pointer
  const reach = (event) => ({ touch: 22, pen: 12 }[event.pointerType] ?? 8) / stage.scale;

  /** What a press here would take hold of. */
  function hold(event) {
    const at = stage.toPicture(event), near = reach(event), now = boxes[chosen];
    if (event.ctrlKey || event.shiftKey) return { at, kind: "draw" };
    if (now) {
      const edge = edgeAt(now, at, near);
      if (edge) return { at, kind: "pull", edge, box: now };
      if (holds(now, at)) return { at, kind: "move", box: now };
    }
    const border = borderAt(boxes, at, near * 0.75);
    return border >= 0 ? { at, kind: "move", pick: border, box: boxes[border] } : { at, kind: "draw" };
  }

  stage.window.addEventListener("pointerdown", (event) => {
    text.blur();
    if (stage.pinching) { drag = null; later(); return; }
    if (event.button !== 0 || stage.drag || boot.locked()) return;
    event.preventDefault();
    stage.window.setPointerCapture(event.pointerId);
    sizing = false;
    drag = { ...hold(event), id: event.pointerId, from: { x: event.clientX, y: event.clientY }, before: boxes };
    if (drag.pick !== undefined) choose(drag.pick);
  });

  stage.window.addEventListener("pointermove", (event) => {
    isMouseHere = event.pointerType !== "touch";
    cursor = isMouseHere ? stage.toPicture(event) : null;
    if (!drag) {
      if (isMouseHere) stage.window.style.cursor = stage.spaced ? "grab" : over(hold(event));
      later(false);
      return;
    }
    if (drag.id !== event.pointerId || stage.pinching) return;
    if (!drag.moved && Math.hypot(event.clientX - drag.from.x, event.clientY - drag.from.y) < (event.pointerType === "touch" ? 8 : 3)) return;
    drag.moved = true;
    const at = stage.toPicture(event);
    if (drag.kind === "draw") drag.made = between(drag.at, at, size.w, size.h);
    else {
      const next = drag.kind === "pull" ? pull(drag.box, drag.edge, at, size.w, size.h) : fits({ ...drag.box, x: drag.box.x + at.x - drag.at.x, y: drag.box.y + at.y - drag.at.y });
      boxes = replace(chosen, next); // the step for undo is made when the pointer is lifted
    }
    later(false);
  });

  const over = ({ kind, edge }) => (kind === "pull" ? CURSORS[edge] : kind === "move" ? "move" : "crosshair");

  stage.window.addEventListener("pointerup", (event) => {
    if (drag?.id !== event.pointerId) return;
    const { made, moved, before, kind, at, pick } = drag;
    drag = null;
    if (made) { if (made.w >= 1 && made.h >= 1) add({ ...made, name }); }
    else if (moved && kind !== "draw") { const next = boxes; boxes = before; change(next); }
    else if (!moved && pick === undefined) pickAt(at);
    paint();
  });
  stage.window.addEventListener("pointercancel", () => { if (drag) { boxes = drag.before; drag = null; paint(); } });
  stage.window.addEventListener("pointerleave", () => { isMouseHere = false; if (!drag) { cursor = null; later(false); } });

  function pickAt(at) {
    const i = smallestAt(boxes, at);
    if (i >= 0 || boxes.length || !ghosts.length) { choose(i); return; }
    const ghost = smallestAt(ghosts, at); // a click takes one suggested box
    if (ghost >= 0) add(ghosts[ghost]);
  }

  // ---------------------------------------------------------------- keys
  const released = (event) => {
    if (event.key === " ") { stage.spaced = false; stage.window.style.cursor = "crosshair"; }
    if (hidden && keyName(event) === "h") { hidden = false; later(); }
  };
  addEventListener("keyup", released);

  function arrow(event, [dx, dy]) {
    const by = event.shiftKey ? 10 : 1, now = boxes[chosen];
    if (!now) { // the cursor goes in steps that one can see, whatever the zoom
      const far = (event.shiftKey ? 64 : 8) / stage.scale, at = cursor ?? { x: size.w / 2, y: size.h / 2 };
      cursor = { x: Math.min(size.w, Math.max(0, at.x + dx * far)), y: Math.min(size.h, Math.max(0, at.y + dy * far)) };
      later(false);
      return;
    }
    const next = sizing || event.altKey ? { ...now, w: Math.min(now.w + dx * by, size.w - now.x), h: Math.min(now.h + dy * by, size.h - now.y) } : { ...now, x: now.x + dx * by, y: now.y + dy * by };
    if (event.repeat && done.length) { boxes = replace(chosen, fits(next)); paint(); } else change(replace(chosen, fits(next)));
  }

  function enter(event) {
    if (boot.locked()) return;
    if (sizing) { sizing = false; paint(); return; }
    if (boxes.length) { last = boxes; boot.send(value(), event); return; }
    if (ghosts.length) { last = ghosts.map((g) => ({ text: "", ...g })); boot.send({ kind: "boxes", boxes: ghosts }, event); return; }
    if (asked) { last = []; boot.send({ kind: "boxes", boxes: [] }, event); return; }
    asked = true;
    paint();
  }

  function escape() {
    if (drag) { boxes = drag.before; drag = null; }
    else if (sizing) drop();
    else if (chosen >= 0) chosen = -1;
    else if (ghosts.length && !boxes.length) ghosts = [];
    else return false;
    paint();
    return true;
  }

  function next(by) {
    if (!boxes.length) return false;
    choose(chosen < 0 ? (by > 0 ? 0 : boxes.length - 1) : (chosen + by + boxes.length) % boxes.length);
    return true;
  }

  const letters = {
    n: () => { if (sizing) sizing = false; else begin(); paint(); }, v: copyLast, a: takeGhosts,
    d: () => { const b = boxes[chosen]; if (b) add({ ...b, x: b.x + Math.max(3, b.w / 5), y: b.y + Math.max(3, b.h / 5) }); },
    t: () => { if (boxes[chosen]) { text.focus(); text.select(); } },
    z: () => { if (boxes[chosen]) stage.frame(boxes[chosen]); else stage.fit(); },
    h: () => { hidden = true; later(); },
  };

  const value = () => (boxes.length ? { kind: "boxes", boxes: boxes.map(({ x, y, w, h, name: n, text: t }) => ({ x, y, w, h, name: n, text: (t ?? "").normalize("NFC").trim() })) } : null);

  function key(event) {
    const k = keyName(event), free = document.activeElement === document.body || stage.window.contains(document.activeElement);
    if (event.ctrlKey || event.metaKey) {
      if (k === "z" && !event.shiftKey) return step(done, undone);
      return k === "y" || k === "z" ? step(undone, done) || true : false;
    }
    if (ARROWS[k]) { arrow(event, ARROWS[k]); return true; }
    if (event.altKey) return false;
    if (k === " ") { stage.spaced = true; stage.window.style.cursor = "grab"; return true; }
    if (k === "Enter") { if (!event.repeat) enter(event); return true; }
    if (k === "Escape") return escape();
    if (k === "Tab") return free && next(event.shiftKey ? -1 : 1);
    if (k === "Delete" || k === "Backspace") return drop() || k === "Delete";
    if (stage.key(k)) return true;
    if (event.repeat) return false;
    if (letters[k]) { letters[k](); return true; }
    const at = keys.indexOf(k);
    if (at < 0) return false;
    setClass(classes[at]);
    return true;
  }

  return {
    show(task, image, old) {
      size = { w: task.width, h: task.height };
      [boxes, chosen, done, undone, sizing, asked, drag, hidden] = [(old?.boxes ?? []).map((b) => ({ text: "", ...b })), -1, [], [], false, false, null, false];
      ghosts = old ? [] : task.suggestion?.boxes ?? [];
      if (!isMouseHere) cursor = null;
      caption.textContent = task.caption ?? "";
      caption.hidden = !task.caption;
      stage.show(image, task.width, task.height);
      stale = true;
      paint();
      draw(); // in the same frame as the picture
    },
    value,
    key,
    clear() { stage.clear(); boxes = ghosts = []; chosen = -1; stale = true; draw(); },
    destroy() { removeEventListener("keyup", released); stage.destroy(); },
  };
}
