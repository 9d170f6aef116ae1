/**
 * The entries of a conversation on the page: what a user said, and an answer that grows. Their markup
 * is in the page's <template> elements. Loaded by `chatstream-ui.js`; no static imports.
 */

const BROKEN = ["failed", "interrupted"];

const part = (element, name) => element.querySelector(`[data-part="${name}"]`);
const action = (element, name) => element.querySelector(`[data-action="${name}"]`);

/** Write to the clipboard; over plain HTTP browsers have the old way only. */
export async function copyText(text) {
  const isCopied = await navigator.clipboard?.writeText(text).then(
    () => true,
    () => false, // forbidden, in a frame for one
  );
  if (isCopied) return;
  const focused = document.activeElement;
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "cs-hidden";
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  focused?.focus({ preventScroll: true });
}

/** Return the name of the state that a run's ending puts its answer in. */
export const stateOf = (outcome) => (outcome === "completed" ? "done" : outcome);

/**
 * Return what the page says of an ending: `{ state, tone, words, actions, support }`. `end` is that
 * of chatstream.js, with the answer's `text`, `run` (its id) and `firstWordMs`, null if unknown.
 */
export function describeEnding({ config, lang, describeError }, end) {
  const state = stateOf(end.outcome);
  const { tone, words } = config.states[state];
  const actions = actionsAfter(config.states[state].actions, state, end.text);
  if (state === "done") return { state, tone: "", words: describeFigures(config, lang, end), actions };
  if (!BROKEN.includes(state)) return { state, tone, words, actions };
  const told = [end.text ? words : config.words.nothing];
  if (state === "failed") told.push(describeError(config.errors, config.words, end.error));
  const support = state === "failed" ? config.words.support.replace("{id}", end.run) : "";
  return { state, tone, words: told.join(" "), actions, support };
}

/** There is nothing to go on with where nothing came. */
function actionsAfter(actions, state, text) {
  if (text) return actions;
  return BROKEN.includes(state) ? ["retry"] : actions.filter((name) => name !== "continue");
}

function describeFigures({ words }, lang, { firstWordMs, usage }) {
  const told = [];
  if (firstWordMs !== null) {
    const one = { minimumFractionDigits: 1, maximumFractionDigits: 1 };
    const seconds = new Intl.NumberFormat(lang, one).format(firstWordMs / 1000);
    told.push(words.first_word.replace("{seconds}", seconds));
  }
  const tokens = usage?.completion_tokens;
  if (Number.isInteger(tokens)) {
    const form = words[`tokens_${new Intl.PluralRules(lang).select(tokens)}`] ?? words.tokens_other;
    told.push(form.replace("{count}", new Intl.NumberFormat(lang).format(tokens)));
  }
  return told.join(" · ");
}

/** Return `{ user, answer }`, which make entries. `markdown` renders answers. */
export function createEntries({ root, config, lang, markdown, describeError }) {
  const made = (name) =>
    root.querySelector(`template[data-template="${name}"]`).content.firstElementChild.cloneNode(true);
  const context = { config, lang, markdown, describeError, made };
  return {
    user: (text) => new UserEntry(made("user"), text, context),
    answer: () => new AnswerEntry(made("answer"), context),
  };
}

class Entry {
  siblings = [];
  #id = null;

  constructor(element, { config, made }) {
    this.element = element;
    this.config = config;
    this.made = made;
    this.body = part(element, "text");
  }

  get id() {
    return this.#id;
  }

  set id(id) {
    this.#id = id;
    this.element.dataset.message = id ?? "";
  }

  /** Show which of several versions this is. */
  showSiblings(siblings) {
    this.siblings = siblings;
    const index = siblings.indexOf(this.id);
    const { position } = this.config.words;
    part(this.element, "siblings").hidden = siblings.length < 2;
    part(this.element, "position").textContent = position
      .replace("{index}", index + 1)
      .replace("{count}", siblings.length);
    action(this.element, "previous").disabled = index <= 0;
    action(this.element, "next").disabled = index === siblings.length - 1;
  }

  /** Focus the button of an action. */
  focus(name) {
    action(this.element, name).focus({ preventScroll: true });
  }

  /** It has left the page. */
  forget() {}

  /** Return the id of the version before (-1) or after (1) this one. */
  sibling(step) {
    return this.siblings[this.siblings.indexOf(this.id) + step];
  }
}

class UserEntry extends Entry {
  isUser = true;
  text = "";

  constructor(element, text, context) {
    super(element, context);
    this.say(text);
  }

  say(text) {
    this.text = text;
    this.body.textContent = text;
  }

  get editor() {
    return part(this.element, "editor");
  }

  /** Let the text be edited, or what was typed there before; return the field. */
  edit(typed = "") {
    const form = this.editor ?? this.made("editor");
    const { prompt } = form.elements;
    this.body.hidden = true;
    this.body.after(form);
    prompt.value = typed || prompt.value || this.text;
    return prompt;
  }

  leaveEditor() {
    this.editor?.remove();
    this.body.hidden = false;
  }
}

class AnswerEntry extends Entry {
  isUser = false;
  ended = null; // the id of the run whose end it shows
  #markdown;
  #writing = null;
  #saved = "";
  #tools = new Map();
  #lastEnd = null;
  #isDead = false; // its text is there, and does nothing any more
  #context;

  constructor(element, context) {
    super(element, context);
    this.#markdown = context.markdown;
    this.#context = context;
    this.body.classList.remove("cs-plain");
    this.body.textContent = "";
  }

  get text() {
    return this.#writing?.text ?? this.#saved;
  }

  get state() {
    return this.element.dataset.state;
  }

  forget() {
    if (!this.#writing) return;
    this.#saved = this.text;
    this.#writing.destroy();
    this.#writing = null;
    this.ended = null; // if it comes back, after a refusal, it is rendered again
    this.#isDead = true;
  }

  /** Be about to be written; `text` is there already. */
  begin(text = "") {
    this.#writing?.destroy();
    this.ended = null;
    this.body.replaceChildren();
    this.#forgetThoughts();
    this.#writing = this.#markdown.stream(this.body);
    if (text) this.#writing.append(text);
    this.#offer([]);
    this.element.setAttribute("aria-busy", "true");
  }

  /** Say how it is going: "connecting", "streaming", "reconnecting". */
  say(state, words = this.config.states[state].words) {
    this.element.dataset.state = state;
    this.#tell(state === "streaming" ? "" : words, this.config.states[state].tone, "");
  }

  /** Take in an event of the run. */
  take(event) {
    if (event.type === "text") this.#writing.append(event.text);
    if (event.type === "reasoning") this.#think(event.text);
    if (event.type === "tool_call") this.#callTool(event);
    if (event.type === "tool_result") this.#showResult(event);
  }

  /** Show how it ended; return the words. */
  end(end) {
    this.#writing?.end();
    this.#lastEnd = end;
    this.ended = end.run;
    const told = describeEnding(this.#context, end);
    this.element.dataset.state = told.state;
    this.element.setAttribute("aria-busy", "false");
    this.#tell(told.words, told.tone, told.support ?? "");
    this.#offer(told.actions);
    for (const line of this.#tools.values()) if (!line.dataset.state) part(line, "state").textContent = "";
    return told;
  }

  /** Show how it had ended: it was not gone on with. */
  endAgain() {
    this.end(this.#lastEnd);
  }

  /** Show an answer that was saved, and its end. */
  show(text, end) {
    if (this.text !== text || this.#isDead) this.#render(text);
    this.end(end);
  }

  #render(text) {
    this.#writing?.destroy();
    this.#writing = null;
    this.#saved = text;
    this.#isDead = false;
    this.#markdown.render(this.body, text);
  }

  #tell(words, tone, support) {
    const line = part(this.element, "ending");
    line.hidden = !words;
    line.dataset.tone = tone;
    part(line, "ending-text").textContent = words;
    part(line, "support").textContent = support;
    part(line, "support").hidden = !support;
  }

  /** Show the buttons of these actions, and only them. */
  #offer(actions) {
    for (const name of ["regenerate", "continue", "retry"]) {
      action(this.element, name).hidden = !actions.includes(name);
    }
    action(this.element, "copy").hidden = !this.text;
  }

  #think(text) {
    part(this.element, "reasoning").hidden = false;
    part(this.element, "reasoning-text").append(text);
  }

  #callTool({ index, id, name }) {
    const line = this.#tools.get(index) ?? this.#addTool(index);
    if (id) line.dataset.call = id;
    if (name) part(line, "name").textContent = name;
  }

  #addTool(index) {
    const line = this.made("tool");
    part(line, "state").textContent = this.config.words.tool_running;
    this.#tools.set(index, line);
    part(this.element, "tools").append(line);
    part(this.element, "tools").hidden = false;
    return line;
  }

  #showResult({ id, error }) {
    const line = [...this.#tools.values()].find((line) => line.dataset.call === id);
    if (!line) return;
    line.dataset.state = error ? "failed" : "done";
    part(line, "state").textContent = this.config.words[error ? "tool_failed" : "tool_done"];
  }

  #forgetThoughts() {
    this.#tools.clear();
    for (const name of ["reasoning-text", "tools"]) part(this.element, name).replaceChildren();
    for (const name of ["reasoning", "tools"]) part(this.element, name).hidden = true;
  }
}
