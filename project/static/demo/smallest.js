export function ask(prompt, write, end) {
  const sse = new EventSource("/chat/stream/?" + new URLSearchParams({ prompt, key: crypto.randomUUID() }));
  const read = (d) => ("text" in d ? write(d.text) : (sse.close(), end(d)));
  sse.onmessage = (event) => read(JSON.parse(event.data));
  sse.onerror = () => sse.readyState === 2 && read({}); // else it reconnects by itself, and goes on
}
