// api.js: one door to the server. Every failure is a Failure with a status; 0 means that no answer came at all.

export class Failure extends Error {
  constructor(status, error = {}, retryAfter = 0) {
    super(error.message || `The server answered ${status}.`);
    Object.assign(this, { status, value: error.value, remedy: error.remedy ?? "", retryAfter });
  }
  get text() { return this.remedy ? `${this.message} ${this.remedy}` : this.message; }
}

export class Api {
  constructor(boot) { Object.assign(this, { base: boot.api, csrf: boot.csrf, name: boot.me.name, page: location.pathname }); }

  get(path) { return this.#ask("GET", path); }
  post(path, body) { return this.#ask("POST", path, body); }

  /** Sends while the page goes away; nothing can be read back, so only what may be sent twice goes this way. */
  beacon(path, body) {
    const data = new Blob([JSON.stringify({ ...body, csrf: this.csrf })], { type: "application/json" });
    return data.size < 60000 && navigator.sendBeacon(this.base + path, data);
  }

  /** After a new sign-in the page holds a new token; says who is signed in now, or "" for nobody. */
  async renew() {
    const answer = await fetch(this.page, { credentials: "same-origin", redirect: "follow", signal: AbortSignal.timeout(15000) });
    const held = answer.ok && new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("boot");
    if (!held) return "";
    const { me, csrf } = JSON.parse(held.textContent);
    if (me.name === this.name) this.csrf = csrf;
    return me.name;
  }

  async #ask(method, path, body) {
    const headers = { Accept: "application/json" };
    const isRaw = body instanceof Blob; // a picture goes as it is
    if (body !== undefined) Object.assign(headers, { "Content-Type": isRaw ? body.type || "application/octet-stream" : "application/json", "X-CSRF": this.csrf });
    let answer, held;
    try {
      answer = await fetch(this.base + path, { method, headers, body: body && (isRaw ? body : JSON.stringify(body)), credentials: "same-origin", signal: AbortSignal.timeout(isRaw ? 60000 : 20000) });
      held = await answer.json();
    } catch {
      throw new Failure(answer && !answer.ok ? answer.status : 0, { message: "The server does not answer." });
    }
    if (!answer.ok) throw new Failure(answer.status, held?.error, Number(answer.headers.get("Retry-After")) || 0);
    return held;
  }
}
