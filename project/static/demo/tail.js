/**
 * Reads the bytes of a run's stream beside the chat, line by line, as `curl` would show them. A
 * connection that breaks is opened again, after the last frame that came whole.
 */

const PAUSE = 1_000; // milliseconds; what the stream's own `retry:` says

/** Return `{ follow, stop, at }`. `tell(kind, text)` gets "line"s and, of the network, "note"s. */
export function createTail(api, tell) {
  let reading = null; // { run, last, isOver, abort }

  async function read(it) {
    while (!it.isOver && !it.abort.signal.aborted) {
      try {
        await readOnce(api, it, tell);
      } catch {
        if (!it.abort.signal.aborted) tell("note", "connection lost");
      }
      if (!it.isOver) await sleep(PAUSE);
    }
  }

  const tail = {
    /** Read this run: from its start, or from where reading was stopped. */
    follow(run) {
      if (reading?.run === run && !reading.abort.signal.aborted) return;
      tail.stop();
      const { last, isOver } = reading?.run === run ? reading : { last: "", isOver: false };
      reading = { run, last, isOver, abort: new AbortController() };
      read(reading);
    },
    stop() {
      reading?.abort.abort();
    },
    /** The number of the last frame that came. */
    get at() {
      return Number(reading?.last.split(":")[1] ?? 0);
    },
  };
  return tail;
}

async function readOnce(api, it, tell) {
  const url = new URL(`runs/${it.run}/stream/?events=all`, api);
  const headers = { Accept: "text/event-stream" };
  if (it.last) headers["Last-Event-ID"] = it.last;
  const response = await fetch(url, { headers, signal: it.abort.signal, cache: "no-store" });
  const after = it.last ? `, Last-Event-ID …:${it.last.split(":")[1]}` : "";
  tell("note", `GET …/stream/?events=all${after} → ${response.status}`);
  if (response.status !== 200) {
    it.isOver = response.status < 500; // 204: all of it came before
    return;
  }
  let id = it.last;
  for await (const line of linesOf(response.body)) {
    tell("line", line);
    if (line.startsWith("id: ")) id = line.slice(4);
    if (line === "") it.last = id; // the frame is whole
    if (/^data: \{"(done|error)"/.test(line)) it.isOver = true;
  }
}

async function* linesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield* lines;
  }
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
