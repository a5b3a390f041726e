// state.js: how it stands with what is sent: a pill that says so, and a line above the work where somebody must act.
import { button, el, say, toast } from "./dom.js";
import { showRefused } from "./panels.js";

export class State {
  /** `one`: what a record is called; `look` opens a refused one; `changed` is told of every change. */
  constructor(outbox, { look = null, one, changed = () => this.paint() }) {
    Object.assign(this, { outbox, look, one });
    this.text = el("span");
    this.node = el("button.status", { type: "button", onclick: () => this.#act(), onmousedown: (e) => e.preventDefault() }, el("i.dot", { ariaHidden: "true" }), this.text);
    this.banner = el("div.banner", { role: "alert", hidden: true });
    outbox.addEventListener("change", changed);
    outbox.addEventListener("settled", ({ detail }) => { if (detail.error) toast(`Not accepted: ${detail.error.message ?? "no reason given"}`, "bad"); });
    // Leaving loses nothing, but somebody who closes the computer for the day may want to know that work waits.
    addEventListener("beforeunload", (e) => { if (outbox.waiting && ["offline", "stuck"].includes(outbox.state)) e.preventDefault(); });
  }

  /** `other`: a failure of something else than sending, if there is one. */
  paint(other = null) {
    const { waiting, refused, trouble } = this.outbox, from = trouble ?? other;
    let state = this.outbox.state;
    if (state === "saved" && from) state = from.status === 401 ? "signed-out" : from.status >= 400 && from.status < 500 && from.status !== 429 ? "stuck" : "offline";
    const many = (n) => `${n} ${n === 1 ? "waits" : "wait"} here`;
    const text = refused.length ? `${refused.length} not accepted` : { saved: "All saved", sending: `Saving ${waiting}`, offline: waiting ? `Offline · ${many(waiting)}` : "Offline", "signed-out": waiting ? `Signed out · ${many(waiting)}` : "Signed out", stuck: waiting ? `Stopped · ${many(waiting)}` : "Stopped" }[state];
    const shown = refused.length ? "refused" : state;
    if (this.text.textContent !== text) this.text.textContent = text;
    if (this.node.dataset.state !== shown) {
      this.node.dataset.state = shown;
      if (shown !== "sending") say(text);
    }
    this.#warn(state, from, waiting);
  }

  #warn(state, from, waiting) {
    const shown = state === "signed-out" || state === "stuck" ? `${state}${from?.message}${waiting}` : "";
    if (this.warned === shown) return;
    this.warned = shown;
    this.banner.hidden = !shown;
    if (!shown) return;
    const kept = waiting ? ` ${waiting} ${waiting === 1 ? `${this.one} is` : `${this.one}s are`} kept in this browser.` : " Nothing is lost.";
    this.banner.replaceChildren(el("span", {}, state === "stuck" ? `${from.text}${kept}` : `${/ is signed in here /.test(from?.message) ? from.message : "You are signed out."}${kept}`),
      state === "stuck" ? button("Try again", "", () => this.outbox.flush(), "button.btn.small") : el("a.btn.small.primary", { href: "/sign-in", target: "_blank" }, "Sign in again in a new tab"));
  }

  #act() {
    if (this.outbox.refused.length) showRefused(this.outbox, this.look);
    else this.outbox.flush();
  }
}
