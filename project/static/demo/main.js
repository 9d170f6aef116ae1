/** The demo page: wires the forms to the streams. */

import { ask as askInFourLines } from "./smallest.js";
import { ask } from "./streams.js";
import { createTurn } from "./turn.js";

const byId = (id) => document.getElementById(id);
const NEAR_END = 120; // pixels: closer than this, the page follows the answer

function startChat() {
  const form = byId("composer");
  const box = byId("prompt");
  const transcript = byId("transcript");
  let stop = null; // stops the open answer; null when there is none

  function send(prompt) {
    if (stop || !prompt.trim()) return;
    const turn = createTurn(prompt);
    const measured = { firstWordMs: null, tokens: null };
    const started = performance.now();
    byId("welcome").hidden = true;
    transcript.append(turn.element);
    byId("announcer").textContent = "The model is answering.";
    follow(() => {}, true);
    stop = ask(form.getAttribute("action"), prompt, form.elements.csrfmiddlewaretoken.value, {
      text(piece) {
        measured.firstWordMs ??= performance.now() - started;
        follow(() => turn.write(piece));
      },
      event(name, data) {
        if (name === "reasoning") follow(() => turn.think(data.text));
        if (name === "finish") measured.tokens = data.usage?.completion_tokens ?? null;
      },
      end(ending) {
        stop = null;
        showState();
        follow(() => {
          byId("announcer").textContent = turn.end(ending, measured, () => send(prompt));
        });
      },
    });
    showState();
  }

  function showState() {
    const hadFocus = [byId("send"), byId("stop")].includes(document.activeElement);
    byId("send").hidden = Boolean(stop);
    byId("stop").hidden = !stop;
    if (hadFocus) box.focus();
  }

  /** Change the transcript; keep its end in view, unless the reader has scrolled away. */
  function follow(change, always = false) {
    const limit = () => form.getBoundingClientRect().top;
    const isAtEnd = always || transcript.getBoundingClientRect().bottom < limit() + NEAR_END;
    change();
    const hidden = transcript.getBoundingClientRect().bottom - limit();
    if (isAtEnd && hidden > 0) window.scrollBy(0, hidden);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (stop) return;
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
  byId("stop").addEventListener("click", () => stop?.());
  byId("suggestions").addEventListener("click", ({ target }) => {
    if (target instanceof HTMLButtonElement) {
      send(target.textContent);
      box.focus();
    }
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
