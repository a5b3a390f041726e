// compare.js: two reports on the same items: what got fixed, what broke, and whether that is more than chance.
import { api, boot, count, percent, query, to, when } from "./address.js";
import { Bench } from "./bench.js";
import { el } from "./dom.js";

const TABS = [["broken", "Broken"], ["fixed", "Fixed"], ["both_wrong", "Both wrong"], ["both_right", "Both right"]];
const LEFT = [["relabelled", "Other label"], ["taught", "Trained on by one"], ["unjudged", "Not judged"], ["only_a", "Only A"], ["only_b", "Only B"]]; // not compared; shown where there are some

const points = (x) => (100 * x).toFixed(1);

export async function mount(app) {
  const { other } = boot, [told] = await Promise.all([api.get("/about")]);
  const head = el("div.versus"), tabs = el("div.tabs.which", { role: "tablist", ariaLabel: "What became of the items" });
  const which = () => ([...TABS, ...LEFT].some(([w]) => w === bench.view.which) ? bench.view.which : TABS[0][0]), shownTabs = () => [...TABS, ...LEFT.filter(([w]) => shown?.[w] > 0)];
  let shown = null, counted = null;

  const bench = new Bench(app, boot, {
    title: el("h1", {}, el("a", { href: to.report() }, told.task || "Report"), el("span.muted", {}, " compared")), columns: told.columns, heads: ["A said", "B said"], tabs: el("div.compare-head", {}, head, tabs),
    tools: [[`Swap`, "W", swap]],
    load: flips, searches: false,
    answers: (row) => [{ name: "A", ...(row.a ?? {}) }, { name: "B", ...(row.b ?? {}) }],
    changed: (view) => { counted = summary(view); }, path: (view) => to.compare(other) + query(view), item: (row) => to.item(row.item, {}, row.report), // its neighbours are not those of the list of cases
    keys: (name) => ({ w: swap, ArrowRight: () => turn(1), ArrowLeft: () => turn(-1), l: () => turn(1), h: () => turn(-1) })[bench.view.view === "gallery" && name !== "w" ? "" : name],
    help: [["Comparing", [["← →", "broken, fixed, both wrong, both right"], ["W", "swap the two reports"]]]],
  });
  window.fsml = { bench, outbox: bench.judge.outbox, ready: () => bench.ready() && Boolean(shown) };

  /** The list says no total: the summary counts. */
  async function flips(view, start, n) {
    const found = await api.get(`/flips/${other}${query({ f: view.f }, { which: which(), start, n })}`), rows = found.rows ?? found;
    if (found.total === undefined) await counted;
    return { rows, total: found.total ?? shown?.[which()] ?? start + rows.length };
  }

  function swap() { location.href = to.compare(boot.report, other) + query({ ...bench.view, at: 0, which: { fixed: "broken", broken: "fixed" }[which()] ?? which() }); }
  function turn(step) { const all = shownTabs(), at = all.findIndex(([w]) => w === which()); bench.set({ which: all[(at + step + all.length) % all.length][0] }); }

  function paintTabs() {
    tabs.replaceChildren(...shownTabs().map(([w, name]) => el(`button.tab.of-${w}`, { type: "button", role: "tab", ariaSelected: String(w === which()), onmousedown: (e) => e.preventDefault(), onclick: () => bench.set({ which: w }) }, el("span", {}, name), el("b.num", {}, shown ? count(shown[w]) : ""))));
  }

  async function summary(view) {
    paintTabs();
    const asked = query({ f: view.f }) || "?";
    if (shown?.asked === asked) return;
    try { shown = { ...(await api.get(`/compare/${other}${asked === "?" ? "" : asked}`)), asked }; } catch (failure) { head.replaceChildren(el("p.notice.error", {}, failure.text)); shown = { asked }; return; }
    const { a, b, difference, low, high, p, said } = shown, better = difference > 0 ? "yes" : difference < 0 ? "no" : "";
    const sure = low > 0 || high < 0;
    head.replaceChildren(
      side("A", boot.report, a), side("B", other, b),
      el("div.delta", {}, el(`b.${sure ? better : "open"}`, {}, `${difference > 0 ? "+" : ""}${points(difference ?? 0)} points`), delta(difference, low, high),
        el("span.muted.num", {}, `${low === null ? "" : `${points(low)} to ${points(high)} · `}p ${p === null || p === undefined ? "–" : p < 0.001 ? "< 0.001" : p.toFixed(3)}`)),
      el("p.said-so", {}, said));
    paintTabs();
  }

  const side = (letter, report, accuracy) => el("a.one", { href: to.report(report), title: report }, el("i.letter", { ariaHidden: "true" }, letter), el("span.one-name", {}, named(report)), el("b.num", {}, percent(accuracy)));
  const named = (report) => { const r = boot.reports?.find((x) => x.id === report); return [r?.name, when(r?.created) || report].filter(Boolean).join(" · "); };

  await bench.start();
}

/** The difference and its interval around nothing. */
function delta(d, low, high) {
  const most = Math.max(Math.abs(low), Math.abs(high), 0.005) * 1.15, x = (v) => 50 + (50 * v) / most, node = el("span.delta-bar", { ariaHidden: "true" }), span = el("i.span"), mid = el("i.mid");
  Object.assign(span.style, { left: `${x(low)}%`, width: `${Math.max(1, x(high) - x(low))}%` });
  mid.style.left = `${x(d)}%`;
  node.append(el("i.zero"), span, mid);
  return node;
}
