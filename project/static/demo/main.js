/** The demo page: wires the forms to the conversation. */

import { createChat, endOfStatus } from "../chatstream/chatstream.js";
import { ask as askInFourLines } from "./smallest.js";
import { createTalk } from "./talk.js";
import { createTurn } from "./turn.js";

const byId = (id) => document.getElementById(id);
const NEAR_END = 120; // pixels: closer than this, the page follows the answer

function startChat() {
  const form = byId("composer");
  const box = byId("prompt");
  const transcript = byId("transcript");
  const chat = createChat(new URL("..", form.action), { patience: 10_000 }); // action: …/runs/
  const talk = createTalk(chat);
  let isReady = false; // what was said before is shown
  let open = null; // { turn, run } of the open answer, run as a promise

  function send(prompt) {
    if (isReady && !open && prompt.trim()) answer(addTurn(prompt), () => talk.send(prompt));
  }

  function addTurn(prompt) {
    const turn = createTurn(prompt);
    byId("welcome").hidden = true;
    // Asking again further up would leave out what was said since.
    for (const button of transcript.querySelectorAll(".foot button")) button.remove();
    transcript.append(turn.element);
    return turn;
  }

  /** Show the run that `begin` brings to its end. `message` is the answer's, where it has one. */
  async function answer(turn, begin, message = null) {
    if (open) return;
    open = { turn, run: begin() };
    byId("announcer").textContent = "The model is answering.";
    showState();
    keepEnd(() => turn.begin(), true);
    const { end, measured, run } = await show(turn, open.run);
    open = null;
    showState();
    const again = () => answer(turn, nextTry(begin, end, run, message), run?.message ?? message);
    keepEnd(() => {
      byId("announcer").textContent = turn.end(end, measured, again);
    });
  }

  function nextTry(begin, end, run, message) {
    const answered = run?.message ?? message;
    if (answered) return () => talk.regenerate(answered);
    return end.outcome === "lost" && run ? () => talk.repeat(run.request) : begin;
  }

  async function show(turn, opening) {
    const measured = { firstWordMs: null, tokens: null };
    const started = performance.now();
    let run;
    try {
      run = await opening;
    } catch (error) {
      // No conversation, and so no run.
      return { end: { outcome: error.status ? "refused" : "lost", error }, measured, run: null };
    }
    for await (const event of run) {
      // A run that began before this page did says nothing about its first word.
      if (event.type === "text" && run.request) measured.firstWordMs ??= performance.now() - started;
      keepEnd(() => turn.take(event));
    }
    const end = await run.ended;
    measured.tokens = end.usage?.completion_tokens ?? null;
    return { end, measured, run };
  }

  function stop() {
    const { turn, run } = open;
    turn.say("stopping");
    run.then((run) => run.stop()).catch(() => turn.say("streaming")); // it goes on, and so do we
  }

  /** Show what was said before, and go on with an answer that is still open. */
  async function restore() {
    let turn = null;
    for (const { role, content, run, id } of await talk.load()) {
      if (role === "user") turn = addTurn(content);
      else if (turn && run && !run.outcome) answer(turn, () => talk.follow(run.id), id);
      else if (turn) showSaved(turn, content, run, id);
    }
  }

  function showSaved(turn, text, run, message) {
    const gone = { outcome: "failed", error: { code: "expired", retryable: false } };
    const end = run ? endOfStatus({ ...run, text }) : gone;
    const measured = { firstWordMs: null, tokens: end.usage?.completion_tokens ?? null };
    turn.write(text);
    turn.end(end, measured, () => answer(turn, () => talk.regenerate(message), message));
  }

  function showState() {
    const hadFocus = [byId("send"), byId("stop")].includes(document.activeElement);
    byId("send").hidden = Boolean(open);
    byId("stop").hidden = !open;
    if (hadFocus) box.focus();
  }

  /** Change the transcript; keep its end in view, unless the reader has scrolled away. */
  function keepEnd(change, always = false) {
    const limit = () => form.getBoundingClientRect().top;
    const isAtEnd = always || transcript.getBoundingClientRect().bottom < limit() + NEAR_END;
    change();
    const hidden = transcript.getBoundingClientRect().bottom - limit();
    if (isAtEnd && hidden > 0) window.scrollBy(0, hidden);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!isReady || open) return;
    const prompt = box.value;
    box.value = ""; // first: a tall box takes room that the transcript is scrolled by
    send(prompt);
    box.focus();
  });
  box.addEventListener("keydown", (event) => {
    // While an input method composes, Enter picks a character. (229: Safari's late one.)
    const isComposing = event.isComposing || event.keyCode === 229;
    if (event.key !== "Enter" || event.shiftKey || isComposing) return;
    event.preventDefault();
    if (box.value.trim()) form.requestSubmit();
  });
  byId("stop").addEventListener("click", () => open && stop());
  byId("suggestions").addEventListener("click", ({ target }) => {
    if (target instanceof HTMLButtonElement) {
      send(target.textContent);
      box.focus();
    }
  });
  byId("new-chat").addEventListener("click", () => {
    talk.forget();
    location.reload(); // the server goes on with what is open
  });
  restore().finally(() => {
    isReady = true;
  });
}

function startSmallest() {
  const form = byId("try");
  const output = byId("try-output");
  const line = byId("try-ending");
  const button = form.querySelector("button");

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    button.disabled = true;
    output.textContent = line.textContent = "";
    line.dataset.tone = "";
    const write = (text) => output.append(text);
    askInFourLines(form.elements.prompt.value, write, ({ done, error }) => {
      button.disabled = false;
      line.dataset.tone = done ? "good" : "bad";
      const words = document.createElement("strong");
      words.textContent = done ? "Done" : (error?.message ?? "Connection lost");
      line.replaceChildren(words);
    });
  });
}

startChat();
startSmallest();
