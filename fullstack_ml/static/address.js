// address.js: what the address says (filters, search, order, place in the list), and the addresses of everything else.
import { Api } from "./api.js";
import { boot as readBoot } from "./dom.js";

export const boot = readBoot();
export const api = new Api({ ...boot, api: boot.report ? `/api/r/${boot.report}` : "/api" });
export const common = new Api({ ...boot, api: "/api" }); // what belongs to no report

export const count = (n) => (n ?? 0).toLocaleString("en");
export const percent = (x, digits = 1) => (x === null || x === undefined || Number.isNaN(x) ? "–" : `${(100 * x).toFixed(digits)} %`);
export const when = (text) => (text ?? "").slice(0, 16).replace("T", " ");

/** What a list shows, read from the address; anything that makes no sense there is nothing. */
export function readView(search = location.search) {
  const at = new URLSearchParams(search);
  let f = [];
  try { f = JSON.parse(at.get("f") ?? "[]"); } catch { /* a mutilated link shows everything */ }
  if (!Array.isArray(f) || !f.every((one) => Array.isArray(one) && one.length === 3)) f = [];
  return { f, q: at.get("q") ?? "", sort: at.get("sort") ?? "", down: at.get("down") === "1", view: at.get("view") ?? "", which: at.get("which") ?? "", at: Math.max(0, Number(at.get("at")) || 0) };
}

/** The part behind the question mark, without what is as usual. */
export function query(view, more = {}) {
  const at = new URLSearchParams();
  const { f = [], q, sort, down, view: kind, which, at: place } = view;
  if (f.length) at.set("f", JSON.stringify(f));
  for (const [name, value] of Object.entries({ q, sort, down: sort && down ? 1 : "", view: kind, which, at: place || "", ...more })) if (value !== undefined && value !== "" && value !== null) at.set(name, value);
  const text = at.toString();
  return text ? `?${text}` : "";
}

export const to = {
  report: (report = boot.report) => `/r/${report}`,
  cases: (view = {}, report = boot.report) => `/r/${report}/cases${query(view)}`,
  item: (item, view = {}, report = boot.report) => `/r/${report}/items/${encodeURIComponent(item)}${query(view)}`,
  compare: (other, report = boot.report) => `/r/${report}/compare/${other}`,
  picture: (item, report = boot.report) => `/r/${report}/items/${encodeURIComponent(item)}/picture`,
  thumb: (item, report = boot.report) => `/r/${report}/items/${encodeURIComponent(item)}/thumb`,
};

const SIGNS = { "=": "is", "!=": "is not", in: "is one of", has: "contains" };

/** A filter in words. */
export function words([column, op, value]) {
  if (op === "empty") return `${column} is ${value ? "empty" : "there"}`;
  const shown = Array.isArray(value) ? value.join(", ") : typeof value === "boolean" ? (value ? "yes" : "no") : typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(4))) : String(value);
  return `${column} ${SIGNS[op] ?? op} ${shown}`;
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
export const holds = (filters, some) => some.length > 0 && some.every((one) => filters.some((f) => same(f, one)));

/** Filters with `some` put in; they take the place of others on the same columns. With `some` there already: without them. */
export function toggled(filters, some) {
  if (holds(filters, some)) return filters.filter((f) => !some.some((one) => same(one, f)));
  const columns = new Set(some.map(([column]) => column));
  return [...filters.filter(([column]) => !columns.has(column)), ...some];
}
