// overview.js: a report at a glance. Every figure and every mark leads to the items behind it.
import { api, boot, count, percent, query, to, when } from "./address.js";
import { cellsOf, known, thumb } from "./cells.js";
import { el, filled } from "./dom.js";
import { interval, floorOf, lines, matrix, reliability, shares } from "./plots.js";

const SLICES = 8; // columns shown
const SKIPPED = new Set(["item", "label", "truth", "expected", "predicted", "checked", "right", "split", "suggested", "confidence", "suspicion", "cer", "confused", "length", "error", "caption", "verdict", "sent", "mime", "licence"]);

export async function mount(app) {
  const told = await api.get("/about"), cells = cellsOf(told.label_kind ?? boot.label_kind), head = told.headline;
  const part = head ? [["split", "=", head.split]] : [], cases = (more = [], view = {}) => to.cases({ f: [...part, ...more], ...view });
  const figure = told.figures?.find((f) => head && f.split === head.split && f.labels === head.labels) ?? told.figures?.at(-1);
  const main = figure?.score?.[told.main_metric], ready = { n: 0 };
  const place = el("div.overview");
  document.title = `Overview - ${told.task || told.report}`;
  app.className = "page wide";

  const title = el("div.page-head", {}, el("div", {}, el("h1", {}, told.task || "Report"), el("p.lead.small", {}, el("span.mono", { title: "run" }, told.run || told.report), " on ", el("span.mono", { title: "dataset" }, told.dataset || "a dataset that is gone"), ` · ${when(told.created)} UTC`)),
    el("div.actions", {}, el("a.btn.primary", { href: to.cases({ f: [...part, ["right", "=", false]], sort: "confidence", down: true }) }, "Wrong answers"), el("a.btn", { href: to.cases() }, "All cases"), compareWith(), el("a.btn", { href: `${to.report()}/page` }, "As one page")));

  const hero = figure && el("section.card.hero", {}, el("a.big", { href: cases() }, el("b", {}, percent(figure.accuracy)), el("span", {}, "right")),
    el("div.hero-said", {}, interval(figure, floorOf([figure.low])), el("p", {}, `${percent(figure.low)} to ${percent(figure.high)} with 95 % confidence: ${count(figure.n_right ?? Math.round(figure.accuracy * figure.n))} of ${count(figure.n)} items of the ${figure.split} split, against ${figure.who}.`),
      told.test_noise !== null && told.test_noise !== undefined && told.test_noise < 1 && el("p.muted.small", {}, `${percent(1 - told.test_noise)} of the collected labels of the test split are wrong themselves.`)));
  const stats = el("div.stats", {}, [
    main !== undefined && told.main_metric !== "accuracy" && stat(percent(main), told.main_metric.replaceAll("_", " ")),
    figure?.ece !== null && figure?.ece !== undefined && stat(percent(figure.ece), "calibration error"),
    told.suspicion?.n_estimated !== null && told.suspicion?.n_estimated !== undefined && stat(count(told.suspicion.n_estimated), `labels look wrong, of ${count(told.suspicion.n_held_out)}`, to.cases({ sort: "suspicion", down: true })),
    stat(count(told.n_items), "items", to.cases()), told.n_unreadable > 0 && stat(count(told.n_unreadable), "could not be read", to.cases({ f: [["error", "empty", false]] })),
  ]);
  const notices = (told.warnings ?? []).map((w) => el("p.notice.warn", { role: "status" }, w));

  app.replaceChildren(...[title, ...notices, el("div.top-row", {}, hero || el("div.card.empty", {}, el("h2", {}, "No figure can be given"), el("p", {}, told.n_items ? "There are no labels to judge by." : "The report holds no predictions.")), stats), gates(told.gates), place].filter(Boolean));

  const box = (name, about, node, more = "") => node && el(`section.card${more}`, {}, el("div.card-head", {}, el("h2", {}, name), about && el("p.muted.small", {}, about)), node);
  const [confused, worst, doubtful, ...sliced] = await Promise.all([
    quiet(api.get(`/confusion${query({ f: part })}`)), strip(cases, [["right", "=", false]], "confidence"), strip(() => "", [], "suspicion"),
    ...told.columns.filter((c) => !SKIPPED.has(c.name) && c.kind !== "text").slice(0, SLICES).map(async (c) => [c, await quiet(api.get(`/slice${query({ f: part }, { column: c.name })}`))]),
    ...told.columns.filter((c) => c.name === "length" || c.name === "confidence").map(async (c) => [c, await quiet(api.get(`/slice${query({ f: part }, { column: c.name })}`))]),
  ]);
  const many = sliced.map(([c, found]) => [c, (found?.slices ?? found ?? []).filter((r) => r.accuracy !== null)]).filter(([, rows]) => rows.length > 1);
  const length = many.find(([c]) => c.name === "length"), others = many.filter(([c]) => !["length", "confidence"].includes(c.name));
  const cellFilter = (t, p) => confused.pairs.find((x) => x.truth === t && x.predicted === p)?.filter ?? [[confused.pairs[0]?.filter[0][0] ?? "expected", "=", t], [confused.pairs[0]?.filter[1]?.[0] ?? "predicted", "=", p]];

  place.replaceChildren(...[
    confused?.matrix?.length > 0 && box("What is taken for what", "Rows: what it is. Columns: what was said. A press shows the pictures.", matrix(confused, (t, p) => cases(cellFilter(t, p), { view: "gallery" })), ".wide-2"),
    confused?.pairs?.length > 0 && box("Most frequent confusions", "", pairs(confused.pairs.slice(0, 12), (p) => cases(p.filter, { view: "gallery" }))),
    told.calibration?.length > 0 && box("How far its confidence can be trusted", "On the line: as often right as it says.", reliability(told.calibration, (b) => cases([["confidence", b.low > 0 ? ">" : ">=", b.low], ["confidence", "<=", b.high]]))),
    told.figures?.length > 1 && box("Every figure", "By split and by whose labels.", table(told.figures), ".wide-2"),
    worst && box("Surest wrong answers", "The model was sure, and wrong.", worst, ".full"),
    doubtful && box("Labels that look wrong", "In red the label, in green what the picture looks like.", doubtful, ".full"),
    length && box("By length", "The share of items that are right, by how long the label is.", byLength(length[1].filter((r) => r.value !== "unknown"), (r) => cases(r.filter))),
    ...others.map(([c, rows]) => box(`By ${c.name.replaceAll("_", " ")}`, "", shares(rows.slice(0, 8), (r) => cases(r.filter)))),
    robust(told.robustness) && box("How it bears a worse picture", `Share right as the picture gets worse, on ${count(told.robustness.n)} items.`, robust(told.robustness)),
    told.behaviour?.length > 0 && box("How it should behave", "What a change of the picture may and may not change.", behaviour(told.behaviour)),
  ].filter(Boolean));
  window.fsml = { ready: () => true };
  return ready;

  /** A strip of pictures: those that a condition and an order bring to the front. */
  async function strip(_, more, sort) {
    const f = sort === "confidence" ? [...part, ...more] : more, found = await quiet(api.get(`/cases${query({ f, sort, down: true }, { n: 12 })}`)), view = { f, sort, down: true };
    const arrow = () => el("span.arrow", {}, "→"), doubted = (r) => [cells.pair(r.suggested ?? null, r.label ?? null)[1], arrow(), cells.pair(r.suggested ?? null, r.suggested ?? null)[0]];
    const taken = (r) => { const [is, said] = cells.pair(known(r) ?? null, r.predicted ?? null); return [el("span.is", {}, is), arrow(), said]; };
    const rows = (found?.rows ?? []).filter((r) => sort !== "suspicion" || r.suspicion > 0.5);
    if (!rows.length) return null;
    return el(`div.strip-row.of-${cells.shape}`, {}, rows.map((r, i) => el("a.strip-case", { href: to.item(r.item, { ...view, at: i }) }, thumb(to.thumb(r.item), "", r.width && r.width <= 96),
      el("span.tile-pair", {}, sort === "suspicion" ? doubted(r) : taken(r)))), el("a.strip-more", { href: to.cases(view) }, sort === "suspicion" ? "All by suspicion" : `All ${count(found.total)}`));
  }
}

const byLength = (rows, href) => lines([{ name: "", points: rows.map((r, i) => ({ x: i, y: r.accuracy, low: r.low, high: r.high, n: r.n, about: `length ${r.value}`, href: href(r) })) }],
  { label: "length", ticks: rows.map((r, i) => [i, String(r.value).split(" ")[0]]) });
const quiet = (asked) => asked.catch(() => null);
const stat = (value, name, href) => el(href ? "a.stat" : "div.stat", href ? { href } : {}, el("b", {}, value), el("span", {}, name));

function compareWith() {
  const others = (boot.reports ?? []).filter((r) => r.id !== boot.report);
  if (!others.length) return null;
  return el("select.btn-like", { ariaLabel: "Compare with another report", onchange: (e) => { if (e.target.value) location.href = to.compare(e.target.value); } },
    el("option", { value: "" }, "Compare with …"), others.map((r) => el("option", { value: r.id }, [r.name || r.run, percent(r.accuracy), when(r.created)].join(" · "))));
}

function gates(list) {
  if (!list?.length) return null;
  return el("div.gates", {}, list.map((g) => el(`span.gate.${g.state}`, { title: `asked: ${g.asked}` }, el("i.dot", { ariaHidden: "true" }), el("b", {}, g.name), ` ${g.value}`, el("span.muted", {}, ` ${g.asked}`), el("span.visually-hidden", {}, g.state === "pass" ? "passed" : g.state === "miss" ? "missed" : "judged later"))));
}

function pairs(list, href) {
  const most = Math.max(...list.map((p) => p.n));
  return el("ul.pairs", {}, list.map((p) => el("li", {}, el("a", { href: href(p) }, el("span.pairs-name", {}, el("b", {}, p.truth), el("span.arrow", {}, " read as "), el("b.no", {}, p.predicted)),
    el("span.pairs-bar", { ariaHidden: "true" }, filled(p.n / most)), el("span.num", {}, count(p.n))))));
}

function robust(r) {
  const names = [...new Set((r?.corruptions ?? []).map((c) => c.name))], clean = r?.clean?.accuracy;
  if (!names.length) return null;
  const points = (name) => r.corruptions.filter((c) => c.name === name && c.accuracy !== null).map((c) => ({ x: c.strength, y: c.accuracy, about: `strength ${c.strength}`, n: c.n }));
  return lines(names.map((name) => ({ name, points: [...(clean === undefined || clean === null ? [] : [{ x: 0, y: clean, about: "as it is" }]), ...points(name)] })), { label: "strength", low: floorOf(r.corruptions.map((c) => c.accuracy)) });
}

const EXPECTED = { same: "the answer stays the same", label: "the answer is right", up: "it gets surer", down: "it gets less sure" };

function behaviour(list) {
  return el("ul.tests", {}, list.map((t) => {
    const kept = t.n - t.failed;
    return el("li", {}, el("span.tests-name", {}, t.name), el("span.muted.small", {}, `expected: ${EXPECTED[t.expect] ?? t.expect}${t.of ? ` (${t.of})` : ""}`), el("span.pairs-bar", { ariaHidden: "true" }, filled(kept / t.n)), el("b.num", {}, percent(t.n ? kept / t.n : null, 0)),
      t.failed > 0 && t.items?.length ? el("a.num", { href: to.cases({ f: [["item", "in", t.items]], view: "gallery" }) }, `${count(t.failed)} of ${count(t.n)} failed`) : el("span.num.muted", {}, `${count(t.n)} tried`));
  }));
}

function table(figures) {
  const from = floorOf(figures.map((f) => f.low));
  const heads = el("tr", {}, ["Split", "Labels", "Right", "", "Interval", "Items"].map((t, i) => el(`th${[2, 4, 5].includes(i) ? ".num" : ""}`, { scope: "col" }, t)));
  const line = (f) => el("tr", {}, el("td", {}, f.split), el("td", {}, f.who), el("td.num", {}, el("b", {}, percent(f.accuracy))), el("td.figure-bar", {}, interval(f, from)),
    el("td.num.nowrap", {}, `${percent(f.low)} to ${percent(f.high)}`), el("td.num", {}, count(f.n)));
  return el("div.scroll", {}, el("table.figures", {}, el("thead", {}, heads), el("tbody", {}, figures.map(line))));
}
