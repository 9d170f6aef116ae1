/**
 * Ask the server and hear the answer, whichever way it travels.
 *
 * `ask(prompt, on)` calls `on.text(text)` for each piece, `on.event(name, data)` for each named
 * event, and once, last, `on.end(ending)`. It returns a function that stops the answer: the
 * connection closes, and by that the model's. An ending is one of
 *
 *   { kind: "done", finish }        finish: the data of the `finish` event, if it came
 *   { kind: "error", error }        error: { code, message, retryable }, from the server
 *   { kind: "refused", code, retryAfter }   the server did not start
 *   { kind: "lost" }                the connection dropped without a last frame
 *   { kind: "stopped" }             stopped from here
 */

import { readEvents } from "./sse.js";

const LONGEST_GET = 2000; // encoded bytes; the server refuses longer ones with the advice to POST
const NAMED_EVENTS = ["start", "reasoning", "tool_call", "tool_result", "finish"];

export function ask(url, prompt, csrfToken, on) {
  const query = new URLSearchParams({ prompt, events: "all" });
  const isShort = encodeURIComponent(prompt).length <= LONGEST_GET;
  const receiver = createReceiver(on);
  return isShort
    ? askBySource(`${url}?${query}`, receiver)
    : askByFetch(`${url}?events=all`, { prompt }, csrfToken, receiver);
}

/** Frames in, calls of `on` out: exactly one `end`, and nothing after it. */
function createReceiver(on) {
  let finish = null;
  const receiver = {
    hasFrames: false,
    isOpen: true,
    receive(name, data) {
      if (!receiver.isOpen) return;
      receiver.hasFrames = true;
      if (name === "finish") finish = data;
      if (name !== "message") on.event(name, data);
      else if (data.done) receiver.end({ kind: "done", finish });
      else if (data.error) receiver.end({ kind: "error", error: data.error });
      else if (data.text) on.text(data.text);
    },
    end(ending) {
      if (!receiver.isOpen) return;
      receiver.isOpen = false;
      on.end(ending);
    },
  };
  return receiver;
}

function askBySource(url, receiver) {
  const source = new EventSource(url);
  const receive = (event) => {
    receiver.receive(event.type, JSON.parse(event.data));
    if (!receiver.isOpen) source.close();
  };
  for (const name of ["message", ...NAMED_EVENTS]) source.addEventListener(name, receive);
  source.onerror = async () => {
    source.close(); // it would ask again by itself
    if (receiver.hasFrames) receiver.end({ kind: "lost" });
    else receiver.end(await refusalOf(url));
  };
  return () => {
    source.close();
    receiver.end({ kind: "stopped" });
  };
}

/** EventSource cannot read a refusal. HEAD runs the same checks, starts nothing and tells. */
async function refusalOf(url) {
  try {
    const response = await fetch(url, { method: "HEAD", cache: "no-store" });
    const code = response.headers.get("Chatstream-Error");
    return code ? refused(code, response) : { kind: "lost" };
  } catch {
    return { kind: "lost" };
  }
}

const refused = (code, response) => ({
  kind: "refused",
  code,
  retryAfter: Number(response.headers.get("Retry-After")) || null,
});

function askByFetch(url, body, csrfToken, receiver) {
  const controller = new AbortController();
  const request = {
    method: "POST",
    headers: {
      Accept: "text/event-stream",
      "Content-Type": "application/json",
      "X-CSRFToken": csrfToken,
    },
    body: JSON.stringify(body),
    signal: controller.signal,
  };
  followFetch(url, request, receiver).catch(() => receiver.end({ kind: "lost" }));
  return () => {
    receiver.end({ kind: "stopped" });
    controller.abort();
  };
}

async function followFetch(url, request, receiver) {
  const response = await fetch(url, request);
  if (!response.ok) {
    const { error } = await response.json();
    receiver.end(refused(error.code, response));
    return;
  }
  for await (const { name, data } of readEvents(response)) {
    receiver.receive(name, JSON.parse(data));
  }
  receiver.end({ kind: "lost" }); // ignored if the last frame came
}
