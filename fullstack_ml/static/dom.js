// dom.js: elements without a framework. Text from people only ever becomes a text node: nothing here parses HTML.

/** An element: el("button.btn.primary", {type: "button", onclick: f}, "Send", kbd("Enter")). */
export function el(spec, props = {}, ...children) {
  const [tag, ...classes] = spec.split(".");
  const node = document.createElement(tag || "div");
  if (classes.length) node.className = classes.join(" ");
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(node.dataset, value);
    else if (/^aria[A-Z]/.test(name)) node.setAttribute(`aria-${name.slice(4).toLowerCase()}`, value);
    else if (name in node && name !== "list" && name !== "role") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

/** The filled part of a bar; the pages' own policy allows a width only this way. */
export function filled(share, spec = "i") {
  const node = el(spec);
  node.style.width = `${100 * Math.min(1, Math.max(0, share || 0))}%`;
  return node;
}

export const kbd = (text) => el("kbd", { ariaHidden: "true" }, text);

/** A real button that never takes the keyboard's focus away from the work when it is pressed with the pointer. */
export function button(text, key, onclick, spec = "button.btn") {
  const label = el("span", {}, text);
  return el(spec, { type: "button", onclick, onmousedown: (e) => e.preventDefault(), title: key ? `${text} (${key})` : text }, label, key && kbd(key));
}

export const boot = () => JSON.parse(document.getElementById("boot").textContent);

/** Says something to a screen reader, and to nobody else. */
export function say(text) {
  const region = document.getElementById("live") ?? document.body.appendChild(el("div.visually-hidden", { id: "live", role: "status" }));
  region.textContent = text;
}

/** A short message at the foot of the screen. */
export function toast(text, kind = "") {
  const host = document.getElementById("toasts") ?? document.body.appendChild(el("div.toasts", { id: "toasts", role: "status" }));
  const note = el(`div.toast${kind ? "." + kind : ""}`, {}, text);
  host.replaceChildren(note);
  setTimeout(() => note.remove(), kind === "bad" ? 8000 : 3000);
}

const EDITABLE = 'input:not([type="checkbox"]):not([type="radio"]):not([type="button"]), textarea, select, [contenteditable=""], [contenteditable="true"]';
export const isTyping = (event) => event.target instanceof Element && event.target.matches(EDITABLE);
/** A key that an input method still works on is not ours: it ends a syllable or chooses a candidate. */
export const isComposing = (event) => event.isComposing || (event.keyCode === 229 && isTyping(event));

/** The key that a person means: digits by their place (AZERTY), letters by their sign, or by place where the layout is not Latin (Korean, Greek). */
export function keyName(event) {
  const digit = /^(?:Digit|Numpad)([0-9])$/.exec(event.code);
  if (digit && !event.shiftKey) return digit[1];
  if (/^[a-z]$/i.test(event.key)) return event.key.toLowerCase();
  const place = /^Key([A-Z])$/.exec(event.code);
  if (place) return place[1].toLowerCase();
  return event.key;
}

/** Commands while one types text: Alt and a letter, but Ctrl on a Mac, where Alt makes letters; AltGr makes letters everywhere. */
const isMac = /Mac|iP(hone|ad|od)/.test(navigator.platform);
export const MODIFIER = isMac ? "Ctrl" : "Alt";
export const isCommand = (event) => (isMac ? event.ctrlKey && !event.altKey && !event.metaKey : event.altKey && !event.ctrlKey && !event.metaKey && !event.getModifierState("AltGraph"));

/** 32 hexadecimal characters from the browser's own randomness: getRandomValues is there on plain http too, randomUUID is not. */
export const hexId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

/** One key per class: 1-9, 0, then the letters that nothing else uses; a class past the last key has none. */
export function classKeys(classes, reserved) {
  const keys = [..."1234567890", ..."abcdefghijklmnopqrstuvwxyz"].filter((k) => !reserved.includes(k));
  return classes.map((_, i) => keys[i] ?? "");
}

/** The next two frames: what is drawn now stands on the screen when the second one begins. */
export const drawn = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));

/** Adds the stylesheet of one screen and waits for it. */
export const sheet = (name) => new Promise((done) => document.head.append(el("link", { rel: "stylesheet", href: new URL(name, import.meta.url).href, onload: done, onerror: done })));

/** Do two labels say the same? Keys that one of them lacks and the order of keys do not matter. */
export function sameLabel(a, b) {
  const plain = (l) => !l ? null : l.kind === "choice" ? [...l.names].sort() : l.kind === "text" ? l.text : l.boxes.map((o) => [o.x, o.y, o.w, o.h, o.name, o.text || ""]);
  return JSON.stringify(plain(a)) === JSON.stringify(plain(b));
}
