// geometry.js: boxes in pixels of the picture. Boxes are never changed in place, so that an older list is a complete undo step.

export const EDGES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];

/** Whole pixels, at least one of them, inside the picture. */
export function clamp(box, width, height) {
  const w = Math.min(Math.max(1, Math.round(box.w)), width), h = Math.min(Math.max(1, Math.round(box.h)), height);
  return { ...box, w, h, x: Math.min(Math.max(0, Math.round(box.x)), width - w), y: Math.min(Math.max(0, Math.round(box.y)), height - h) };
}

/** The box between two points, cut at the border of the picture. */
export function between(a, b, width, height) {
  const cut = (v, most) => Math.min(most, Math.max(0, Math.round(v)));
  const x0 = cut(Math.min(a.x, b.x), width), x1 = cut(Math.max(a.x, b.x), width), y0 = cut(Math.min(a.y, b.y), height), y1 = cut(Math.max(a.y, b.y), height);
  return { x: x0, y: y0, w: x1 - x0, h: y1 - y0 };
}

/** The box with one edge or corner at another place; pulled across the opposite side it turns over. */
export function pull(box, edge, at, width, height) {
  let { x, y, w, h } = box, x1 = x + w, y1 = y + h;
  if (edge.includes("w")) x = at.x;
  if (edge.includes("e")) x1 = at.x;
  if (edge.includes("n")) y = at.y;
  if (edge.includes("s")) y1 = at.y;
  const made = between({ x, y }, { x: x1, y: y1 }, width, height);
  return clamp({ ...box, ...made }, width, height);
}

export const middle = (box, edge) => ({
  x: box.x + (edge.includes("w") ? 0 : edge.includes("e") ? box.w : box.w / 2),
  y: box.y + (edge.includes("n") ? 0 : edge.includes("s") ? box.h : box.h / 2),
});

/** The edge or corner under a point, corners first. */
export function edgeAt(box, at, reach) {
  const r = Math.min(reach, Math.max(box.w, box.h) / 3 + reach / 3);
  const near = (e) => { const m = middle(box, e); return Math.hypot(m.x - at.x, m.y - at.y) <= r; };
  const corner = ["nw", "ne", "se", "sw"].find(near);
  if (corner) return corner;
  const inX = at.x > box.x - r && at.x < box.x + box.w + r, inY = at.y > box.y - r && at.y < box.y + box.h + r;
  if (inX && Math.abs(at.y - box.y) <= r / 2) return "n";
  if (inX && Math.abs(at.y - box.y - box.h) <= r / 2) return "s";
  if (inY && Math.abs(at.x - box.x) <= r / 2) return "w";
  if (inY && Math.abs(at.x - box.x - box.w) <= r / 2) return "e";
  return "";
}

export const holds = (box, at) => at.x >= box.x && at.x <= box.x + box.w && at.y >= box.y && at.y <= box.y + box.h;

/** The smallest box around a point, since a small one may lie inside a large one. */
export function smallestAt(boxes, at) {
  let found = -1;
  boxes.forEach((b, i) => { if (holds(b, at) && (found < 0 || b.w * b.h < boxes[found].w * boxes[found].h)) found = i; });
  return found;
}

/** The box whose border lies under a point. */
export const borderAt = (boxes, at, reach) => boxes.findLastIndex((b) => edgeAt(b, at, reach) !== "");
