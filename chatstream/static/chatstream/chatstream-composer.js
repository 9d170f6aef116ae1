/**
 * The field where a prompt is written: its keys, its height, the counter, and the draft, which is
 * kept until the server has taken it. Loaded by `chatstream-ui.js`; no static imports.
 */

const MAX_ROWS = 8;
const COUNTED_FROM = 0.8; // of what a prompt may have

/** Whether an input method is at work: then Enter picks a character. (229: Safari's late one.) */
export const isComposing = (event) => event.isComposing || event.keyCode === 229;

/** Bring a field to the height of its text. */
export function fit(field) {
  field.rows = 1;
  while (field.rows < MAX_ROWS && field.scrollHeight > field.clientHeight) field.rows++;
}

/**
 * Drafts of this tab, by conversation ("" for a new one). What was sent, and is not taken yet, is
 * kept beside what is being written. `storage` is a function: to name the storage may be forbidden.
 */
export function createDrafts(storage, scope) {
  const key = (kind, conversation) => `chatstream:${scope}:${kind}:${conversation}`;
  const get = (kind, conversation) => {
    try {
      return storage().getItem(key(kind, conversation)) ?? "";
    } catch {
      return "";
    }
  };
  const set = (kind, conversation, text) => {
    try {
      if (text) storage().setItem(key(kind, conversation), text);
      else storage().removeItem(key(kind, conversation));
    } catch {
      // The browser allows no storage, or it is full: the text is still in the field.
    }
  };
  return {
    read: (at) => [get("sent", at), get("draft", at)].filter(Boolean).join("\n"),
    write: (at, text) => set("draft", at, text),
    send: (at, text) => set("sent", at, text),
    take: (at) => set("sent", at, ""),
    /** What is typed instead of a message, by its id. */
    edits: { read: (id) => get("edit", id), write: (id, text) => set("edit", id, text) },
    move(from, to) {
      if (from === to) return;
      for (const kind of ["sent", "draft"]) {
        const text = [get(kind, to), get(kind, from)].filter(Boolean).join("\n");
        set(kind, from, "");
        set(kind, to, text);
      }
    },
  };
}

/**
 * Return the composer in `root`. `current()` is the conversation's id, "" for a new one; `onSend`
 * gets the prompt, `onStop` and `onEditLast` nothing; `signal` ends it all.
 */
export function createComposer({ root, signal, words, current, onSend, onStop, onEditLast }) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const form = part("composer");
  const field = part("prompt");
  const button = part("send");
  const counter = part("counter");
  const limit = Number(root.dataset.maxPrompt);
  const drafts = createDrafts(() => sessionStorage, root.dataset.api);
  // Where drafts are kept: a new conversation's only moves when the server has its first prompt, for
  // until then a reload may lead to either address.
  let place = current();
  let does = "send";
  let isOff = false;

  const size = () => [...field.value].length; // characters, as the server counts them
  const isSendable = () => !isOff && does === "send" && field.value.trim() && size() <= limit;

  function refresh() {
    fit(field);
    const count = size();
    counter.hidden = count < COUNTED_FROM * limit;
    counter.textContent = words.characters.replace("{count}", count).replace("{limit}", limit);
    counter.dataset.tone = count > limit ? "red" : "";
    const isDisabled = does === "send" && !isSendable();
    const hadFocus = isDisabled && button === document.activeElement;
    button.disabled = isDisabled;
    if (hadFocus) focus();
  }

  /** Take the focus from what goes away; not where that would open a keyboard on the screen. */
  function focus() {
    const isByKey = button.matches(":focus-visible");
    if (isByKey || matchMedia("(hover: hover)").matches) field.focus({ preventScroll: true });
  }

  function set(text) {
    field.value = text;
    drafts.write(place, text);
    refresh();
  }

  function submit() {
    if (!isSendable()) return;
    const prompt = field.value;
    drafts.send(place, prompt);
    set("");
    onSend(prompt);
  }

  form.noValidate = true; // an empty field is no reason not to stop
  const onInput = () => {
    drafts.write(place, field.value);
    refresh();
  };
  field.addEventListener("input", onInput, { signal });
  const onKey = (event) => {
    if (isComposing(event)) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      submit();
    } else if (event.key === "ArrowUp" && !field.value) {
      event.preventDefault();
      onEditLast();
    }
  };
  field.addEventListener("keydown", onKey, { signal });
  const onEscape = (event) => {
    if (event.key !== "Escape" || isComposing(event) || does !== "stop") return;
    event.preventDefault();
    onStop();
  };
  root.addEventListener("keydown", onEscape, { signal });
  // The second click of a double click on Send is no Stop.
  const onClick = (event) => does === "stop" && event.detail > 1 && event.preventDefault();
  button.addEventListener("click", onClick, { signal });
  const onSubmit = (event) => {
    event.preventDefault();
    const name = event.submitter?.name;
    if (["suggestion", "regenerate", "continue"].includes(name)) return; // buttons of the page
    if (does === "stop") onStop();
    else submit();
  };
  form.addEventListener("submit", onSubmit, { signal });

  const composer = {
    set,
    focus,
    edits: drafts.edits,
    /** Let the button send or stop; `isOff` forbids to send. */
    mode(next, off) {
      [does, isOff] = [next, off];
      button.dataset.does = does;
      button.setAttribute("aria-label", words[does]);
      button.title = words[does];
      refresh();
    },
    /** The server has what was sent. */
    taken() {
      drafts.take(place);
      drafts.move(place, current());
      place = current();
    },
    /** It was refused: put it back, before what was written since. */
    giveBack(prompt) {
      drafts.take(place);
      set([prompt, field.value].filter(Boolean).join("\n"));
    },
  };
  if (!root.querySelector(".cs-entry")) drafts.move("", place);
  set(joined(drafts.read(place), field.value));
  drafts.take(place);
  return composer;
}

/** What was kept and what is in the field: a browser restores a field, or somebody was quick. */
function joined(kept, typed) {
  if (kept.includes(typed)) return kept;
  return typed.includes(kept) ? typed : `${kept}\n${typed}`;
}
