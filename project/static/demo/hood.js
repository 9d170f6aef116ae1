/** Under the hood: the demo's drawer, which shows what the chat beside it does, and breaks it. */

import { askCommand, resumeCommand } from "./curl.js";
import { createLog } from "./log.js";
import { createPlots } from "./plots.js";
import { ask as askInFourLines } from "./smallest.js";
import { createTail } from "./tail.js";

const STORED = "demo-hood"; // whether the drawer is open, in this tab
const byId = (id) => document.getElementById(id);

/** Show what the chat's runs do: their bytes, their speed, their `curl`. */
function startLooking(chat) {
  const api = new URL(chat.dataset.api, document.baseURI);
  const log = createLog(byId("log"));
  const tail = createTail(api, log.add);
  const plots = createPlots({ first: plotAt("first"), rate: plotAt("rate") });
  let run = ""; // the newest one's id

  // Read beside the chat only while somebody looks: a browser has six connections for a host.
  const drawer = createDrawer(() => {
    if (!drawer.isOpen) tail.stop();
    else if (run) tail.follow(run);
  });
  const showResume = () => {
    byId("curl-resume").textContent = resumeCommand(api, run || "RUN", Math.floor(tail.at / 2));
  };

  chat.addEventListener("chatstream:event", ({ detail: { event, run: id } }) => {
    if (event.type === "state" && event.state === "connecting") log.restart();
    plots.take(event);
    if (describe(event)) log.add("client", describe(event));
    if (event.type === "end") setTimeout(showResume, 500); // the last frames are being read
    if (!id || id === run) return;
    run = id;
    byId("curl-ask").textContent = askCommand(api, lastPrompt(chat));
    showResume();
    if (drawer.isOpen) tail.follow(run);
  });
  byId("log-clear").addEventListener("click", log.clear);
  byId("curl-ask").textContent = askCommand(api, "Why is the sky blue?");
  showResume();
}

/** Return what our client saw, in a line; "" for what the bytes show better. */
function describe({ type, state, id, outcome, error }) {
  if (type === "state") return `state: ${state}`;
  if (type === "created") return `created: run ${id}`;
  if (type === "end") return `end: ${outcome}${error ? ` (${error.code})` : ""}`;
  return "";
}

function lastPrompt(chat) {
  const turns = chat.querySelectorAll(".cs-user [data-part='text']");
  return turns[turns.length - 1]?.textContent ?? "";
}

function plotAt(name) {
  const [svg, figure, note] = ["plot", "figure", "note"].map((part) => byId(`${part}-${name}`));
  return { svg, figure, note };
}

// The drawer ---------------------------------------------------------------------------------------

function createDrawer(onChange) {
  const drawer = byId("hood");
  const button = byId("hood-button");

  function show(isOpen) {
    drawer.hidden = !isOpen;
    button.setAttribute("aria-expanded", isOpen);
    sessionStorage.setItem(STORED, isOpen ? "open" : "");
    onChange();
  }

  function close() {
    show(false);
    button.focus();
  }

  button.addEventListener("click", () => {
    show(drawer.hidden);
    if (!drawer.hidden) byId("hood-title").focus({ preventScroll: true });
  });
  byId("hood-close").addEventListener("click", close);
  drawer.addEventListener("keydown", (event) => event.key === "Escape" && close());
  if (sessionStorage.getItem(STORED)) queueMicrotask(() => show(true));
  return {
    get isOpen() {
      return !drawer.hidden;
    },
  };
}

// The switches ---------------------------------------------------------------------------------------

function startSwitches(chat) {
  const form = byId("switches");
  const line = byId("switches-line");
  const isAnswering = () => ["connecting", "streaming", "reconnecting"].includes(chat.dataset.state);
  let wasCut = false;

  async function post(url) {
    const init = { method: "POST", body: new FormData(form) };
    const isTaken = await fetch(url, init).then(({ ok }) => ok, () => false);
    if (!isTaken) line.textContent = "The server did not take this. Reload the page, and try again.";
  }

  form.addEventListener("change", ({ target }) => {
    post(form.action);
    const on = target.checked ? target : form.querySelector(":checked");
    line.textContent = line.dataset[on?.name ?? "well"];
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    post(byId("cut").formAction);
    wasCut = isAnswering();
    line.textContent = wasCut ? line.dataset.cut : line.dataset.idle;
  });
  chat.addEventListener("chatstream:event", ({ detail: { event } }) => {
    if (!wasCut || event.type !== "state" || event.state !== "streaming") return;
    wasCut = false;
    line.textContent = line.dataset.back;
  });
}

// Commands to copy -----------------------------------------------------------------------------------

function startCopying() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", () => copy(byId(button.dataset.copy), button));
  }
}

async function copy(source, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), 2_000);
  } catch {
    getSelection().selectAllChildren(source); // over plain HTTP: at least it is one key away
  }
}

// The smallest client --------------------------------------------------------------------------------

function startSmallest() {
  const form = byId("try");
  const output = byId("try-output");
  const ending = byId("try-ending");
  const button = form.querySelector("button");

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    button.disabled = true;
    output.textContent = ending.textContent = "";
    const write = (text) => output.append(text);
    askInFourLines(form.elements.prompt.value, write, ({ done, error }) => {
      button.disabled = false;
      ending.dataset.tone = done ? "good" : "bad";
      ending.textContent = done ? "Done" : (error?.message ?? "Connection lost");
    });
  });
}

const chat = document.querySelector("chatstream-chat");
startLooking(chat);
startSwitches(chat);
startCopying();
startSmallest();
