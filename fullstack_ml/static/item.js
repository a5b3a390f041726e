// item.js: one item with its whole story: where it comes from, what people and models said of it, and what became of that.
import { api, boot, count, query, readView, to, when } from "./address.js";
import { cellsOf, known, sureness, tone } from "./cells.js";
import { el, filled, isComposing, isTyping, keyName, toast } from "./dom.js";
import { Detail } from "./detail.js";
import { isOpen, showKeys } from "./panels.js";
import { bar, Judge, TONES, VERDICTS } from "./verdicts.js";

const cells = cellsOf(boot.label_kind);

export async function mount(app) {
  const view = readView(), id = boot.item || decodeURIComponent(location.pathname.split("/").at(-1));
  const fromList = location.search !== "", story = await api.get(`/items/${encodeURIComponent(id)}`), row = { ...story.item, item: story.item.item ?? id };
  row.verdict ??= mineOf(story.verdicts);
  const judge = new Judge(() => { detail.show(row); paintVerdicts(); });
  const detail = new Detail(judge, { act: say, link: () => to.picture(row.item), most: 24 });
  Object.assign(detail.story, { target: "_blank" });
  detail.story.replaceChildren("The picture alone");
  const back = to.cases(fromList ? view : {}), verdicts = el("section.card"), steps = el("span.steps");
  document.title = `${row.caption || row.item} - item`;

  const undo = () => { if (judge.undo().length) toast("Taken back"); }, title = el("h1", {}, el("a", { href: back }, "Cases"), el("span.muted", {}, " / "), el("span.mono", {}, row.item));
  const tools = [["Back", "Esc", leave], ["Previous", "K", () => go(-1)], ["Next", "J", () => go(1)], ["Undo", "U", undo], ["Keys", "?", help]];
  app.replaceChildren(el("div.bench.item", {}, ...bar(title, steps, tools, judge.state),
    el("div.item-body", {}, el("div.item-picture", {}, detail.stage.window, detail.lost), el("div.story", {}, el("section.card.first", {}, detail.body, row.scores && scores(row.scores), el("div.verdicts.in-row", { role: "group", ariaLabel: "Verdict" }, detail.buttons), detail.comment),
      verdicts, answers(story.answers ?? []), predictions(story.predictions ?? []), versions(story.versions ?? []), origin(row)))));
  detail.show(row);
  paintVerdicts();

  // The neighbours are those of the list that one comes from.
  let around = null;
  if (fromList) api.get(`/cases${query({ ...view, at: 0, view: "", which: "" }, { start: Math.max(0, view.at - 1), n: 3 })}`).then((found) => { around = found; steps.textContent = `${count(view.at + 1)} of ${count(found.total)}`; }).catch(() => null);
  window.fsml = { judge, outbox: judge.outbox, ready: () => detail.drawn === row.item };
  await judge.open();
  detail.show(row);
  paintVerdicts();

  function go(step) {
    const at = view.at + step, next = around?.rows[at - Math.max(0, view.at - 1)];
    if (!fromList || !around) return;
    if (at < 0 || !next) { toast(step > 0 ? "This is the last one." : "This is the first one."); return; }
    location.href = to.item(next.item, { ...view, at });
  }

  function say(v) { judge.judge([row], v); }

  /** Back to where one comes from, such as a comparison, or to the list. */
  function leave() {
    if (!fromList && history.length > 1 && document.referrer.startsWith(`${location.origin}/`)) history.back(); else location.href = back;
  }

  function paintVerdicts() {
    const mine = judge.mine(row), waits = judge.outbox.records.some((r) => r.body.item === row.item);
    const list = (story.verdicts ?? []).filter((v) => v.verdict);
    const own = row.verdict?.own, shown = own?.verdict ? [...list, { author: boot.me.name, ...own, created: waits ? "waits to be saved" : "just now" }] : list;
    const one = (v) => said(v.author, el(`span.badge.${TONES[v.verdict] ?? "info"}`, {}, v.verdict), v.comment, [v.report && v.report !== boot.report && "of another report", v.sent && "sent to annotation", when(v.created)]);
    verdicts.replaceChildren(el("h2", {}, "Verdicts"), shown.length ? el("ul.said-list", {}, [...shown].reverse().map(one)) : el("p.muted", {}, judge.may ? "Nobody has judged this yet: 1 to 5." : "Nobody has judged this yet."),
      ...(mine === null && own && !own.verdict ? [el("p.muted.small", {}, "Your verdict was taken back.")] : []));
  }

  function help() { showKeys([["Item", [["J K", "next and previous of the list that one comes from"], ["1 … 5", VERDICTS.join(", ")], ["C", "comment"], ["U", "take it back"], ["Esc", "back to the list"], ["+ − = F", "zoom; the wheel does too"]]]]); }

  addEventListener("keydown", (event) => {
    if (isComposing(event) || isOpen() || event.defaultPrevented || isTyping(event)) return;
    const name = keyName(event);
    if (event.ctrlKey || event.metaKey || event.altKey) { if (name === "z") { event.preventDefault(); undo(); } return; }
    const act = /^[1-5]$/.test(name) && !event.repeat ? () => say(VERDICTS[Number(name) - 1]) : { j: () => go(1), k: () => go(-1), ArrowRight: () => go(1), ArrowLeft: () => go(-1), c: () => detail.write(), u: undo, Escape: leave, "?": help }[name];
    if (act) { event.preventDefault(); act(); } else if (detail.stage.key(name)) event.preventDefault();
  });

  function answers(list) {
    const one = (a) => said(a.annotator, a.skip ? el("span.muted", {}, `skipped: ${a.skip}`) : plain(a.label), a.comment, [a.decision && "decision", a.project, when(a.created)]);
    return el("section.card", {}, el("h2", {}, "What people answered"), list.length ? el("ul.said-list", {}, list.map(one)) : el("p.muted", {}, "Nobody yet."));
  }

  function predictions(list) {
    const one = (p) => el("li", {}, el("a.nowrap", { href: to.item(row.item, {}, p.report), title: p.run }, p.report === boot.report ? el("b", {}, "this report") : when(p.created) || p.report),
      el("span", {}, p.predicted === null ? el("span.nothing", {}, "no answer") : cells.pair(known(row) ?? null, p.predicted)[1]), el("span.at-end", {}, sureness(p.confidence, tone(p))));
    return el("section.card", {}, el("h2", {}, "What every model said"), el("ul.said-list", {}, list.map(one)));
  }

  function versions(list) {
    const one = (v, i) => said(v.name || v.id, [plain(v.label), el("span.badge", {}, v.split), i < list.length - 1 && v.label !== list[i + 1].label && el("span.badge.warn", {}, "label changed")], v.why && `${v.why.by}: ${v.why.said}`, [when(v.created)]);
    return list.length > 0 && el("section.card", {}, el("h2", {}, "In which versions of the dataset"), el("ul.said-list", {}, list.map(one)));
  }
}

function mineOf(list = []) {
  const last = new Map(), counts = {};
  for (const v of list) if (!v.report || v.report === boot.report) last.set(v.author, v);
  for (const v of last.values()) if (v.verdict) counts[v.verdict] = (counts[v.verdict] ?? 0) + 1;
  const mine = last.get(boot.me.name);
  return { mine: mine?.verdict || null, comment: mine?.comment ?? "", counts };
}

/** A line of who, what, a comment and the rest. */
const said = (who, what, comment, rest) => el("li", {}, el("b", {}, who), what, comment && el("q", {}, comment), el("span.muted.small.at-end", {}, rest.filter(Boolean).join(" · ")));

/** A label that is not right or wrong, only said. */
const plain = (label) => el("span.is", {}, cells.pair(label ?? null, label ?? null)[0]);

function scores(held) {
  const best = Object.entries(held).sort((a, b) => b[1] - a[1]).slice(0, 5);
  return best.length > 0 && el("ul.pairs", {}, best.map(([name, p]) => el("li", {}, el("span.pairs-name", {}, name), el("span.pairs-bar", { ariaHidden: "true" }, filled(p)), el("span.num", {}, p.toFixed(3)))));
}

const HIDDEN = new Set(["item", "verdict", "scores", "right", "predicted", "confidence", "label", "truth", "expected", "suspicion", "suggested", "split", "confused", "project"]), FIRST = ["caption", "title", "author", "licence", "source", "page_url", "url", "found"];

function origin(row) {
  const held = Object.entries(row).filter(([k, v]) => !HIDDEN.has(k) && v !== null && v !== undefined && v !== "" && typeof v !== "object");
  held.sort(([a], [b]) => (FIRST.indexOf(a) + 1 || 99) - (FIRST.indexOf(b) + 1 || 99));
  const shown = (k, v) => (typeof v === "string" && /^https?:\/\//.test(v) ? el("a", { href: v, target: "_blank", rel: "noopener noreferrer" }, v.replace(/^https?:\/\//, "")) : typeof v === "boolean" ? (v ? "yes" : "no") : typeof v === "number" ? String(Number(v.toPrecision(6))) : String(v));
  return el("section.card", {}, el("h2", {}, "Where it comes from"), el("dl.facts-list", {}, held.map(([k, v]) => el("div", {}, el("dt", {}, k.replaceAll("_", " ")), el(`dd${/sha|id$/.test(k) ? ".mono" : ""}`, {}, shown(k, v))))));
}
