// characters.js: what a keyboard lacks, on the screen.
import { el, MODIFIER } from "./dom.js";
import { add, less, ROWS } from "./hangul.js";

const SETS = {
  latin: ["Latin", ["àâäáãåæçèéêëìíîïñòóôöõøœùúûüýÿß", "ÀÂÄÁÃÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÖÕØŒÙÚÛÜÝŸẞ", "ąćčďęěğıłńňőřśšşťůűźżžāēīōū"]],
  symbols: ["Symbols", ["«»‹›“”„‘’‚…–—·•¶§†‡", "°′″±×÷≈≠≤≥√∞µ‰½¼¾²³¹", "€£¥¢©®™№←→↑↓☐☑☒"]],
  greek: ["Greek", ["αβγδεζηθικλμνξοπρσςτυφχψω", "άέήίόύώϊϋΐΰ", "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ"]],
  cyrillic: ["Cyrillic", ["абвгдеёжзийклмнопрстуфхцчшщъыьэюя", "АБВГДЕЁЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ", "ґєіїўђјљњћџ"]],
  korean: ["한글", null],
};

/** A panel that types into `field`; `wanted` are the names in rules.script, the first one is open. */
export function characters(field, wanted) {
  const asked = wanted.toLowerCase().split(/[\s,+]+/).map((n) => ({ hangul: "korean", symbol: "symbols" })[n] ?? n).filter((n) => SETS[n]);
  const names = asked.length ? asked : Object.keys(SETS);
  let recent = [], composed = -1; // where the caret stood after the last Korean letter: only there does a syllable go on

  function insert(text, from = field.selectionStart) {
    field.focus({ preventScroll: true });
    field.setRangeText(text, from, field.selectionEnd, "end");
    field.dispatchEvent(new InputEvent("input", { bubbles: true, inputType: "insertText", data: text }));
  }

  function type(sign) {
    insert(sign);
    recent = [sign, ...recent.filter((r) => r !== sign)].slice(0, 10);
    again.replaceChildren(...recent.map((r, i) => key(r, () => type(r), `${MODIFIER}+${(i + 1) % 10}`)));
  }

  function letter(jamo) {
    const at = field.selectionStart;
    if (at === composed && at === field.selectionEnd && at > 0) insert(add(field.value[at - 1], jamo), at - 1);
    else insert(jamo);
    composed = field.selectionStart;
  }

  function back() {
    const at = field.selectionStart;
    if (at !== field.selectionEnd) insert("");
    else if (at > 0) insert(at === composed ? less(field.value[at - 1]) : "", at - 1);
    composed = field.selectionStart;
  }

  const key = (text, onclick, title) => el("button.char", { type: "button", title, onclick, onmousedown: (e) => e.preventDefault() }, text);
  const korean = () => [...ROWS.map((row) => el("div.char-row", {}, row.map((j) => key(j, () => letter(j))))), el("div.char-row", {}, key("space", () => { insert(" "); composed = -1; }), key("⌫ letter", back, "Takes the last letter off"))];
  const rows = (name) => (name === "korean" ? korean() : SETS[name][1].map((row) => el("div.char-row", {}, [...row].map((sign) => key(sign, () => type(sign))))));
  const keys = el("div.char-keys"), again = el("div.char-row.recent", { ariaLabel: "Used before" });
  const tabs = names.map((name) => el("button.char-tab", { type: "button", onclick: () => open(name), onmousedown: (e) => e.preventDefault() }, SETS[name][0]));

  function open(name) {
    composed = -1;
    keys.replaceChildren(...rows(name));
    tabs.forEach((t, i) => { t.ariaPressed = String(names[i] === name); });
  }

  open(names[0]);
  const node = el("div.chars", { role: "group", ariaLabel: "Characters" }, el("div.char-tabs", {}, tabs, again), keys);
  /** A command with a digit types one of the last characters again. */
  return { node, again: (digit) => { const sign = recent[(Number(digit) + 9) % 10]; if (sign) type(sign); return Boolean(sign); }, reset: () => { composed = -1; } };
}
