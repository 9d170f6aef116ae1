/** A list of lines that grows at its end and keeps the newest. */

const KEPT = 500; // lines
const NEAR_END = 24; // pixels

/** Return `{ add, clear }` for the <ol> `list`; `add(kind, text)` writes a line. */
export function createLog(list) {
  let began = performance.now();
  let waiting = [];

  function flush() {
    const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_END;
    list.append(...waiting);
    waiting = [];
    while (list.childElementCount > KEPT) list.firstElementChild.remove();
    if (isAtEnd) list.scrollTop = list.scrollHeight;
  }

  function lineOf(kind, text) {
    const line = document.createElement("li");
    line.dataset.kind = kind;
    if (!text) return line; // the end of a block needs no time
    const time = document.createElement("span");
    time.textContent = ((performance.now() - began) / 1000).toFixed(2);
    line.append(time, text);
    return line;
  }

  return {
    /** Add a line; once a frame for all that came. */
    add(kind, text) {
      if (!waiting.length) requestAnimationFrame(flush);
      waiting.push(lineOf(kind, text));
      if (waiting.length > KEPT) waiting.shift(); // a hidden page has no frames
    },
    /** Count the seconds from now on. */
    restart() {
      began = performance.now();
    },
    clear() {
      waiting = [];
      list.replaceChildren();
    },
  };
}
