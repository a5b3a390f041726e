// stage.js: the picture in its window: fits, zooms at the pointer, pans, and keeps pixels sharp above 1:1.
import { el } from "./dom.js";

const MOST = 64, LEAST = 0.02;

export class Stage {
  /** `pans`: may one finger or a drag with the left button move the picture? Boxes need that gesture for themselves. `most`: the largest scale of fitting. */
  constructor({ pans = true, margin = 10, most = MOST, changed = () => {} } = {}) {
    Object.assign(this, { pans, margin, most, changed, width: 1, height: 1, scale: 1, x: 0, y: 0, fitted: true, fingers: new Map() });
    this.window = el("div.stage", { tabIndex: -1 });
    this.window.addEventListener("wheel", (e) => this.#wheel(e), { passive: false });
    this.window.addEventListener("pointerdown", (e) => this.#down(e));
    this.window.addEventListener("pointermove", (e) => this.#move(e));
    for (const kind of ["pointerup", "pointercancel"]) this.window.addEventListener(kind, (e) => this.#up(e));
    this.size = { w: 1, h: 1 };
    this.observer = new ResizeObserver(() => this.resized());
    this.observer.observe(this.window);
  }

  destroy() { this.observer.disconnect(); }

  /** `image` is decoded already; width and height are those that labels are measured in. */
  show(image, width, height) {
    Object.assign(this, { image, width, height, fitted: true });
    image.className = "picture";
    image.draggable = false;
    image.decoding = "sync"; // drawn in the same frame in which it is put in
    // A picture whose recorded size is that before turning by EXIF is shown as it was recorded.
    image.style.imageOrientation = image.naturalWidth === height && image.naturalHeight === width && width !== height ? "none" : "";
    if (this.held !== image) { this.held?.remove(); this.window.prepend(image); this.held = image; }
    this.resized();
  }

  clear() { this.held?.remove(); this.held = null; }

  resized() {
    const { clientWidth: w, clientHeight: h } = this.window;
    if (!w || !h) return;
    this.size = { w, h };
    if (this.fitted) this.fit(); else this.#place();
  }

  fit() {
    const { w, h } = this.size, m = this.margin * 2;
    this.scale = Math.min(this.most, Math.max(LEAST, Math.min((w - m) / this.width, (h - m) / this.height)));
    if (this.scale > 3) this.scale = Math.floor(this.scale); // whole steps keep the pixels of tiny pictures equally large
    this.x = (w - this.width * this.scale) / 2;
    this.y = (h - this.height * this.scale) / 2;
    this.fitted = true;
    this.#place();
  }

  /** Zooms around a point of the window, its centre by default. */
  zoom(factor, cx = this.size.w / 2, cy = this.size.h / 2) {
    const scale = Math.min(MOST, Math.max(LEAST, this.scale * factor));
    this.x = cx - ((cx - this.x) * scale) / this.scale;
    this.y = cy - ((cy - this.y) * scale) / this.scale;
    Object.assign(this, { scale, fitted: false });
    this.#place();
  }

  pan(dx, dy) { this.x += dx; this.y += dy; this.fitted = false; this.#place(); }

  /** Shows a rectangle of the picture with air around it. */
  frame(box, air = 0.35) {
    const { w, h } = this.size;
    this.scale = Math.min(MOST, Math.max(LEAST, (1 - air) * Math.min(w / box.w, h / box.h)));
    this.x = w / 2 - (box.x + box.w / 2) * this.scale;
    this.y = h / 2 - (box.y + box.h / 2) * this.scale;
    this.fitted = false;
    this.#place();
  }

  toPicture(event) {
    const at = this.window.getBoundingClientRect();
    return { x: (event.clientX - at.left - this.x) / this.scale, y: (event.clientY - at.top - this.y) / this.scale };
  }

  /** + - = zoom, F fits: the keys that every widget with a picture shares. */
  key(name) {
    if (name === "+" || name === "=") this.zoom(1.25);
    else if (name === "-" || name === "_") this.zoom(0.8);
    else if (name === "f") this.fit();
    else return false;
    return true;
  }

  get pinching() { return this.fingers.size > 1; }

  #place() {
    const { w, h } = this.size, keep = 48; // some of the picture stays in sight
    this.x = Math.min(w - keep, Math.max(keep - this.width * this.scale, this.x));
    this.y = Math.min(h - keep, Math.max(keep - this.height * this.scale, this.y));
    if (this.held) {
      const s = this.held.style, dots = this.scale * (window.devicePixelRatio || 1);
      s.width = `${this.width * this.scale}px`;
      s.height = `${this.height * this.scale}px`;
      s.transform = `translate(${this.x}px, ${this.y}px)`;
      s.imageRendering = dots * (this.width / (this.held.naturalWidth || this.width)) > 1.01 ? "pixelated" : "auto";
    }
    this.changed(this);
  }

  #wheel(event) {
    event.preventDefault();
    const at = this.window.getBoundingClientRect(), unit = event.deltaMode ? 16 : 1;
    if (event.shiftKey && !event.ctrlKey) this.pan(-(event.deltaX || event.deltaY) * unit, 0);
    else this.zoom(Math.exp(-event.deltaY * unit * (event.ctrlKey ? 0.01 : 0.0018)), event.clientX - at.left, event.clientY - at.top);
  }

  #down(event) {
    if (event.pointerType === "touch") this.fingers.set(event.pointerId, event);
    this.drag = this.pans || event.button === 1 || this.spaced ? event : null;
    if (this.drag) { event.preventDefault(); this.window.setPointerCapture(event.pointerId); }
  }

  #move(event) {
    if (this.fingers.has(event.pointerId)) {
      const before = [...this.fingers.values()];
      const last = this.fingers.get(event.pointerId);
      this.fingers.set(event.pointerId, event);
      if (before.length > 1) {
        const other = before.find((f) => f.pointerId !== event.pointerId), at = this.window.getBoundingClientRect();
        const far = (f) => Math.hypot(f.clientX - other.clientX, f.clientY - other.clientY) || 1;
        this.pan((event.clientX - last.clientX) / 2, (event.clientY - last.clientY) / 2);
        this.zoom(far(event) / far(last), (event.clientX + other.clientX) / 2 - at.left, (event.clientY + other.clientY) / 2 - at.top);
        return;
      }
    }
    if (this.drag?.pointerId !== event.pointerId) return;
    this.pan(event.clientX - this.drag.clientX, event.clientY - this.drag.clientY);
    this.drag = event;
  }

  #up(event) {
    this.fingers.delete(event.pointerId);
    if (this.drag?.pointerId === event.pointerId) this.drag = null;
  }
}
