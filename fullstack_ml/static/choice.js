// choice.js: the widget for one class or several: one key per class, one press per picture.
import { button, classKeys, el, kbd, keyName, say } from "./dom.js";
import { Stage } from "./stage.js";

export const RESERVED = [..."cfgqsu"]; // keys of the engine and of the stage

export const HELP = (boot) => [
  ["the key on a class", boot.project.rules.several ? "turn this class on or off" : "answer with this class, and on to the next"],
  boot.project.rules.several ? ["Enter", "send the chosen classes, or accept the suggestion"] : ["Enter or Space", "accept the suggestion"],
  ["/", "find a class by its name"],
  ["+ − F", "zoom in, zoom out, fit; the wheel and two fingers zoom too"],
];

export function mount(host, boot) {
  const { classes, rules: { several } } = boot.project;
  const keys = classKeys(classes, RESERVED), stage = new Stage({ most: 14 }); // a tiny picture blown up to the whole window is harder to recognise
  let chosen = new Set(), suggested = new Set(), answered = false;

  const buttons = classes.map((name, i) => el("button.class", { type: "button", ariaPressed: "false", onclick: () => press(name), onmousedown: (e) => e.preventDefault() },
    keys[i] && kbd(keys[i].toUpperCase()), el("span", {}, name)));
  const find = el("input.find", { type: "search", placeholder: "Find a class", ariaLabel: "Find a class", oninput: filter, onkeydown: found, hidden: classes.length < 13 });
  const caption = el("p.caption", { hidden: true }), about = boot.project.about ? el("p.about", {}, boot.project.about) : null;
  const hint = el("p.hint", { ariaLive: "polite" });
  const send = button(several ? "Send" : "Accept suggestion", "Enter", enter, "button.btn.primary");
  host.replaceChildren(el("div.widget.choice", {}, stage.window, el("div.side", {},
    about, caption, find, el("div.classes", { role: "group", ariaLabel: several ? "Classes: choose any" : "Classes: choose one", dataset: { many: classes.length > 12 ? "1" : "" } }, buttons), el("div.side-foot", {}, hint, send))));

  function filter() {
    const wanted = find.value.trim().toLowerCase();
    buttons.forEach((b, i) => { b.hidden = !classes[i].toLowerCase().includes(wanted); });
  }

  function found(event) {
    if (event.key === "Escape") { find.value = ""; filter(); find.blur(); event.stopPropagation(); }
    const first = buttons.findIndex((b) => !b.hidden);
    if (event.key !== "Enter" || event.isComposing || event.repeat || first < 0) return;
    event.preventDefault();
    event.stopPropagation();
    find.value = "";
    filter();
    find.blur();
    press(classes[first], event);
  }

  function paint() {
    buttons.forEach((b, i) => {
      b.ariaPressed = String(chosen.has(classes[i]));
      b.classList.toggle("ghost", !chosen.size && suggested.has(classes[i]));
    });
    const ghost = !chosen.size && suggested.size > 0;
    send.hidden = !several && !ghost;
    send.firstChild.textContent = ghost ? "Accept suggestion" : "Send";
    hint.textContent = ghost ? `Suggested: ${[...suggested].join(", ")}` : several ? (chosen.size ? `${chosen.size} chosen` : "Choose one or more classes") : answered ? "Your answer. Another key changes it." : "";
  }

  function press(name, event) {
    if (boot.locked()) return;
    if (!several) { chosen = new Set([name]); paint(); boot.send(value(), event); return; }
    if (!chosen.size) chosen = new Set(suggested); // a suggestion is corrected from where it stands
    if (!chosen.delete(name)) chosen.add(name);
    suggested = new Set();
    paint();
    say(`${name} ${chosen.has(name) ? "chosen" : "not chosen"}`);
  }

  function enter(event) {
    if (boot.locked()) return;
    const names = chosen.size ? chosen : suggested;
    if (!names.size) { hint.textContent = several ? "Choose at least one class, or skip with S." : "Press the key of a class."; return; }
    boot.send(label(names), event);
  }

  const label = (names) => (names.size ? { kind: "choice", names: classes.filter((c) => names.has(c)) } : null);
  const value = () => label(chosen);

  return {
    show(task, image, old) {
      chosen = new Set(old?.names ?? []);
      answered = Boolean(old);
      suggested = new Set(old ? [] : task.suggestion?.names ?? []);
      caption.textContent = task.caption ?? "";
      caption.hidden = !task.caption;
      stage.show(image, task.width, task.height);
      paint();
    },
    value,
    clear: () => stage.clear(),
    key(event) {
      const name = keyName(event);
      if (name === "/" && !find.hidden) { find.focus(); return true; }
      if (name === "Enter" || (name === " " && !several)) { enter(event); return true; }
      if (stage.key(name)) return true;
      const at = keys.indexOf(name);
      if (at < 0) return false;
      press(classes[at], event);
      return true;
    },
    destroy: () => stage.destroy(),
  };
}
