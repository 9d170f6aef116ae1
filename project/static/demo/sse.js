/**
 * Read server-sent events from text. Pure: no network, no DOM.
 *
 * EventSource does this by itself, but only for GET; a long prompt goes by POST and is read here.
 */

/**
 * Return a function that takes text as it arrives and returns the events that it completed, as
 * `{ name, data }`. A block that the end of the stream cuts off is no event.
 */
export function createEventReader() {
  let rest = "";
  let name = "";
  let data = [];

  function readLine(line, events) {
    if (line === "") {
      if (data.length) events.push({ name: name || "message", data: data.join("\n") });
      name = "";
      data = [];
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") data.push(value);
    if (field === "event") name = value;
  }

  return function read(text) {
    const events = [];
    rest += text;
    // A CR at the very end may be the first half of a CRLF: it waits for what follows.
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) readLine(line, events);
    return events;
  };
}

/** Yield the events of a fetch `Response` as they arrive. */
export async function* readEvents(response) {
  const read = createEventReader();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    yield* read(value);
  }
}
