// demo.js: an own picture, dropped, pasted, chosen or drawn; what each release answers, and which part of the picture spoke.
import { common, percent, when } from "./address.js";
import { CELLS, cellsOf } from "./cells.js";
import { button, el, filled, isComposing, isTyping, keyName, say, toast } from "./dom.js";

const LARGEST = 20 * 2 ** 20;

export async function mount(app) {
  const held = await common.get("/demo/releases"), releases = held.releases ?? held;
  app.className = "page wide demo";
  if (!releases.length) { app.replaceChildren(el("div.empty", {}, el("h2", {}, "No release yet"), el("p", {}, "Make one with fsml release; it answers here at once."))); window.fsml = { ready: () => true }; return; }

  const chosen = new Set((releases.filter((r) => r.promoted).length ? releases.filter((r) => r.promoted) : releases).slice(0, 3).map((r) => r.id));
  let picture = null, round = 0, drawing = false, busy = 0, spoke = true;
  const sheetOf = () => Object.values(CELLS).find((c) => c === cellsOf((releases.find((r) => chosen.has(r.id)) ?? releases[0]).label_kind))?.paper ?? CELLS.choice.paper;

  // ---------------------------------------------------------------- the picture
  const file = el("input.visually-hidden", { type: "file", accept: "image/*", ariaLabel: "Choose a picture", onchange: () => { take(file.files[0]); file.value = ""; } });
  const canvas = el("canvas.paper", { ariaLabel: "Draw here" }), pen = canvas.getContext("2d");
  const image = el("img.own-picture", { alt: "Your picture", hidden: true });
  const hint = el("div.drop-hint", {}, el("b", {}, "Drop a picture here, paste one, or draw with the pointer"), el("span.muted", {}, "It is answered and forgotten: nothing is kept."));
  const well = el("div.well", {}, canvas, image, hint);
  const dark = el("button.btn.small", { type: "button", ariaPressed: "false", onclick: () => { dark.ariaPressed = String(dark.ariaPressed !== "true"); wipe(); } }, "White on black");
  const wide = el("input", { type: "range", min: 2, max: 60, ariaLabel: "Width of the pen" });
  const left = el("section.card.demo-input", {}, well, el("div.row", {}, el("label.btn.small.primary", {}, "Choose a picture", file), button("Paste", "", paste, "button.btn.small"), button("Clear", "Esc", wipe, "button.btn.small")), el("div.row", {}, dark, el("label.pen", {}, "Pen", wide)));

  function wipe() {
    const { w, h, pen: usual } = sheetOf();
    if (wide.dataset.usual !== String(usual)) Object.assign(wide, { value: usual }).dataset.usual = usual;
    Object.assign(canvas, { width: w, height: h });
    const isDark = dark.ariaPressed === "true";
    pen.fillStyle = isDark ? "#000" : "#fff";
    pen.fillRect(0, 0, w, h);
    Object.assign(pen, { strokeStyle: isDark ? "#fff" : "#111", lineCap: "round", lineJoin: "round" });
    canvas.hidden = false;
    image.hidden = true;
    hint.hidden = false;
    picture = null;
    round++;
    paint();
  }

  const at = (e) => { const b = canvas.getBoundingClientRect(); return [((e.clientX - b.left) * canvas.width) / b.width, ((e.clientY - b.top) * canvas.height) / b.height]; };
  canvas.addEventListener("pointerdown", (e) => { if (e.button) return; e.preventDefault(); canvas.setPointerCapture(e.pointerId); drawing = true; pen.lineWidth = Number(wide.value); pen.beginPath(); pen.moveTo(...at(e)); pen.lineTo(...at(e)); pen.stroke(); });
  canvas.addEventListener("pointermove", (e) => { if (!drawing) return; for (const part of e.getCoalescedEvents?.().length ? e.getCoalescedEvents() : [e]) pen.lineTo(...at(part)); pen.stroke(); });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => { if (!drawing) return; drawing = false; scan(); });

  /** What was drawn, as a scanner would see it: the edges of its strokes are soft. */
  function scan() {
    const sheet = el("canvas", { width: canvas.width, height: canvas.height }), light = sheet.getContext("2d");
    light.drawImage(canvas, 0, 0); // what the blur leaves transparent at the edge shows this
    light.filter = `blur(${sheetOf().soft}px)`;
    light.drawImage(canvas, 0, 0);
    sheet.toBlob((blob) => { picture = blob; ask(); }, "image/png");
  }

  function take(blob) {
    if (!blob) return;
    if (!blob.type.startsWith("image/")) { toast("This is not a picture.", "bad"); return; }
    if (blob.size > LARGEST) { toast("This picture is too large: 20 MB at most.", "bad"); return; }
    URL.revokeObjectURL(image.src);
    image.onload = () => image.classList.toggle("tiny", image.naturalWidth < 160 && image.naturalHeight < 160);
    image.src = URL.createObjectURL(blob);
    Object.assign(image, { hidden: false });
    canvas.hidden = hint.hidden = true;
    picture = blob;
    ask();
  }

  async function paste() {
    try {
      for (const one of await navigator.clipboard.read()) { const type = one.types.find((t) => t.startsWith("image/")); if (type) return take(await one.getType(type)); }
      toast("There is no picture on the clipboard.");
    } catch { toast("Press Ctrl+V: this browser lets only the key read the clipboard."); }
  }
  addEventListener("paste", (e) => { const found = [...(e.clipboardData?.files ?? [])].find((f) => f.type.startsWith("image/")); if (found) { e.preventDefault(); take(found); } });
  for (const kind of ["dragenter", "dragover"]) addEventListener(kind, (e) => { e.preventDefault(); well.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) addEventListener(kind, (e) => { e.preventDefault(); if (kind === "drop" || e.relatedTarget === null) well.classList.remove("over"); });
  addEventListener("drop", (e) => { const found = e.dataTransfer?.files?.[0]; if (found) take(found); });

  // ---------------------------------------------------------------- the answers
  const show = el("input", { type: "checkbox", checked: true, onchange: () => { spoke = show.checked; cards.classList.toggle("plain", !spoke); } });
  const cards = el("div.answers-grid"), list = el("div.releases", { role: "group", ariaLabel: "Releases" }, releases.map((r) => el("label.release", {}, el("input", { type: "checkbox", checked: chosen.has(r.id), value: r.id, onchange: (e) => pick(r.id, e.target.checked) }),
    el("span", {}, r.name || r.id), r.promoted ? el("span.badge.good", {}, "promoted") : el("span.muted.small.nowrap", {}, when(r.created).slice(0, 10)))));
  const right = el("section.demo-answers", {}, el("div.card.demo-which", {}, el("h2", {}, "Who answers"), list, el("label.row.small", {}, show, "Show which part of the picture spoke: orange for the answer, blue against it")), cards);

  function pick(id, on) {
    if (on) chosen.add(id); else chosen.delete(id);
    if (!picture) wipe(); // the sheet is that of the first one chosen
    ask();
  }

  function paint() { cards.replaceChildren(...[...chosen].map((id) => el("article.card.answer-card.waiting", { dataset: { release: id } }, head(id), el("p.muted", {}, picture ? "…" : "waits for a picture")))); }
  const head = (id, more) => { const r = releases.find((x) => x.id === id); return el("div.answer-top", {}, el("h3", {}, r.name || r.id), more); };

  async function ask() {
    const mine = ++round, blob = picture;
    paint();
    if (!blob) return;
    busy++;
    await Promise.all([...chosen].map(async (id) => {
      let made;
      try { made = answer(id, await common.post(`/demo/answer?release=${encodeURIComponent(id)}`, blob), URL.createObjectURL(blob)); } catch (failure) { made = el("article.card.answer-card", { dataset: { release: id } }, head(id), el("p.notice.error", {}, failure.text ?? String(failure))); }
      if (mine === round) cards.querySelector(`[data-release="${CSS.escape(id)}"]`)?.replaceWith(made);
    }));
    busy--;
  }

  function answer(id, a, src) {
    const kind = cellsOf(releases.find((r) => r.id === id).label_kind), best = Object.entries(a.scores ?? {}).sort((x, y) => y[1] - x[1]).slice(0, 5), own = el("img", { src, alt: "" }), over = a.saliency && el("img.spoke", { src: a.saliency, alt: "The part of the picture that spoke for the answer" });
    own.onload = () => { own.classList.toggle("tiny", own.naturalWidth < 160 && own.naturalHeight < 160); URL.revokeObjectURL(src); };
    say(`${a.label}, ${percent(a.confidence, 0)}`);
    return el(`article.card.answer-card.of-${kind.shape}`, { dataset: { release: id } }, head(id, el("span.muted.small.num", {}, `${a.ms?.toFixed(a.ms < 10 ? 1 : 0)} ms${a.variant ? ` · ${a.variant}` : ""}`)),
      el("div.answer-in", {}, el("div.looked", {}, own, over), el("div.answer-said", {}, el("p.answer-label", {}, a.label === "" ? el("span.nothing", {}, "empty") : a.label), el("p.muted", {}, `sure ${percent(a.confidence)}`),
        best.length > 0 && el("ul.pairs", {}, best.map(([name, p]) => el("li", {}, el("span.pairs-name", {}, name), el("span.pairs-bar", { ariaHidden: "true" }, filled(p)), el("span.num", {}, p.toFixed(3))))))));
  }

  addEventListener("keydown", (e) => { if (!isComposing(e) && !isTyping(e) && keyName(e) === "Escape") wipe(); });
  app.replaceChildren(el("div.page-head", {}, el("div", {}, el("h1", {}, "Try it"), el("p.lead", {}, "Each chosen release answers, with its time and how sure it is."))), el("div.demo-split", {}, left, right));
  wipe();
  window.fsml = { ready: () => busy === 0, take };
}
