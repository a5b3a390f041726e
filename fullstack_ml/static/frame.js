// frame.js: what work, grid and review share: the bar with counts and tools, the state of what is sent, the column beside.
import { Api } from "./api.js";
import { Outbox } from "./outbox.js";
import { Pace } from "./pace.js";
import { button, el } from "./dom.js";
import { Side } from "./panels.js";
import { State } from "./state.js";

export class Frame {
  constructor(boot, { tools, look = null }) {
    Object.assign(this, { boot, trouble: () => null });
    this.api = new Api(boot);
    this.outbox = new Outbox(this.api, boot.project.id, boot.me.name);
    this.pace = new Pace(boot.me.name, boot.project.id);
    this.side = new Side(this.api, boot.me, () => this.paint());
    this.host = el("div.host");
    this.left = el("span.left");
    this.state = new State(this.outbox, { look, one: "answer", changed: () => this.paint() });
    this.tools = Object.fromEntries(tools.map(([name, text, key, act]) => [name, button(text, key, act, "button.btn.quiet.small")]));
    document.getElementById("app").replaceChildren(el("div.frame", {},
      el("div.bar", {}, el("div.bar-title", {}, el("h1", {}, boot.project.name), this.left), this.pace.node, el("div.bar-tools", { role: "toolbar", ariaLabel: "Tools" }, Object.values(this.tools)), this.state.node),
      this.state.banner, el("div.frame-body", {}, this.host, this.side.node)));
    this.paint();
  }

  setLeft(n) { this.left.textContent = n === null || n === undefined ? "" : `${n.toLocaleString("en")} left`; }

  paint() {
    this.state.paint(this.trouble());
    for (const name of ["guide", "questions"]) this.tools[name]?.setAttribute("aria-pressed", String(this.side.open === name));
  }
}
