/**
 * What the chat as a whole says: its pill, the notice above the composer, and a word for screen
 * readers. Loaded by `chatstream-ui.js`; no static imports.
 */

/** Return an error in the page's language, by its code. */
export function describeError(known, words, { code, message, retry_after: wait }) {
  const told = known[code] ?? message;
  return wait ? `${told} ${words.retry_in.replace("{seconds}", Math.ceil(wait))}` : told;
}

/** `onEnter` is called with each new state; `link` gives the address of the shown conversation. */
export function createStatus({ root, config, link, onEnter }) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const { states, words, refusals } = config;
  let said = new AbortController(); // of the notice

  const status = {
    get state() {
      return root.dataset.state;
    },

    enter(state) {
      const pill = part("pill");
      root.dataset.state = state;
      pill.hidden = !states[state].tone;
      pill.dataset.tone = states[state].tone;
      pill.textContent = states[state].label;
      onEnter(state);
    },

    announce(told) {
      part("status").textContent = told;
    },

    /** Enter a state, and say why; `anchor` is `{ text, href }`. */
    say(state, told = states[state].words, anchor = null) {
      status.quiet();
      status.enter(state);
      part("notice-text").textContent = told;
      part("notice").dataset.tone = states[state].tone;
      part("notice-link").hidden = !anchor;
      if (anchor) Object.assign(part("notice-link"), { textContent: anchor.text, href: anchor.href });
      part("notice").hidden = false;
      status.announce(told);
    },

    /** Say no more. */
    quiet() {
      said.abort();
      said = new AbortController();
      part("notice").hidden = true;
    },

    /** Say why the server did not do what was asked. */
    refuse(problem) {
      if (problem.status === undefined) {
        reportError(problem); // a bug of ours
        status.say("refused");
      } else if (problem.status === 0) status.say(navigator.onLine ? "refused" : "offline", words.network);
      else if (problem.code === "not_authenticated") status.say("signed_out", undefined, login());
      else if (problem.run) status.say("busy", undefined, { text: words.show_it, href: link() });
      else status.say("refused", describeError(refusals, words, problem));
      if (problem.retry_after) countDown(problem);
    },
  };

  function login() {
    if (!root.dataset.login) return null;
    const url = new URL(root.dataset.login, document.baseURI);
    url.searchParams.set("next", location.pathname + location.search);
    return { text: words.sign_in, href: url.href };
  }

  /** Say the seconds that are left, and go idle after the last. */
  function countDown(problem) {
    const until = performance.now() + problem.retry_after * 1_000;
    const timer = setInterval(() => {
      const left = Math.ceil((until - performance.now()) / 1_000);
      const told = describeError(refusals, words, { ...problem, retry_after: left });
      part("notice-text").textContent = told;
      if (left > 0) return;
      status.quiet();
      status.enter("idle");
    }, 1_000);
    said.signal.addEventListener("abort", () => clearInterval(timer));
  }

  return status;
}
