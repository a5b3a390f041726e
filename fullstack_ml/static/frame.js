// frame.js: what work, grid and review share: the bar with counts and tools, the state of what is sent, the column beside.
import { Api } from "./api.js";
import { Outbox } from "./outbox.js";
import { Pace } from "./pace.js";
import { button, el, say, toast } from "./dom.js";
import { showRefused, Side } from "./panels.js";

export class Frame {
  constructor(boot, { tools, look = null }) {
    Object.assign(this, { boot, look, trouble: () => null });
    this.api = new Api(boot);
    this.outbox = new Outbox(this.api, boot.project.id, boot.me.name);
    this.pace = new Pace(boot.me.name, boot.project.id);
    this.side = new Side(this.api, boot.me, () => this.paint());
    this.host = el("div.host");
    this.left = el("span.left");
    this.dot = el("span");
    this.status = el("button.status", { type: "button", onclick: () => this.#act(), onmousedown: (e) => e.preventDefault() }, el("i.dot", { ariaHidden: "true" }), this.dot);
    this.tools = Object.fromEntries(tools.map(([name, text, key, act]) => [name, button(text, key, act, "button.btn.quiet.small")]));
    this.banner = el("div.banner", { role: "alert", hidden: true });
    document.getElementById("app").replaceChildren(el("div.frame", {},
      el("div.bar", {}, el("div.bar-title", {}, el("h1", {}, boot.project.name), this.left), this.pace.node, el("div.bar-tools", { role: "toolbar", ariaLabel: "Tools" }, Object.values(this.tools)), this.status),
      this.banner, el("div.frame-body", {}, this.host, this.side.node)));
    this.outbox.addEventListener("change", () => this.paint());
    this.outbox.addEventListener("settled", ({ detail }) => { if (detail.error) toast(`Not accepted: ${detail.error.message ?? "no reason given"}`, "bad"); });
    // Leaving loses nothing, but somebody who closes the computer for the day may want to know that work waits.
    addEventListener("beforeunload", (e) => { if (this.outbox.waiting && ["offline", "stuck"].includes(this.outbox.state)) e.preventDefault(); });
    this.paint();
  }

  setLeft(n) { this.left.textContent = n === null || n === undefined ? "" : `${n.toLocaleString("en")} left`; }

  paint() {
    const { waiting, refused, trouble } = this.outbox, from = trouble ?? this.trouble();
    let state = this.outbox.state;
    if (state === "saved" && from) state = from.status === 401 ? "signed-out" : from.status >= 400 && from.status < 500 && from.status !== 429 ? "stuck" : "offline";
    const many = (n) => `${n} ${n === 1 ? "waits" : "wait"} here`;
    const text = refused.length ? `${refused.length} not accepted` : { saved: "All saved", sending: `Saving ${waiting}`, offline: waiting ? `Offline · ${many(waiting)}` : "Offline", "signed-out": waiting ? `Signed out · ${many(waiting)}` : "Signed out", stuck: waiting ? `Stopped · ${many(waiting)}` : "Stopped" }[state];
    const shown = refused.length ? "refused" : state;
    if (this.dot.textContent !== text) this.dot.textContent = text;
    if (this.status.dataset.state !== shown) {
      this.status.dataset.state = shown;
      if (shown !== "sending") say(text);
    }
    for (const name of ["guide", "questions"]) this.tools[name]?.setAttribute("aria-pressed", String(this.side.open === name));
    this.#warn(state, from, waiting);
  }

  #warn(state, from, waiting) {
    const shown = state === "signed-out" || state === "stuck" ? `${state}${from?.message}${waiting}` : "";
    if (this.warned === shown) return;
    this.warned = shown;
    this.banner.hidden = !shown;
    if (!shown) return;
    const kept = waiting ? ` ${waiting} ${waiting === 1 ? "answer is" : "answers are"} kept in this browser.` : " Nothing is lost.";
    this.banner.replaceChildren(el("span", {}, state === "stuck" ? `${from.text}${kept}` : `${/ is signed in here /.test(from?.message) ? from.message : "You are signed out."}${kept}`),
      state === "stuck" ? button("Try again", "", () => this.outbox.flush(), "button.btn.small") : el("a.btn.small.primary", { href: "/sign-in", target: "_blank" }, "Sign in again in a new tab"));
  }

  #act() {
    if (this.outbox.refused.length) showRefused(this.outbox, this.look);
    else this.outbox.flush();
  }
}
