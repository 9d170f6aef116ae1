/**
 * The chat page: brings `{% chatstream %}` to life. Without it the page works by forms.
 *
 * No static imports, so that it also runs where files have hashed names only: the element's data
 * attributes name the other modules. What is on the page follows from what the server says of the
 * conversation: `sync` asks it, and brings the page up to the answer, whoever changed what, in this
 * tab or in another. The states are those of `chatstream/words.py`.
 *
 * The element sends `chatstream:event` events, whose `detail` is `{ run, event }` of chatstream.js.
 */

const MODULES = ["client", "markdown", "entries", "transcript", "status", "composer", "sidebar"];
const PLACE = "__id__";
const LONG_WAIT = 8_000; // milliseconds without a word
const LONGEST_TASK = 40; // milliseconds
const TO = { [-1]: "previous", 1: "next" };
const GOING_ON = ["connecting", "streaming", "reconnecting"];
const MUTE = ["offline", "signed_out", "busy"]; // nothing can be sent

class ChatElement extends HTMLElement {
  address = addressOf(location); // that of what is shown
  #life = null;

  async connectedCallback() {
    this.#life = new AbortController();
    const { signal } = this.#life;
    // At once: somebody may go back while the modules are loaded.
    addEventListener("popstate", () => this.#moved(), { signal });
    const load = (name) => import(new URL(this.dataset[name], document.baseURI));
    const loaded = await Promise.all(MODULES.map(load));
    if (signal.aborted) return;
    const modules = Object.fromEntries(MODULES.map((name, at) => [name, loaded[at]]));
    await new ChatPage(this, modules, signal).begin();
    this.dataset.ready = "";
  }

  disconnectedCallback() {
    this.#life.abort();
  }

  /** Back and forward lead to other conversations; a link within the page fires popstate, too. */
  #moved() {
    if (addressOf(location) !== this.address) location.reload();
  }
}

class ChatPage {
  #root;
  #modules;
  #signal;
  #config;
  #chat;
  #entries; // makes them
  #transcript;
  #status;
  #composer;
  #sidebar = null;
  #open = null; // { answer, run } of the answer that is followed; run is null while it is asked for
  #left = null; // { answer, run, seq, text } of one that goes on while the page is hidden
  #syncs = 0;
  #channel = openChannel();

  constructor(root, modules, signal) {
    this.#root = root;
    this.#modules = modules;
    this.#signal = signal;
    this.#config = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    this.#chat = modules.client.createChat(root.dataset.api);
    this.#entries = this.#createEntries();
    this.#transcript = modules.transcript.createTranscript({ root, entries: this.#entries, signal });
    this.#composer = this.#createComposer();
    this.#status = this.#createStatus();
    if (this.#part("sidebar")) this.#sidebar = this.#createSidebar();
  }

  async begin() {
    this.#listen();
    // The server has said it already, what goes on is for sync to say.
    const { signedIn, state } = this.#root.dataset;
    if (signedIn === "yes") this.#status.enter(GOING_ON.includes(state) ? "idle" : state);
    await this.sync();
    if (!navigator.onLine) this.#goOffline();
  }

  /** The shown conversation's id, "" before there is one. */
  get conversation() {
    return this.#root.dataset.conversation;
  }

  #part(name) {
    return this.#root.querySelector(`[data-part="${name}"]`);
  }

  #link(id) {
    return this.#root.dataset.link.replace(PLACE, id);
  }

  // Parts ----------------------------------------------------------------------------------------

  #createEntries() {
    const { marked, DOMPurify, markedFootnote } = window;
    const { words } = this.#config;
    const loadHighlighter = async () =>
      (await import(new URL(this.#root.dataset.highlighter, document.baseURI))).default;
    const libraries = { marked, DOMPurify, markedFootnote, loadHighlighter };
    return this.#modules.entries.createEntries({
      root: this.#root,
      config: this.#config,
      lang: languageOf(this.#root),
      markdown: this.#modules.markdown.createMarkdown({ ...libraries, words }),
      describeError: this.#modules.status.describeError,
    });
  }

  #createComposer() {
    return this.#modules.composer.createComposer({
      root: this.#root,
      signal: this.#signal,
      words: this.#config.words,
      current: () => this.conversation,
      onSend: (prompt) => this.#send(prompt),
      onStop: () => this.#stop(),
      onEditLast: () => this.#editLast(),
    });
  }

  #createStatus() {
    return this.#modules.status.createStatus({
      root: this.#root,
      config: this.#config,
      link: () => this.#link(this.conversation),
      onEnter: (state) => this.#composer.mode(this.#open ? "stop" : "send", MUTE.includes(state)),
    });
  }

  #createSidebar() {
    return this.#modules.sidebar.createSidebar({
      root: this.#root,
      signal: this.#signal,
      chat: this.#chat,
      words: this.#config.words,
      link: (id) => this.#link(id),
      current: () => this.conversation || null,
      onRenamed: (id, title) => id === this.conversation && this.#title(title),
      onDeleted: (id) => id === this.conversation && location.assign(this.#root.dataset.home),
      onError: (problem) => this.#status.refuse(problem),
    });
  }

  // What the user does ---------------------------------------------------------------------------

  #listen() {
    const options = { signal: this.#signal };
    const list = this.#part("transcript");
    this.#root.addEventListener("click", (event) => this.#click(event), options);
    list.addEventListener("submit", (event) => this.#submitEdited(event), options);
    list.addEventListener("keydown", (event) => this.#keyInEditor(event), options);
    list.addEventListener("input", (event) => this.#inputInEditor(event), options);
    document.addEventListener("visibilitychange", () => this.#turnVisible(), options);
    addEventListener("offline", () => this.#goOffline(), options);
    addEventListener("online", () => this.#goOnline(), options);
    list.addEventListener("cs-copied", () => this.#status.announce(this.#config.words.copied), options);
    this.#channel.addEventListener("message", (event) => this.#hear(event.data), options);
    this.#signal.addEventListener("abort", () => this.#leave());
  }

  #leave() {
    this.#channel.close();
    this.#open?.run?.detach();
  }

  #click(event) {
    const button = event.target.closest?.("[data-action]");
    if (!button) return;
    const focused = document.activeElement;
    const entry = this.#transcript.of(button);
    const actions = {
      suggest: () => this.#send(button.value),
      latest: () => this.#toEnd(),
    };
    const ofEntries = {
      copy: () => this.#copy(entry, button),
      edit: () => this.#edit(entry),
      "cancel-edit": () => this.#leaveEditor(entry),
      regenerate: () => this.#act("regenerate", entry),
      retry: () => this.#act("regenerate", entry),
      continue: () => this.#act("continue", entry),
      previous: () => this.#switch(entry, -1),
      next: () => this.#switch(entry, 1),
    };
    const act = (entry ? ofEntries : actions)[button.dataset.action];
    if (!act) return;
    event.preventDefault();
    act();
    this.#keepFocus(focused);
  }

  #toEnd() {
    this.#transcript.scrollToEnd();
    this.#composer.focus(); // the button goes
  }

  /** The focus does not get lost with what had it. */
  #keepFocus(focused) {
    const isLost = [focused, document.body].includes(document.activeElement);
    if (isLost && !focused.getClientRects().length) this.#composer.focus();
  }

  /** Ask, and show the answer as it comes. */
  async #send(prompt) {
    if (this.#open) return;
    const entries = this.#transcript.entries;
    const answer = this.#entries.answer();
    this.#transcript.show([...entries, this.#entries.user(prompt), answer]);
    this.#transcript.scrollToEnd();
    const ask = async () => ({
      prompt,
      conversation: await this.#ownConversation(),
      ...this.#provider(),
    });
    if (await this.#answer(answer, "", ask)) return;
    this.#transcript.show(entries);
    this.#composer.giveBack(prompt);
  }

  #provider() {
    const provider = this.#part("provider")?.value ?? this.#root.dataset.provider;
    return provider ? { provider } : {};
  }

  /** Return the conversation's id; make one first: its cookie comes before anything is billed. */
  async #ownConversation() {
    if (this.conversation) return this.conversation;
    const { id } = await this.#chat.call("POST", "conversations/", {});
    this.#root.dataset.conversation = id;
    history.pushState(null, "", this.#link(id));
    this.#root.address = addressOf(location);
    return id;
  }

  /** Answer again, or go on with an answer. */
  async #act(action, entry) {
    if (this.#open) return;
    const isNew = action === "regenerate";
    const answer = isNew ? this.#entries.answer() : entry;
    const entries = this.#transcript.entries;
    this.#transcript.show([...this.#transcript.before(entry), answer]);
    const asked = { action, message: entry.id, ...this.#provider() };
    if (await this.#answer(answer, isNew ? "" : entry.text, () => asked)) return;
    this.#transcript.show(entries);
    if (!isNew) entry.endAgain();
    await this.sync();
  }

  #edit(entry, prompt) {
    if (this.#open || !entry?.id) return;
    const field = entry.edit(prompt ?? this.#composer.edits.read(entry.id));
    this.#modules.composer.fit(field);
    field.focus();
  }

  #leaveEditor(entry) {
    this.#composer.edits.write(entry.id, "");
    entry.leaveEditor();
    entry.focus("edit");
  }

  #inputInEditor({ target }) {
    const entry = target.closest(".cs-editor") && this.#transcript.of(target);
    if (entry) this.#composer.edits.write(entry.id, target.value);
  }

  async #editLast() {
    const entry = this.#transcript.entries.findLast((entry) => entry.isUser);
    if (entry && !entry.id) await this.sync(); // its id is not known yet
    this.#edit(entry);
  }

  #submitEdited(event) {
    event.preventDefault();
    const prompt = event.target.elements.prompt.value;
    if (prompt.trim()) this.#resend(this.#transcript.of(event.target), prompt);
  }

  #keyInEditor(event) {
    const form = event.target.closest(".cs-editor");
    if (!form || this.#modules.composer.isComposing(event)) return;
    if (event.key === "Escape") {
      event.stopPropagation(); // it is Stop elsewhere
      this.#leaveEditor(this.#transcript.of(form));
    }
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    form.requestSubmit();
  }

  /** Say something else instead of an earlier message, which is kept as a sibling. */
  async #resend(entry, prompt) {
    if (this.#open) return;
    const entries = this.#transcript.entries;
    const answer = this.#entries.answer();
    this.#transcript.show([...this.#transcript.before(entry), this.#entries.user(prompt), answer]);
    entry.leaveEditor();
    this.#composer.focus();
    const asked = { action: "edit", message: entry.id, prompt, ...this.#provider() };
    if (await this.#answer(answer, "", () => asked, entry.id)) return;
    this.#transcript.show(entries);
    this.#edit(entry, prompt); // nothing is lost
    await this.sync();
  }

  async #switch(entry, step) {
    const leaf = entry.sibling(step);
    if (this.#open || !leaf) return;
    await this.#tryTo("PATCH", `conversations/${this.conversation}/`, { leaf });
    await this.sync();
    const shown = this.#transcript.entries.find(({ id }) => id === leaf);
    shown?.focus(shown.sibling(step) ? TO[step] : TO[-step]);
  }

  async #copy(entry, button) {
    const { copy, copied } = this.#config.words;
    await this.#modules.entries.copyText(entry.text);
    this.#status.announce(copied);
    button.dataset.done = "";
    button.setAttribute("aria-label", copied);
    setTimeout(() => {
      delete button.dataset.done;
      button.setAttribute("aria-label", copy);
    }, 2_000);
  }

  async #stop() {
    if (!this.#open) return;
    this.#open.isStopped = true; // if there is no run yet, it is stopped when there is one
    try {
      await this.#open.run?.stop();
    } catch (problem) {
      this.#status.refuse(problem); // the answer goes on, and so do we
    }
  }

  // Answers --------------------------------------------------------------------------------------

  /**
   * Start a run by what `ask` returns, and show it in `answer`, after its first `text`; `edited` is
   * the id of a message that it edits. Return false if the server refused it, or could not be
   * reached.
   */
  async #answer(answer, text, ask, edited = null) {
    const open = this.#begin(answer, text);
    open.edited = edited;
    try {
      open.run = this.#chat.start(await ask());
      if (open.isStopped) this.#stop();
    } catch (problem) {
      this.#close(open);
      this.#status.refuse(problem);
      return false;
    }
    return this.#read(open, performance.now());
  }

  /** Follow an answer that began before this page did, or in another tab. */
  #follow(answer, id, text) {
    const open = this.#begin(answer, text);
    open.run = this.#chat.follow(id);
    return this.#read(open, null);
  }

  /** Go on with the answer that the page let go of. */
  #resume({ answer, run, seq, text }) {
    this.#left = null;
    const open = (this.#open = { answer, run: null, hasWords: Boolean(answer.text) });
    open.run = this.#chat.follow(run, { after: seq, text });
    return this.#read(open, null);
  }

  #begin(answer, text) {
    const open = (this.#open = { answer, run: null, hasWords: false });
    this.#status.quiet();
    answer.begin(text);
    this.#go(open, "connecting");
    open.timer = setTimeout(() => {
      if (this.#status.state !== "connecting") return;
      answer.say("connecting", this.#config.words.still);
      this.#status.announce(this.#config.words.still);
    }, LONG_WAIT);
    return open;
  }

  #close(open) {
    clearTimeout(open.timer);
    this.#open = null;
  }

  async #read(open, startedAt) {
    try {
      return await this.#readToEnd(open, startedAt);
    } catch (problem) {
      this.#break(open, problem);
      return true; // the server has it
    }
  }

  /** A bug of ours ended the reading: say so, and how to see the answer. */
  #break(open, problem) {
    if (problem) reportError(problem);
    open.run.detach();
    open.answer.say("failed", "");
    this.#close(open);
    const text = this.#config.words.show_it;
    this.#status.say("failed", undefined, { text, href: this.#link(this.conversation) });
  }

  async #readToEnd(open, startedAt) {
    let firstWordMs = null;
    for await (const event of open.run) {
      if (startedAt !== null && event.type === "text") firstWordMs ??= performance.now() - startedAt;
      this.#take(open, event);
      this.#emit(open.run, event);
    }
    const end = await open.run.ended;
    this.#close(open);
    if (end.outcome === "detached") {
      const isMeant = this.#signal.aborted || this.#left?.run === open.run.id;
      if (!isMeant) this.#break(open, null);
      return true;
    }
    if (end.outcome === "refused" || end.outcome === "lost") {
      this.#status.refuse(end.error);
      return open.run.id !== null;
    }
    this.#end(open, { ...end, firstWordMs });
    return true;
  }

  #take(open, event) {
    const { type, state } = event;
    if (type === "created") this.#taken(open, event);
    if (type === "state" && state === "reconnecting") this.#go(open, state);
    if (type === "state" && state === "streaming") this.#go(open, open.hasWords ? state : "connecting");
    open.answer.take(event);
    if (open.hasWords || !["text", "reasoning"].includes(type)) return;
    open.hasWords = true;
    this.#go(open, "streaming");
  }

  /** The server has the prompt: it is not lost any more. */
  #taken(open, { message, conversation }) {
    open.answer.id = message;
    this.#composer.taken();
    if (open.edited) this.#composer.edits.write(open.edited, "");
    this.#channel.postMessage({ conversation });
    this.sync();
  }

  #go(open, state) {
    if (this.#status.state === state) return;
    const { words, states } = this.#config;
    open.answer.say(state);
    this.#status.enter(state);
    this.#status.announce(state === "streaming" ? words.started : states[state].words);
  }

  #end({ answer, run }, end) {
    // A continued answer has more than its last run brought.
    const told = answer.end({ ...end, run: run.id, text: answer.text });
    this.#status.enter(told.state);
    this.#status.announce(told.state === "done" ? this.#config.words.complete : told.words);
    this.sync();
  }

  #emit(run, event) {
    const detail = { run: run.id, event };
    this.#root.dispatchEvent(new CustomEvent("chatstream:event", { detail, bubbles: true }));
  }

  // What the server says -------------------------------------------------------------------------

  /** Ask the server for the conversation, and show what it says. */
  async sync(attempt = 0) {
    if (!this.conversation || this.#isAsking) return;
    const sync = ++this.#syncs;
    const isLatest = () => sync === this.#syncs && !this.#isAsking && !this.#signal.aborted;
    try {
      const data = await this.#chat.call("GET", `conversations/${this.conversation}/`);
      if (!isLatest()) return;
      if (attempt) this.#calmDown();
      this.#show(data, isLatest);
    } catch (problem) {
      if (isLatest()) this.#syncLater(problem, attempt, isLatest);
    }
  }

  /** Say why it did not work, and try again if that may help. */
  #syncLater(problem, attempt, isLatest) {
    // While an answer is followed, that says how it is going.
    if (!this.#open && !attempt) this.#status.refuse(problem);
    const again = () => isLatest() && !document.hidden && this.sync(attempt + 1);
    if (problem.retryable) setTimeout(again, this.#modules.client.backoff(attempt));
  }

  #calmDown() {
    if (this.#open || this.#status.state !== "refused") return;
    this.#status.quiet();
    this.#status.enter("idle");
  }

  /** Whether the server may not know yet what is on the page. */
  get #isAsking() {
    return Boolean(this.#open && !this.#open.answer.id);
  }

  #show({ messages, ...conversation }, isLatest) {
    this.#title(conversation.title);
    if (messages.length) this.#sidebar?.show(conversation);
    const entries = messages.map((message) => this.#transcript.entryOf(message));
    this.#transcript.show(entries);
    this.#updateAll(entries, messages, isLatest);
    this.#openEditors(entries);
  }

  /** The newest first, and the page breathes in between: a long conversation is there at once. */
  #updateAll(entries, messages, isLatest, end = entries.length) {
    const until = performance.now() + LONGEST_TASK;
    for (let at = end - 1; at >= 0; at--) {
      this.#update(entries[at], messages[at]);
      if (performance.now() < until) continue;
      setTimeout(() => isLatest() && this.#updateAll(entries, messages, isLatest, at));
      return;
    }
  }

  /** Let what was typed there before a reload, or before signing in, be edited again. */
  #openEditors(entries) {
    for (const entry of entries) {
      const kept = entry.isUser && !entry.editor && this.#composer.edits.read(entry.id);
      if (kept) this.#modules.composer.fit(entry.edit(kept));
    }
  }

  #update(entry, { content, siblings, run }) {
    entry.showSiblings(siblings);
    if (entry.isUser || entry === this.#open?.answer) return;
    if (run && !run.outcome) {
      if (!this.#open && entry.ended !== run.id) this.#follow(entry, run.id, content);
    } else if (entry.ended !== (run?.id ?? "") || entry.text !== content) {
      entry.show(content, endOf(run, content));
    }
  }

  #title(title) {
    const told = title || this.#config.words.untitled;
    const link = this.#part("export");
    this.#part("title").textContent = told;
    if (document.body.classList.contains("cs-page")) document.title = told;
    link.hidden = !this.conversation;
    link.href = `${this.#root.dataset.api}conversations/${this.conversation}/export/`;
  }

  /** Return the server's answer; undefined if it refused, which the page then says. */
  async #tryTo(method, path, body) {
    try {
      return await this.#chat.call(method, path, body);
    } catch (problem) {
      this.#status.refuse(problem);
      return undefined;
    }
  }

  // Other tabs, hidden pages, networks that come and go ------------------------------------------

  #hear({ conversation }) {
    // A hidden tab asks when it is shown.
    if (conversation === this.conversation && !document.hidden) this.sync();
  }

  #turnVisible() {
    if (!document.hidden) this.#comeBack();
    else if (this.#root.dataset.onDisconnect === "finish") this.#letGo();
  }

  /** A hidden page needs no connection: the server goes on, and a browser has six for a host. */
  #letGo() {
    const run = this.#open?.run;
    if (!run?.id) return;
    this.#left = { answer: this.#open.answer, run: run.id, seq: run.seq, text: run.text };
    run.detach();
  }

  async #comeBack() {
    if (this.#left) this.#resume(this.#left);
    if (this.#status.state === "signed_out" && !(await this.#isSignedIn())) return;
    await this.sync();
  }

  async #isSignedIn() {
    try {
      await this.#chat.call("GET", "conversations/");
    } catch {
      return false;
    }
    if (this.#root.dataset.signedIn !== "yes") location.reload(); // it was made for a stranger
    this.#status.quiet();
    this.#status.enter("idle");
    return true;
  }

  #goOffline() {
    if (this.#open) this.#go(this.#open, "reconnecting");
    else this.#status.say("offline");
  }

  #goOnline() {
    const { run, hasWords } = this.#open ?? {};
    // Its connection outlived that: the run has nothing new to tell.
    if (run?.state === "streaming") this.#go(this.#open, hasWords ? "streaming" : "connecting");
    if (this.#status.state !== "offline") return;
    this.#status.quiet();
    this.#status.enter("idle");
    this.sync();
  }
}

/** What tells other tabs; without effect where the browser has none, or allows none. */
function openChannel() {
  try {
    return new BroadcastChannel("chatstream");
  } catch {
    return Object.assign(new EventTarget(), { postMessage() {}, close() {} });
  }
}

/** Return the language of the words; a site's own code may be none that browsers know. */
function languageOf({ lang }) {
  try {
    return Intl.getCanonicalLocales(lang)[0];
  } catch {
    return "en";
  }
}

const addressOf = ({ pathname, search }) => pathname + search;

/** Return the end that a message's run tells; an answer whose run is gone counts as done. */
function endOf(run, text) {
  const told = { outcome: "completed", error: null, usage: null, text, run: "", firstWordMs: null };
  if (!run) return told;
  const { id, outcome, error, usage, created_at: asked, first_text_at: first } = run;
  const firstWordMs = asked && first ? Date.parse(first) - Date.parse(asked) : null;
  return { ...told, run: id, outcome, error, usage, firstWordMs };
}

customElements.define("chatstream-chat", ChatElement);
