/** The `curl` commands that do what the page does. Pure. */

/** Return `text` as one word of a POSIX shell. */
export const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** Ask the same, as a visitor of one's own. `api` is the URL where `chatstream.urls` is included. */
export function askCommand(api, prompt) {
  return [
    `curl -N -G ${quote(String(new URL("stream/", api)))}`,
    "-d events=all",
    `--data-urlencode ${quote(`prompt=${prompt}`)}`,
  ].join(" \\\n  ");
}

/** Take up a run after the frame `seq`, as the visitor that it belongs to. */
export function resumeCommand(api, run, seq) {
  return [
    `curl -N ${quote(String(new URL(`runs/${run}/stream/?events=all`, api)))}`,
    `-H ${quote(`Last-Event-ID: ${run}:${seq}`)}`,
    "-b 'sessionid=YOUR-SESSION'",
  ].join(" \\\n  ");
}
