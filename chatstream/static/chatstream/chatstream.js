/**
 * Start an answer, follow it through whatever the network does, stop it.
 *
 *     import { createChat } from "./chatstream.js";
 *
 *     const chat = createChat("/chat/");
 *     const run = chat.start({ prompt: "Hi" });
 *     for await (const event of run) {
 *       if (event.type === "text") output.append(event.text);
 *       if (event.type === "end") console.log(event.outcome, event.error);
 *     }
 *
 * No dependencies, no build step; `chatstream.d.ts` has the types. Nothing is thrown at the reader
 * of a run: its last event, and only it, is `end`, and tells a refusal, too.
 */

const MESSAGE = "message";
const NAMES = [MESSAGE, "start", "reasoning", "tool_call", "tool_result", "finish"];
const SHORTEST_PAUSE = 500; // milliseconds
const LONGEST_PAUSE = 15_000;
const REQUEST_TIMEOUT = 20_000;
const PATIENCE = 30_000; // how long a run is tried to be created without an answer

// Pure ---------------------------------------------------------------------------------------------

/** Return the milliseconds before the next attempt; `attempt` counts from 0, `random` is in [0, 1). */
export function backoff(attempt, random = Math.random()) {
  const ceiling = Math.min(LONGEST_PAUSE, 2 * SHORTEST_PAUSE * 2 ** attempt);
  return (ceiling / 2) * (1 + random);
}

/** Return the sequence number of an id `<run>:<seq>`; 0 if there is none. */
export function seqOf(id) {
  return Number(/:(\d+)$/.exec(id)?.[1] ?? 0);
}

/**
 * Take in one event of the stream: its name, its id, its data. Return `[held, event]`: what is held
 * from now on, and what to tell; null for nothing new, `{ type: "broken" }` for an error of this
 * connection alone, which says nothing about the run.
 */
export function receive(held, name, id, data) {
  const seq = seqOf(id);
  // EventSource repeats the last id for an event that has none, so an error that is not new by its
  // id is no frame of the run.
  if (name === MESSAGE && data.error && seq <= held.seq) return [held, { type: "broken" }];
  if (seq && seq <= held.seq) return [held, null];
  const next = { ...held, seq: seq || held.seq };
  if (name === "finish") next.finish = data;
  if (name !== MESSAGE) return [next, { ...data, type: name }];
  if (data.done || data.error) return [next, endOfFrame(next, data.error ?? null)];
  // Text without an id is the whole text: the frames themselves are not kept any more.
  const text = seq ? data.text : data.text.slice(held.text.length);
  next.text += text;
  return [next, text ? { type: "text", text } : null];
}

function endOfFrame({ text, finish }, error) {
  const ownOutcomes = ["filtered", "stopped", "interrupted"];
  const implied = error ? (ownOutcomes.includes(error.code) ? error.code : "failed") : "completed";
  return { type: "end", outcome: finish?.outcome ?? implied, error, usage: finish?.usage ?? null, text };
}

/** Return the `end` that a run's JSON tells; null while it is open. */
export function endOfStatus({ outcome, error, usage, text }) {
  return outcome ? { type: "end", outcome, error, usage, text } : null;
}

/** Return Django's CSRF token. The cookie comes first: a form's may be from before a log-in. */
export function csrfToken(page = document) {
  const cookie = /(?:^|; ?)csrftoken=([^;]+)/.exec(page.cookie);
  if (cookie) return decodeURIComponent(cookie[1]);
  return page.querySelector("input[name=csrfmiddlewaretoken]")?.value ?? "";
}

/** Return a random key; `crypto.randomUUID` is there over HTTPS and on localhost only. */
export function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Requests -----------------------------------------------------------------------------------------

/** A refusal of the server, or a request that got no answer: status 0, code "network". */
export class ChatError extends Error {
  constructor({ status = 0, code, message, retryable = false, ...more }, options) {
    super(message, options);
    Object.assign(this, { status, code, retryable }, more);
  }

  get name() {
    return "ChatError";
  }
}

const isLost = ({ status }) => [0, 408, 425, 502, 503, 504].includes(status);
const isPassing = (problem) => isLost(problem) || problem.status === 429 || problem.status >= 500;

async function request(url, { method = "GET", body, token, signal }) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["X-CSRFToken"] = token();
  if (body) headers["Content-Type"] = "application/json";
  const init = { method, headers, body: body && JSON.stringify(body), cache: "no-store" };
  const timeout = AbortSignal.timeout(REQUEST_TIMEOUT);
  init.signal = signal ? AbortSignal.any([signal, timeout]) : timeout;
  try {
    const response = await fetch(url, init);
    return [response, await response.text()];
  } catch (cause) {
    signal?.throwIfAborted();
    const message = "The server could not be reached.";
    throw new ChatError({ code: "network", message, retryable: true }, { cause });
  }
}

/** Return what the answer's JSON holds; null for an empty one. Throw what it refuses. */
function read([{ ok, status }, text]) {
  let data = null;
  try {
    data = text ? JSON.parse(text) : null;
    if (ok) return data;
  } catch {
    // A log-in page, or a proxy's own words.
  }
  const unknown = { code: "unexpected", message: "The server's answer cannot be read." };
  throw new ChatError({ retryable: status >= 500, ...unknown, ...data?.error, status });
}

// The chat -----------------------------------------------------------------------------------------

/**
 * Return the chat at `url`, where `chatstream.urls` is included. `csrfToken` is a function that
 * returns the token, where it is neither in Django's cookie nor in a form; `patience` is how many
 * milliseconds `start` goes on trying without an answer.
 */
export function createChat(url = "/chat/", { csrfToken: token = csrfToken, patience = PATIENCE } = {}) {
  const base = new URL(url, document.baseURI);
  const call = async (method, path, body, signal) =>
    read(await request(new URL(path, base), { method, body, token, signal }));
  const begin = (...given) => new Run({ call, base, patience }, ...given);
  return {
    call,
    start: ({ ...asked }, { signal } = {}) => begin({ idempotency_key: newKey(), ...asked }, {}, signal),
    follow: (id, { after = 0, text = "", signal } = {}) => begin(null, { id, after, text }, signal),
  };
}

class Run {
  id = null;
  conversation = null;
  message = null;
  state = "connecting";
  request;
  ended;

  #chat;
  #held;
  #events = [];
  #more = deferred();
  #end = deferred();
  #over = new AbortController();
  #stopping = null;
  #isStopSent = false;
  #wake = () => {}; // ends what is being waited for: a connection, or a pause

  constructor(chat, asked, { id = null, after = 0, text = "" }, signal) {
    this.#chat = chat;
    this.#held = { seq: after, text, finish: null };
    this.id = id;
    this.request = asked;
    this.ended = this.#end.promise;
    this.#tell({ type: "state", state: this.state });
    // What is open when the browser comes online may be a connection of the network before.
    const options = { signal: this.#over.signal };
    addEventListener("online", () => this.#wake(), options);
    signal?.addEventListener("abort", () => this.detach(), options);
    if (signal?.aborted) this.detach();
    else this.#live().catch((problem) => this.#fail(problem));
  }

  get text() {
    return this.#held.text;
  }

  /** The number of the last frame: what `follow` takes as `after`. */
  get seq() {
    return this.#held.seq;
  }

  /** Ask the server to stop the answer, and follow it to its last frame. */
  stop() {
    if (this.state === "ended") return Promise.resolve();
    this.#stopping ??= deferred();
    this.#wake();
    return this.#stopping.promise;
  }

  /** Leave; the server goes on. */
  detach() {
    this.#finish({ type: "end", outcome: "detached", error: null, usage: null, text: this.text });
  }

  async *[Symbol.asyncIterator]() {
    for (let at = 0; ; at++) {
      while (at === this.#events.length) await this.#more.promise;
      yield this.#events[at];
      if (this.#events[at].type === "end") return;
    }
  }

  // One life: create, then follow to the end

  async #live() {
    if (this.id === null) await this.#create();
    for (let attempt = 0; this.state !== "ended"; ) {
      const { seq } = this.#held;
      const how = (await this.#sendStop()) ?? (await this.#read());
      if (how === "woken" || (how === "refused" && (await this.#probe()))) continue;
      if (this.#held.seq > seq) attempt = 0;
      await this.#pause(attempt++);
    }
  }

  async #create() {
    const until = performance.now() + this.#chat.patience;
    for (let attempt = 0; this.id === null; attempt++) {
      try {
        const { id, conversation, message } = await this.#call("POST", "runs/", this.request);
        Object.assign(this, { id, conversation, message });
        this.#tell({ type: "created", id, conversation, message });
      } catch (problem) {
        // The run may exist, its key finds it again; a refusal is one for good.
        if (!isLost(problem) || performance.now() > until) throw problem;
        await this.#pause(attempt);
      }
    }
  }

  /** Read one connection. Return how it ended: "dropped", "refused", or by us: "woken". */
  #read() {
    return new Promise((resolve) => {
      const source = new EventSource(this.#streamUrl());
      const close = (how) => {
        source.close(); // or it would ask again by itself
        this.#wake = () => {};
        resolve(how);
      };
      this.#wake = () => close("woken");
      source.onopen = () => this.#enter("streaming");
      source.onerror = () => close(source.readyState === EventSource.CLOSED ? "refused" : "dropped");
      const take = (event) => this.#take(event) || close("refused");
      for (const name of NAMES) source.addEventListener(name, take);
    });
  }

  #streamUrl() {
    const url = new URL(`runs/${this.id}/stream/`, this.#chat.base);
    url.searchParams.set("events", "all");
    if (this.#held.seq) url.searchParams.set("after", this.#held.seq);
    return url;
  }

  /** Take an event of the stream. Return whether the connection still serves. */
  #take({ type, lastEventId, data }) {
    const [held, event] = receive(this.#held, type, lastEventId, JSON.parse(data));
    if (event?.type === "broken") return false;
    this.#held = held;
    if (event?.type === "end") this.#finish(event);
    else if (event) this.#tell(event);
    return true;
  }

  /** Ask why a stream was refused, which EventSource does not tell. Return whether that is the end. */
  async #probe() {
    const status = await this.#patient("GET", `runs/${this.id}/`);
    const end = status && endOfStatus(status);
    if (!end) return false;
    // What was saved has as many characters as what was sent, though not always the same ones.
    const rest = end.text.slice(this.text.length);
    this.#held = { ...this.#held, text: this.text + rest };
    if (rest) this.#tell({ type: "text", text: rest });
    this.#finish({ ...end, text: this.text });
    return true;
  }

  /** Send a stop that was asked for. Return "dropped" if it has to be sent again. */
  async #sendStop() {
    if (!this.#stopping || this.#isStopSent) return null;
    try {
      if (!(await this.#patient("POST", `runs/${this.id}/stop/`))) return "dropped";
      this.#stopping.resolve();
    } catch (problem) {
      if (!(problem instanceof ChatError)) throw problem;
      this.#stopping.reject(problem); // the run goes on, and so do we
    }
    this.#isStopSent = true;
    return null;
  }

  /** Return the answer, null if there was none for a reason that may pass. */
  async #patient(method, path) {
    try {
      return await this.#call(method, path);
    } catch (problem) {
      if (!isPassing(problem)) throw problem;
      return null;
    }
  }

  #call(method, path, body) {
    return this.#chat.call(method, path, body, this.#over.signal);
  }

  async #pause(attempt) {
    this.#over.signal.throwIfAborted();
    this.#enter("reconnecting");
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, backoff(attempt));
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = () => {};
    this.#over.signal.throwIfAborted();
  }

  // What the reader is told

  #enter(state) {
    if (this.state === state || this.state === "ended") return;
    this.state = state;
    this.#tell({ type: "state", state });
  }

  #tell(event) {
    this.#events.push(event);
    this.#more.resolve();
    this.#more = deferred();
  }

  #fail(problem) {
    if (this.state === "ended") return; // what was under way was aborted
    if (!(problem instanceof ChatError)) {
      this.detach();
      throw problem;
    }
    const outcome = problem.status === 0 ? "lost" : "refused";
    const error = { ...problem, message: problem.message };
    this.#finish({ type: "end", outcome, error, usage: null, text: this.text });
  }

  #finish(end) {
    if (this.state === "ended") return;
    this.state = "ended";
    this.#over.abort();
    this.#wake();
    this.#stopping?.resolve();
    this.#tell(end);
    this.#end.resolve(end);
  }
}

function deferred() {
  const result = {};
  result.promise = new Promise((resolve, reject) => Object.assign(result, { resolve, reject }));
  return result;
}
