// outbox.js: what a person did is written down in the browser first, and sent afterwards, in order, as often as needed.
//
// The server keeps each id once, so that sending again is harmless; a record leaves the box only when the server has named its id.
// IndexedDB with strict durability holds the box, because it survives a killed browser and has room for thousands of boxes;
// what it has not confirmed when the page goes is copied to localStorage, which is synchronous.
import { Failure } from "./api.js";
import { say } from "./dom.js";

const BATCHED = ["answers", "verdicts"]; // kinds whose path takes a list of that name
const BATCH = 50, BYTES = 400_000, FIRST_WAIT = 400, LONGEST_WAIT = 6_000;

/** Records of one account and project, or report, in this browser. */
class Store {
  constructor(owner) { this.owner = owner; this.unsure = new Map(); this.spare = `fsml.outbox.${owner}`; }

  async open() {
    this.db = await new Promise((done) => {
      try {
        const request = indexedDB.open("fsml-outbox", 1);
        request.onupgradeneeded = () => request.result.createObjectStore("records", { keyPath: "id" }).createIndex("owner", "owner");
        request.onsuccess = () => done(request.result);
        request.onerror = request.onblocked = () => done(null);
      } catch { done(null); } // private windows of some browsers have none
    });
    const kept = this.db ? await this.#ask("readonly", (s) => s.index("owner").getAll(this.owner)) : [];
    const all = new Map((kept ?? []).map((r) => [r.id, r]));
    for (const r of JSON.parse(localStorage.getItem(this.spare) ?? "[]")) { all.set(r.id, r); this.put(r); }
    return [...all.values()].sort((a, b) => a.seq - b.seq);
  }

  put(record) {
    this.unsure.set(record.id, record);
    if (!this.db) return this.spill();
    this.#ask("readwrite", (s) => s.put(record)).then((ok) => {
      if (ok === undefined) return this.spill();
      if (this.unsure.get(record.id) === record) this.unsure.delete(record.id);
    });
  }

  drop(id) {
    this.unsure.delete(id);
    if (this.db) this.#ask("readwrite", (s) => s.delete(id));
    if (localStorage.getItem(this.spare)) this.spill();
  }

  /** What IndexedDB has not confirmed goes where writing is synchronous. */
  spill() {
    try {
      if (this.unsure.size) localStorage.setItem(this.spare, JSON.stringify([...this.unsure.values()]));
      else localStorage.removeItem(this.spare);
    } catch { say("This browser keeps nothing: do not close the page before all is saved."); }
  }

  #ask(mode, work) {
    return new Promise((done) => {
      try {
        const deal = this.db.transaction("records", mode, mode === "readwrite" ? { durability: "strict" } : {});
        const request = work(deal.objectStore("records"));
        deal.oncomplete = () => done(request.result ?? null);
        deal.onabort = deal.onerror = () => done(undefined);
      } catch { done(undefined); }
    });
  }
}

export class Outbox extends EventTarget {
  constructor(api, project, account) {
    super();
    Object.assign(this, { api, records: [], refused: [], sending: false, failures: 0, trouble: null, seq: Date.now() * 1000, timer: 0, size: BATCH });
    this.store = new Store(`${account}\u0000${project}`);
  }

  /** Reads what an earlier page left behind. */
  async open() {
    const kept = await this.store.open();
    this.records = [...kept.filter((r) => !r.refused), ...this.records];
    this.refused = kept.filter((r) => r.refused);
    for (const kind of ["online", "focus"]) addEventListener(kind, () => this.flush());
    addEventListener("storage", (e) => e.key === "fsml.signed-in" && this.flush()); // somebody has signed in again in another tab
    addEventListener("pagehide", () => this.#leave());
    document.addEventListener("visibilitychange", () => (document.hidden ? this.store.spill() : this.flush()));
    this.#tell();
    this.flush();
  }

  /** `kind` is the path of the API: "answers" and "verdicts" go in batches, "decisions" one by one; `about` stays here: what undo needs to show it again. */
  add(kind, body, about = null) {
    const record = { id: body.id, owner: this.store.owner, seq: ++this.seq, kind, body, about };
    this.records.push(record);
    this.store.put(record);
    this.#tell();
    if (!this.sending && !this.timer) this.timer = setTimeout(() => this.flush(), 30); // a burst of keys becomes one request
  }

  get waiting() { return this.records.length; }
  has(test) { return this.records.some((r) => test(r.body)); }

  /** "saved" | "sending" | "offline" | "signed-out" | "stuck" */
  get state() {
    if (this.trouble?.status === 401) return "signed-out";
    if (this.trouble && this.records.length) return this.trouble.status >= 400 && this.trouble.status < 500 && this.trouble.status !== 429 ? "stuck" : "offline";
    return this.records.length ? "sending" : "saved";
  }

  forget(id) {
    this.refused = this.refused.filter((r) => r.id !== id);
    this.store.drop(id);
    this.#tell();
  }

  async flush() {
    clearTimeout(this.timer);
    this.timer = 0;
    if (this.sending || !this.records.length) return;
    this.sending = true;
    try {
      if ([401, 403].includes(this.trouble?.status)) await this.#renew(); // a new sign-in has a new token
      while (this.records.length) {
        await this.#send(this.#batch());
        Object.assign(this, { failures: 0, trouble: null });
        this.#tell();
      }
      this.size = BATCH;
    } catch (failure) {
      this.#recover(failure);
    } finally {
      this.sending = false;
      this.#tell();
    }
  }

  #batch() {
    const kind = this.records[0].kind, batch = [];
    let bytes = 0;
    for (const r of this.records) {
      bytes += JSON.stringify(r.body).length;
      if (r.kind !== kind || batch.length >= (BATCHED.includes(kind) ? this.size : 1) || (batch.length && bytes > BYTES)) break;
      batch.push(r);
    }
    return batch;
  }

  async #send(batch) {
    const { kind } = batch[0], alone = !BATCHED.includes(kind);
    try {
      const { results } = alone ? (await this.api.post("/" + kind, batch[0].body), { results: [{ id: batch[0].id, status: "stored" }] })
        : await this.api.post("/" + kind, { [kind]: batch.map((r) => r.body) });
      const before = this.records.length;
      for (const r of results) this.#settle(r.id, r.status === "refused" ? r.error ?? {} : null, r.status);
      if (this.records.length === before) throw new Failure(0, { message: "The server names none of what it was sent." });
    } catch (failure) {
      // Only one record can be wrong, not its neighbours: look for it by halves, and keep it for the person to see.
      if (!(failure instanceof Failure) || ![400, 404, 409, 413, 415, 422].includes(failure.status)) throw failure;
      if (batch.length > 1) this.size = Math.max(1, batch.length >> 1);
      else if (failure.status === 404 && !alone) throw failure; // the project or the report itself is gone: keep everything
      else this.#settle(batch[0].id, { message: failure.message, remedy: failure.remedy }, "refused");
    }
  }

  #settle(id, error, status) {
    const at = this.records.findIndex((r) => r.id === id);
    if (at < 0) return;
    const [record] = this.records.splice(at, 1);
    if (!error) this.store.drop(id);
    else { record.refused = error; this.refused.push(record); this.store.put(record); }
    this.dispatchEvent(new CustomEvent("settled", { detail: { record, status, error } }));
  }

  #recover(failure) {
    if (!(failure instanceof Failure)) console.error(failure);
    this.trouble = failure instanceof Failure ? failure : new Failure(0, { message: String(failure) });
    const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.failures++) * (0.75 + Math.random() / 2);
    this.timer = setTimeout(() => this.flush(), Math.max(wait, 1000 * (failure.retryAfter ?? 0)));
  }

  async #renew() {
    const who = await this.api.renew().catch(() => "");
    if (who && who !== this.api.name) throw new Failure(401, { message: `${who} is signed in here now. Sign in as ${this.api.name} to send what waits.` });
  }

  /** The page goes: the rest is tried once more without waiting, and stays in the box until a later page hears of it. */
  #leave() {
    this.store.spill();
    for (const kind of BATCHED) {
      const batch = this.records.filter((r) => r.kind === kind).slice(0, BATCH).map((r) => r.body);
      if (batch.length) this.api.beacon("/" + kind, { [kind]: batch });
    }
  }

  #tell() { this.dispatchEvent(new Event("change")); }
}
