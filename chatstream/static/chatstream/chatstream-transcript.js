/**
 * The list of entries: which are on the page, and whether its end stays in view. Loaded by
 * `chatstream-ui.js`; no static imports.
 */

const NEAR_END = 80; // pixels: closer than this, the page follows the answer

export function createTranscript({ root, entries, signal }) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const list = part("transcript");
  const scroll = part("scroll");
  let shown = [];

  followEnd({ list, scroll, latest: root.querySelector("[data-action='latest']"), signal });

  return {
    get entries() {
      return shown;
    },
    /** Return the entry that an element of the page belongs to. */
    of: (element) => shown.find((entry) => entry.element.contains(element)),
    before: (entry) => shown.slice(0, shown.indexOf(entry)),

    /** Show these entries, and move none that stays: a selection survives. */
    show(next) {
      next.forEach(({ element }, at) => {
        if (list.children[at] !== element) list.insertBefore(element, list.children[at] ?? null);
      });
      while (list.children.length > next.length) list.lastElementChild.remove();
      for (const entry of shown) if (!next.includes(entry)) entry.forget();
      shown = next;
      part("empty").hidden = next.length > 0;
    },

    /** Return the entry of a message: the one that is there, or a new one. */
    entryOf({ id, role, content }) {
      const isUser = role === "user";
      // What was just sent does not know its id yet.
      const isIt = (entry) => entry.id === id || (!entry.id && entry.isUser && isUser && entry.text === content);
      const entry = shown.find(isIt) ?? (isUser ? entries.user(content) : entries.answer());
      entry.id = id;
      return entry;
    },

    scrollToEnd() {
      scroll.scrollTop = scroll.scrollHeight;
    },
  };
}

/** Keep the end in view while the reader is near it; offer the way back otherwise. */
function followEnd({ list, scroll, latest, signal }) {
  let isNear = true;
  const look = () => {
    isNear = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR_END;
    latest.hidden = isNear;
  };
  const keep = () => {
    if (isNear) scroll.scrollTop = scroll.scrollHeight;
    else look();
  };
  scroll.addEventListener("scroll", look, { passive: true, signal });
  const observer = new ResizeObserver(keep);
  observer.observe(list);
  observer.observe(scroll);
  signal.addEventListener("abort", () => observer.disconnect());
}
