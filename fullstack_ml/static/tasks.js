// tasks.js: the next tasks, asked for and loaded before they are needed. A task is shown only when its picture is decoded.
import { Failure } from "./api.js";

const AT_ONCE = 60, POLL = [3000, 6000, 12000, 20000];

export class Tasks extends EventTarget {
  /** `known(id)`: does this page hold an answer to that assignment already? */
  constructor(api, { ahead = 8, address = (t) => t.picture, known = () => false } = {}) {
    super();
    Object.assign(this, { api, ahead, address, known, queue: [], held: [], asking: false, dry: false, trouble: null, left: null, guide: 0, lease: 600, failures: 0, timer: 0, active: Date.now(), lost: true, alone: false });
    this.ready = this.#claim();
    for (const kind of ["keydown", "pointerdown"]) addEventListener(kind, () => this.#busy(), { capture: true, passive: true });
    addEventListener("pagehide", () => this.#leave());
    addEventListener("pageshow", (e) => e.persisted && location.reload()); // what was held has been given back
    addEventListener("online", () => this.refill());
    addEventListener("storage", (e) => e.key === "fsml.signed-in" && this.trouble && this.refill());
    this.#beat();
  }

  /** Asks for more when less than half of the store is left: one request for several labels. */
  async refill() {
    if (this.asking || this.queue.length > this.ahead / 2) return;
    clearTimeout(this.timer);
    this.asking = true;
    let wait = 0;
    try {
      await this.ready;
      const mine = [...this.held, ...this.queue], asked = { n: Math.min(AT_ONCE, this.ahead - this.queue.length) };
      if (this.lost && this.alone) asked.have = mine.map((e) => e.id); // what a crashed page or a lost answer left comes back
      const got = await this.api.post("/next", asked);
      this.lost = false;
      for (const entry of mine) if (got.tasks.some((t) => t.id === entry.id)) entry.due = Date.now() + 1000 * (got.lease ?? 600);
      const fresh = got.tasks.filter((t) => !this.known(t.id) && !mine.some((e) => e.id === t.id));
      Object.assign(this, { lease: got.lease ?? this.lease, guide: got.guide ?? this.guide, state: got.state ?? "open", trouble: null, dry: !fresh.length });
      for (const task of fresh) this.queue.push(this.load({ ...task, due: Date.now() + 1000 * (got.lease ?? 600) }));
      this.left = Math.max(got.left ?? 0, this.queue.length); // the server tells it now and then; between, it is counted down
      this.failures = this.dry ? this.failures + 1 : 0;
      if (this.dry) wait = POLL[Math.min(this.failures, POLL.length) - 1];
      else if (this.queue.length <= this.ahead / 2 && fresh.length >= AT_ONCE) wait = 1;
    } catch (failure) {
      this.trouble = failure instanceof Failure ? failure : new Failure(0, { message: String(failure) });
      this.lost ||= !failure.status; // the server may have handed out what never arrived
      wait = Math.max(POLL[Math.min(this.failures++, POLL.length - 1)] / 4, 1000 * this.trouble.retryAfter);
      if ([401, 403].includes(failure.status)) await this.api.renew().catch(() => "");
    }
    this.asking = false;
    if (wait) this.timer = setTimeout(() => this.refill(), wait);
    this.dispatchEvent(new Event("change"));
  }

  /** Of several tabs of one project only one asks for what was lost: they would hand each other's tasks to and fro. */
  #claim() {
    return new Promise((done) => {
      if (!navigator.locks) return done();
      navigator.locks.request(`fsml.tasks.${location.pathname.split("/")[2]}`, { ifAvailable: true }, (lock) => {
        this.alone = Boolean(lock);
        done();
        return lock && new Promise(() => {}); // held until the page ends
      }).catch(done);
    });
  }

  /** Loads and decodes the picture of an entry; tries again while the network is away. */
  load(entry) {
    if (entry.image || entry.loading) return entry;
    entry.loading = (async () => {
      for (let tries = 0; ; tries++) {
        const image = new Image();
        image.alt = entry.caption || "The picture to label";
        image.src = this.address(entry);
        try {
          await image.decode();
          entry.image = image;
          break;
        } catch {
          const answer = await fetch(image.src, { credentials: "same-origin", cache: "reload" }).catch(() => null);
          if (answer && (answer.ok || [404, 410, 415, 422].includes(answer.status)) && tries > 0) { entry.broken = true; break; }
          await new Promise((done) => setTimeout(done, Math.min(8000, 300 * 2 ** tries)));
        }
      }
      entry.loading = null;
      this.dispatchEvent(new CustomEvent("loaded", { detail: entry }));
    })();
    return entry;
  }

  shift() { return this.take(1)[0]; }

  /** Takes the first n out of the queue; a caller that goes on showing them names them in `held`, so that their leases live. */
  take(n) {
    const entries = this.queue.splice(0, n);
    if (this.left !== null) this.left = Math.max(this.queue.length, this.left - entries.length);
    queueMicrotask(() => this.refill());
    return entries;
  }

  /** Gives assignments back, so that somebody else gets them at once. */
  giveBack(entries) {
    const ids = entries.map((e) => e.id);
    for (const list of ["queue", "held"]) this[list] = this[list].filter((e) => !ids.includes(e.id));
    return this.api.post("/return", { assignments: ids }).catch(() => null);
  }

  #busy() {
    const idle = Date.now() - this.active;
    this.active = Date.now();
    if (idle < 1000 * this.lease) return;
    const [first, ...others] = this.queue; // the leases of what nobody has looked at are over: ask for fresh ones
    if (others.length) this.queue = [first];
    this.#extend();
    this.refill();
  }

  /** While somebody works, the leases of what they hold do not run out. */
  #beat() {
    setTimeout(() => {
      if (Date.now() - this.active < 1000 * this.lease) this.#extend();
      this.#beat();
    }, Math.max(5, this.lease / 3) * 1000);
  }

  #extend() {
    const assignments = [...this.held, ...this.queue].map((e) => e.id);
    if (assignments.length) this.api.post("/extend", { assignments }).catch(() => null);
  }

  #leave() {
    const ids = [...this.held, ...this.queue].map((e) => e.id);
    if (ids.length) this.api.beacon("/return", { assignments: ids });
  }
}
