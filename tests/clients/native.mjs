/**
 * Generic clients of event streams with our own format, all cases of one at once:
 *
 *   node native.mjs <client> <cookie> <JSON: [{name, url, model, prompt, stops}]>
 *
 * Prints [name, [attempt, …]] for each case. An attempt is what the code has seen after a request: the
 * `text` so far, the `outcome` that the event "finish" told, the `end`, which is the last frame, and
 * `raised`, `status` or `errors` if there was no such end. `stops`: the code stops the answer at its
 * first words.
 */
import { fetchEventSource } from "@microsoft/fetch-event-source";
import { EventSource } from "eventsource";
import { createParser } from "eventsource-parser";
import { as } from "./visitor.mjs";

const ENOUGH = 3; // errors, after which a page gives up
const [client, cookie, cases] = [process.argv[2], process.argv[3], JSON.parse(process.argv[4])];
const visitor = as(cookie);
const players = {
  eventsource: playEventSource,
  "eventsource-parser": playParser,
  "fetch-event-source": playFetchEventSource,
};

// While eventsource waits to connect again, it does not keep Node awake.
const awake = setInterval(() => {}, 1000);
await Promise.all(
  cases.map(async (one) => console.log(JSON.stringify([one.name, await players[client](one)]))),
);
clearInterval(awake);

/** Note what an event says; return whether it is the last. The first words may stop the answer. */
function take(seen, { event, id, data }, { url, stops }) {
  const message = JSON.parse(data);
  if (event === "finish") seen.outcome = message.outcome;
  if (event && event !== "message") return false;
  if (message.done || message.error) seen.end = message;
  if (message.text && stops && !seen.text) {
    visitor(`${url}chat/runs/${id.split(":")[0]}/stop/`, { method: "POST", body: "{}" });
  }
  seen.text += message.text ?? "";
  return Boolean(seen.end);
}

function playEventSource(one) {
  const seen = { text: "", errors: [] };
  const query = new URLSearchParams({ prompt: one.prompt, model: one.model, events: "all" });
  return new Promise((resolve) => {
    const source = new EventSource(`${one.url}chat/stream/?${query}`, { fetch: visitor });
    const end = () => {
      source.close();
      resolve([seen]);
    };
    const note = ({ type, data, lastEventId }) => {
      if (take(seen, { event: type, data, id: lastEventId }, one)) end();
    };
    source.addEventListener("message", note);
    source.addEventListener("finish", note);
    source.onerror = ({ code }) => {
      seen.errors.push({ readyState: source.readyState, status: code });
      if (source.readyState === source.CLOSED || seen.errors.length === ENOUGH) end();
    };
  });
}

/** The parser has no connection of its own: the code asks once more for what it lacks. */
async function playParser(one) {
  const seen = { text: "", lastId: "" };
  const body = JSON.stringify({ prompt: one.prompt, model: one.model });
  await read(seen, one, `${one.url}chat/stream/?events=all`, { method: "POST", body });
  const attempts = [{ ...seen }];
  if (!seen.end && !seen.status) {
    const headers = { "last-event-id": seen.lastId };
    const again = { ...seen, raised: undefined };
    const run = seen.lastId.split(":")[0];
    await read(again, one, `${one.url}chat/runs/${run}/stream/?events=all`, { headers });
    attempts.push(again);
  }
  return attempts;
}

async function read(seen, one, url, options) {
  const parser = createParser({
    onEvent: (event) => {
      seen.lastId = event.id;
      take(seen, event, one);
    },
  });
  try {
    const response = await visitor(url, options);
    if (!response.ok) {
      const { error } = await response.json();
      Object.assign(seen, { status: response.status, code: error.code });
      return;
    }
    const decoder = new TextDecoder();
    for await (const bytes of response.body) parser.feed(decoder.decode(bytes, { stream: true }));
  } catch (error) {
    seen.raised = error.constructor.name;
  }
}

/** Posts again by itself: with the same Idempotency-Key, and what came before is skipped by its id. */
async function playFetchEventSource(one) {
  // It is made for pages: what it wants of one.
  globalThis.window ??= globalThis;
  globalThis.document ??= new EventTarget();
  const seen = { text: "", errors: [] };
  class Refused extends Error {}
  const options = {
    method: "POST",
    headers: { "Idempotency-Key": one.model },
    body: JSON.stringify({ prompt: one.prompt, model: one.model }),
    fetch: visitor,
    openWhenHidden: true,
    onopen: async (response) => {
      if (response.ok) return;
      const { error } = await response.json();
      Object.assign(seen, { status: response.status, code: error.code });
      throw new Refused();
    },
    onmessage: (event) => take(seen, event, one),
    onclose: () => {
      if (!seen.end) throw new Error("The stream ended without its last frame.");
    },
    onerror: (error) => {
      if (error instanceof Refused) throw error;
      seen.errors.push({ message: error.message });
      if (seen.errors.length === ENOUGH) throw error;
    },
  };
  try {
    await fetchEventSource(`${one.url}chat/stream/?events=all`, options);
  } catch (error) {
    seen.raised = error.constructor.name;
  }
  return [seen];
}
