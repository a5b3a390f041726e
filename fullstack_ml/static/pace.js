// pace.js: one's own count of the day and speed, kept in this browser only. A mirror, not a whip.
import { el } from "./dom.js";

const MINUTES = 20, NS = "http://www.w3.org/2000/svg";

export class Pace {
  constructor(account, project) {
    this.key = `fsml.pace.${account}.${project}`;
    const day = new Date().toDateString();
    let kept = null;
    try { kept = JSON.parse(localStorage.getItem(this.key)); } catch { /* unreadable: begin again */ }
    this.kept = kept?.day === day ? kept : { day, count: 0, stamps: [] };
    this.text = el("span.pace-text");
    this.svg = document.createElementNS(NS, "svg");
    for (const [k, v] of Object.entries({ class: "spark", viewBox: `0 0 ${MINUTES * 3} 16`, "aria-hidden": "true", preserveAspectRatio: "none" })) this.svg.setAttribute(k, v);
    this.bars = Array.from({ length: MINUTES }, (_, i) => {
      const bar = document.createElementNS(NS, "rect");
      bar.setAttribute("x", i * 3);
      bar.setAttribute("width", 2);
      this.svg.append(bar);
      return bar;
    });
    this.node = el("div.pace", { title: "Your labels today, your pace over the last five minutes, and the last twenty minutes" }, this.svg, this.text);
    this.draw();
    setInterval(() => this.draw(), 20000);
  }

  add(n = 1) {
    const now = Date.now(), day = new Date().toDateString();
    if (this.kept.day !== day) this.kept = { day, count: 0, stamps: [] };
    this.kept.count += n;
    for (let i = 0; i < n; i++) this.kept.stamps.push(now);
    this.kept.stamps = this.kept.stamps.filter((t) => now - t < MINUTES * 60000).slice(-3000);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => { // not on the way from a key to the next picture
      try { localStorage.setItem(this.key, JSON.stringify(this.kept)); } catch { /* full: only the mirror is lost */ }
      this.draw();
    }, 120);
  }

  draw() {
    const now = Date.now(), bins = new Array(MINUTES).fill(0);
    for (const t of this.kept.stamps) { const ago = Math.floor((now - t) / 60000); if (ago >= 0 && ago < MINUTES) bins[MINUTES - 1 - ago]++; }
    const most = Math.max(4, ...bins), lately = this.kept.stamps.filter((t) => now - t < 300000);
    const minutes = Math.max(1, (now - (lately[0] ?? now)) / 60000);
    bins.forEach((n, i) => {
      const h = n ? Math.max(1.5, (16 * n) / most) : 1;
      this.bars[i].setAttribute("height", h);
      this.bars[i].setAttribute("y", 16 - h);
      this.bars[i].setAttribute("class", n ? "on" : "");
    });
    this.text.textContent = `${this.kept.count} today · ${Math.round(lately.length / minutes)}/min`;
  }
}
