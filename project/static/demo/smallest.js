export function ask(prompt, write, end) {
  const sse = new EventSource("/chat/stream/?" + new URLSearchParams({ prompt }));
  const read = (d) => ("text" in d ? write(d.text) : (sse.close(), end(d)));
  sse.onmessage = (event) => read(JSON.parse(event.data));
  sse.onerror = () => read({}); // no last frame: the connection was lost
}
