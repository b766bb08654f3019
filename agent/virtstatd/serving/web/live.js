// One stream of server-sent events: what is on view, again after it breaks, nothing while hidden.

const SILENT_SECONDS = 40; // the server sends a comment each 15 s
const HIDDEN_SECONDS = 60;
const LONGEST_PAUSE_SECONDS = 30;
const FINAL = new Set([400, 404]); // the same request would get the same answer

export class Live {
  // `onEvent(name, document)`; `onState()` whenever `state`, `reason` or `lostAt` changes.
  constructor(onEvent, onState) {
    this.state = "connecting";
    this.status = 0;
    this.reason = "";
    this.heardAt = 0;
    this.retryAt = 0;
    this.onEvent = onEvent;
    this.onState = onState;
    this.path = "";
    this.abort = null;
    this.pause = 1;
    document.addEventListener("visibilitychange", () => this.turned());
  }

  watch(path) {
    if (path === this.path) return;
    this.path = path;
    if (this.state !== "asleep") this.open();
  }

  retry() {
    this.pause = 1;
    this.open();
  }

  turned() {
    clearTimeout(this.sleepTimer);
    if (document.hidden) {
      this.sleepTimer = setTimeout(() => this.sleep(), HIDDEN_SECONDS * 1000);
    } else if (this.state === "asleep") {
      this.set("connecting");
      this.open();
    }
  }

  sleep() {
    this.close();
    this.set("asleep");
  }

  close() {
    clearTimeout(this.retryTimer);
    clearTimeout(this.silence);
    this.abort?.abort();
    this.abort = null;
  }

  async open() {
    this.close();
    const abort = (this.abort = new AbortController());
    try {
      const response = await fetch(this.path, { signal: abort.signal, cache: "no-store" });
      if (!response.ok) {
        const wait = Number(response.headers.get("Retry-After")) || 0;
        throw new Refused(response.status, await reasonOf(response), wait);
      }
      await this.read(response.body, abort);
      throw new Error("the connection was closed");
    } catch (error) {
      if (this.abort === abort) this.lost(error);
    }
  }

  async read(body, abort) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    this.listen(abort);
    for (;;) {
      const { value, done } = await reader.read();
      if (done || abort.signal.aborted) return;
      this.listen(abort);
      const events = (text + value).split("\n\n");
      text = events.pop();
      for (const each of events) this.take(each);
    }
  }

  listen(abort) {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => {
      if (this.abort === abort) this.lost(new Error("nothing came"));
    }, SILENT_SECONDS * 1000);
  }

  take(text) {
    let name = "";
    let data = "";
    for (const line of text.split("\n")) {
      if (line.startsWith("event:")) name = line.slice(6).trim();
      else if (line.startsWith("data:")) data += line.slice(5);
    }
    if (!data) return;
    this.heardAt = Date.now();
    this.pause = 1;
    this.set("live");
    this.onEvent(name, JSON.parse(data));
  }

  lost(error) {
    this.close();
    const seconds = error.wait || this.pause * (0.75 + Math.random() / 2);
    this.pause = Math.min(this.pause * 2, LONGEST_PAUSE_SECONDS);
    this.status = error.status ?? 0;
    this.reason = error instanceof Refused ? error.message : "";
    this.retryAt = Date.now() + seconds * 1000;
    const final = FINAL.has(error.status);
    this.set(final ? "refused" : "lost");
    if (!final) this.retryTimer = setTimeout(() => this.open(), seconds * 1000);
  }

  set(state) {
    const same = state === this.state && state === "live";
    this.state = state;
    if (!same) this.onState();
  }
}

class Refused extends Error {
  constructor(status, reason, wait) {
    super(reason);
    this.status = status;
    this.wait = wait;
  }
}

async function reasonOf(response) {
  const text = (await response.text()).trim();
  try {
    return JSON.parse(text).error ?? text;
  } catch {
    return text;
  }
}

export async function get(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Refused(response.status, await reasonOf(response), 0);
  return response.json();
}
