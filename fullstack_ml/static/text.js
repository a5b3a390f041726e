// text.js: the widget for transcriptions. The field holds the focus; commands go with Alt, since letters are text.
import { button, el, isCommand, isComposing, kbd, keyName, MODIFIER } from "./dom.js";
import { Stage } from "./stage.js";
import { characters } from "./characters.js";

export const RESERVED = [];
export const HELP = () => [
  ["Enter", "send the text; in an empty field: accept the suggestion"],
  ["Tab", "take the suggestion into the field to mend it"],
  ["Shift+Enter", "a new line in the text"],
  [`${MODIFIER}+K`, "show or hide the characters that a keyboard lacks"],
  [`${MODIFIER}+1 … ${MODIFIER}+0`, "type one of the characters used last"],
  [`${MODIFIER} + = − F`, "zoom in, zoom out, fit; the wheel and two fingers zoom too"],
];

export function mount(host, boot) {
  const { script } = boot.project.rules, stage = new Stage();
  let suggestion = "", composing = false;

  const field = el("textarea.transcript", { rows: 2, spellcheck: false, autocomplete: "off", ariaLabel: "Transcription", oninput: paint, onkeydown: keydown,
    oncompositionstart: () => { composing = true; chars.reset(); }, oncompositionend: () => { composing = false; paint(); } });
  field.setAttribute("autocapitalize", "off");
  field.setAttribute("autocorrect", "off");
  const chars = characters(field, script ?? "");
  chars.node.hidden = !script;
  const ghost = el("button.ghost-text", { type: "button", hidden: true, onclick: take, onmousedown: (e) => e.preventDefault(), title: "Take it into the field to mend it (Tab)" });
  const hint = el("p.hint", { ariaLive: "polite" }), caption = el("p.caption", { hidden: true });
  const send = button("Send", "Enter", enter, "button.btn.primary");
  const more = button("Characters", `${MODIFIER}+K`, toggle, "button.btn.quiet.small");
  host.replaceChildren(el("div.widget.text", {}, stage.window, el("div.side", {}, caption, ghost, el("div.write", {}, field, send), el("div.side-foot", {}, hint, more), chars.node)));

  function toggle() { chars.node.hidden = !chars.node.hidden; more.ariaExpanded = String(!chars.node.hidden); }

  function paint() {
    const open = suggestion && !field.value;
    ghost.hidden = !suggestion;
    ghost.classList.toggle("off", !open);
    send.firstChild.textContent = open ? "Accept" : "Send";
    hint.textContent = field.value !== field.value.normalize("NFC") ? "Letters and accents are joined when the text is sent." : "";
  }

  function take() { if (!field.value) { field.value = suggestion; paint(); } field.focus(); }

  function enter(event) {
    if (boot.locked() || composing) return;
    const given = value() ?? (suggestion ? { kind: "text", text: suggestion } : null);
    if (!given) { hint.textContent = `Nothing is written. Skip it with ${MODIFIER}+S if it cannot be read.`; return; }
    boot.send(given, event);
  }

  function keydown(event) {
    if (isComposing(event) || composing) { event.stopPropagation(); return; } // Enter ends a syllable here, it does not send
    if (boot.locked() && !event.ctrlKey && !event.metaKey) event.preventDefault();
  }

  function value() {
    const text = field.value.normalize("NFC").trim();
    return text ? { kind: "text", text } : null;
  }

  return {
    show(task, image, old) {
      suggestion = old ? "" : task.suggestion?.text ?? "";
      field.value = old?.text ?? "";
      ghost.replaceChildren(el("span.ghost-name", {}, "Suggested"), el("span.ghost-line", {}, suggestion), kbd("Tab"));
      caption.textContent = task.caption ?? "";
      caption.hidden = !task.caption;
      chars.reset();
      stage.show(image, task.width, task.height);
      paint();
      field.focus({ preventScroll: true });
    },
    value,
    clear: () => stage.clear(),
    focus: () => field.focus({ preventScroll: true }),
    /** Has nothing been written yet, so that Ctrl+Z may mean the picture before? */
    untouched: () => !field.value,
    key(event) {
      const name = keyName(event), here = event.target === field;
      if (name === "Enter" && !event.shiftKey && !event.altKey && (here || event.target === document.body)) { if (!event.repeat) enter(event); return true; }
      if (name === "Tab" && here && !event.shiftKey && suggestion && !field.value) { take(); return true; }
      if (!isCommand(event)) return false;
      if (name === "k") { toggle(); return true; }
      if (/^[0-9]$/.test(name) && chars.again(name)) return true;
      return stage.key(name);
    },
    destroy: () => stage.destroy(),
  };
}
