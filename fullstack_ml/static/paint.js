// paint.js: boxes drawn on a canvas over the picture.
//
// Each box is a strokeRect of its own: without a graphics card that took 4 ms for 500 boxes, where one path for all took 42.
import { EDGES, middle } from "./geometry.js";

const COLOURS = ["#ff5c7a", "#35c2ff", "#ffd23f", "#5fe08a", "#c58bff", "#ff9f3d", "#3fe0d0", "#ff86d0", "#b6e34b", "#9fb4ff", "#ffb4a2", "#e0e0e0"];
const NAMES_UP_TO = 150; // more names than that on one picture hide it

export const colourOf = (classes, name) => COLOURS[Math.max(0, classes.indexOf(name)) % COLOURS.length];

export class Painter {
  constructor(stage, classes) {
    Object.assign(this, { stage, classes, canvas: document.createElement("canvas"), widths: new Map() });
    this.canvas.className = "overlay";
    this.canvas.setAttribute("aria-hidden", "true");
    stage.window.append(this.canvas);
    this.pen = this.canvas.getContext("2d");
  }

  /** Clears the canvas and sizes it to the window in device pixels, so that lines stay crisp. */
  begin() {
    const { w, h } = this.stage.size, dots = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(w * dots) || this.canvas.height !== Math.round(h * dots)) {
      Object.assign(this.canvas, { width: Math.round(w * dots), height: Math.round(h * dots) });
      Object.assign(this.canvas.style, { width: `${w}px`, height: `${h}px` });
    }
    this.pen.setTransform(dots, 0, 0, dots, 0, 0);
    this.pen.clearRect(0, 0, w, h);
  }

  on(box) {
    const { scale, x, y } = this.stage;
    return { x: box.x * scale + x, y: box.y * scale + y, w: box.w * scale, h: box.h * scale };
  }

  seen(box) {
    const b = this.on(box), { w, h } = this.stage.size;
    return b.x < w && b.y < h && b.x + b.w > 0 && b.y + b.h > 0;
  }

  /** All boxes, one colour by class, or one colour for the whole list. */
  boxes(boxes, { dash = [], colour = "", names = true, skip = -1 } = {}) {
    const pen = this.pen, shown = boxes.filter((b, i) => i !== skip && this.seen(b)), by = Map.groupBy ? Map.groupBy(shown, (b) => colour || colourOf(this.classes, b.name)) : group(shown, (b) => colour || colourOf(this.classes, b.name));
    pen.setLineDash(dash);
    for (const [tone, some] of by) {
      const places = some.map((b) => this.on(b));
      // A dark edge keeps the colour visible on a bright picture.
      for (const [style, wide] of [[dash.length ? "rgb(0 0 0 / .35)" : "rgb(0 0 0 / .55)", 3.5], [tone, 2]]) {
        pen.strokeStyle = style;
        pen.lineWidth = wide;
        for (const r of places) pen.strokeRect(r.x, r.y, r.w, r.h);
      }
    }
    pen.setLineDash([]);
    if (names && shown.length <= NAMES_UP_TO) for (const b of shown) this.tag(b, colour || colourOf(this.classes, b.name), 26);
  }

  /** The class and the text of a box above its upper left corner. */
  tag(box, tone, least = 0) {
    const r = this.on(box), text = box.text ? `${box.name} · ${box.text}` : box.name;
    if (!text || r.w < least) return;
    const pen = this.pen;
    pen.font = "600 11px system-ui, sans-serif";
    if (!this.widths.has(text)) this.widths.set(text, pen.measureText(text).width);
    const wide = this.widths.get(text) + 8, y = r.y >= 17 ? r.y - 17 : r.y;
    pen.fillStyle = tone;
    pen.fillRect(r.x - 1, y, wide, 16);
    pen.fillStyle = "#10131a";
    pen.fillText(text, r.x + 3, y + 12);
  }

  /** The box in hand: filled, with handles. */
  chosen(box, { sizing = false } = {}) {
    const pen = this.pen, r = this.on(box), tone = colourOf(this.classes, box.name);
    pen.fillStyle = tone + "2e";
    pen.fillRect(r.x, r.y, r.w, r.h);
    pen.strokeStyle = "#000a"; pen.lineWidth = 5; pen.strokeRect(r.x, r.y, r.w, r.h);
    pen.strokeStyle = "#fff"; pen.lineWidth = 2.5; pen.setLineDash(sizing ? [6, 4] : []); pen.strokeRect(r.x, r.y, r.w, r.h); pen.setLineDash([]);
    this.tag(box, tone);
    const small = Math.min(r.w, r.h) < 28;
    for (const edge of EDGES) {
      if (small && edge.length < 2) continue;
      const at = middle(r, edge), half = edge.length > 1 ? 4.5 : 3.5;
      pen.fillStyle = "#000a"; pen.fillRect(at.x - half - 1, at.y - half - 1, 2 * half + 2, 2 * half + 2);
      pen.fillStyle = edge === "se" && sizing ? tone : "#fff"; pen.fillRect(at.x - half, at.y - half, 2 * half, 2 * half);
    }
  }

  /** Lines through the cursor: where the next box begins. */
  cross(at) {
    const pen = this.pen, { scale, x, y, size } = this.stage, px = Math.round(at.x * scale + x) + 0.5, py = Math.round(at.y * scale + y) + 0.5;
    pen.beginPath();
    pen.moveTo(px, 0); pen.lineTo(px, size.h);
    pen.moveTo(0, py); pen.lineTo(size.w, py);
    pen.strokeStyle = "rgb(0 0 0 / .45)"; pen.lineWidth = 3; pen.stroke();
    pen.strokeStyle = "rgb(255 255 255 / .75)"; pen.lineWidth = 1; pen.stroke();
  }
}

function group(list, key) {
  const by = new Map();
  for (const one of list) { const k = key(one); by.set(k, [...(by.get(k) ?? []), one]); }
  return by;
}
