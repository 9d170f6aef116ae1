/**
 * The sidebar: the history by date, rename, delete, older pages, and the drawer that it is on
 * narrow screens. Its markup is in the page's <template> elements. Loaded by `chatstream-ui.js`; no
 * static imports.
 */

const DAYS = ["today", "yesterday", "week", "month", "older"];
const DAY = 86_400_000; // milliseconds
const MAX_TITLE = 200; // characters that the server takes

const part = (element, name) => element.querySelector(`[data-part="${name}"]`);
const action = (element, name) => element.querySelector(`[data-action="${name}"]`);

/** Whether an input method is at work: Enter and Escape are its own. (229: Safari's late one.) */
const isComposing = (event) => event.isComposing || event.keyCode === 229;

/** Return which of DAYS the time belongs to, as the reader's calendar has it. */
export function dayOf(time, now = new Date()) {
  const midnight = (date) => new Date(date.getFullYear(), date.getMonth(), date.getDate());
  // Rounded, for a day of the change to summer time has 23 hours.
  const days = Math.round((midnight(now) - midnight(new Date(time))) / DAY);
  if (days <= 0) return "today";
  if (days === 1) return "yesterday";
  if (days < 7) return "week";
  return days < 30 ? "month" : "older";
}

/**
 * Return the sidebar in `root`: `{ show, open, close }`. `chat.call` is that of `createChat`;
 * `link(id)` is a conversation's URL, `current()` the id of the one that is shown. What the reader
 * does there is told to `onRenamed(id, title)` and `onDeleted(id)`; what the server refuses to
 * `onError(problem)`. `signal` ends it all.
 */
export function createSidebar({ root, signal, ...given }) {
  const history = createHistory({ root, ...given });
  const { open, close } = createDrawer(root, part(root, "sidebar"), signal);
  return { show: history.show, open, close };
}

// The history --------------------------------------------------------------------------------------

function createHistory({ root, chat, words, link, current, ...told }) {
  const { onRenamed, onDeleted, onError } = told;
  const history = part(root, "history");
  const times = new Map(); // when a conversation was last changed, by its id
  const confirmDelete = createConfirmation(part(root, "delete-dialog"));
  const lineOf = (id) => history.querySelector(`[data-id="${CSS.escape(id)}"]`);
  const titleOf = (line) => part(line, "link").textContent;

  function setTitle(line, title) {
    part(line, "link").textContent = title || words.untitled;
    part(line, "link").title = title;
    for (const name of ["rename", "delete"]) describe(action(line, name), titleOf(line));
  }

  function make({ id, title }) {
    const line = made(root, "conversation");
    line.dataset.id = id;
    part(line, "link").href = link(id);
    setTitle(line, title);
    return line;
  }

  /** Do what the server may refuse; return whether it was done. */
  async function attempt(...request) {
    try {
      await chat.call(...request);
      return true;
    } catch (problem) {
      if (!problem.code) throw problem;
      onError?.(problem);
      return false;
    }
  }

  async function rename(line) {
    const { id } = line.dataset;
    const before = titleOf(line);
    const title = await askTitle(line, action(line, "rename").title);
    if (!title || title === before) return;
    setTitle(line, title);
    if (await attempt("PATCH", `conversations/${id}/`, { title })) onRenamed?.(id, title);
    else setTitle(line, before);
  }

  async function remove(line) {
    const { id } = line.dataset;
    if (!(await confirmDelete(titleOf(line)))) return;
    if (!(await attempt("DELETE", `conversations/${id}/`))) return;
    const lines = [...history.querySelectorAll("[data-id]")];
    const neighbour = lines[lines.indexOf(line) + 1] ?? lines[lines.indexOf(line) - 1];
    drop(line);
    (neighbour ? part(neighbour, "link") : root.querySelector(".cs-new")).focus();
    onDeleted?.(id);
  }

  function addPage(results) {
    const lines = [];
    for (const { id, title, leaf, updated_at: time } of results) {
      if (!leaf || lineOf(id)) continue; // without a message, or moved up since
      lines.push(make({ id, title }));
      groupOf(history, dayOf(time), words).append(lines.at(-1));
    }
    mark(current());
    return lines;
  }

  function mark(id) {
    history.querySelector("[aria-current]")?.removeAttribute("aria-current");
    const line = id && lineOf(id);
    if (line) part(line, "link").setAttribute("aria-current", "page");
  }

  history.addEventListener("click", ({ target }) => {
    const line = target.closest("[data-id]");
    if (!line) return;
    if (target.closest('[data-action="rename"]')) rename(line);
    else if (target.closest('[data-action="delete"]')) remove(line);
  });
  for (const line of history.querySelectorAll("[data-id]")) setTitle(line, titleOf(line));
  action(root, "more")?.addEventListener("click", createPager(chat, addPage, onError));

  /** Say that a conversation is shown. It goes to the top if it is new, or changed since. */
  function show({ id, title, updated_at: time }) {
    const known = lineOf(id);
    const line = known ?? make({ id, title });
    const isUnchanged = known && time && (times.get(id) ?? time) === time;
    times.set(id, time);
    if (title) setTitle(line, title);
    if (!isUnchanged) putFirst(line, groupOf(history, "today", words));
    mark(id);
  }

  return { show };
}

/** Say of which conversation a button is, once and again. */
function describe(button, title) {
  button.setAttribute("aria-label", `${button.title}: ${title}`);
}

function made(root, name) {
  const template = root.querySelector(`template[data-template="${name}"]`);
  return template.content.firstElementChild.cloneNode(true);
}

/** Return the list of a day, made where it belongs if there is none. */
function groupOf(history, day, words) {
  const sections = [...history.querySelectorAll(".cs-group")];
  const there = sections.find((section) => section.dataset.day === day);
  if (there) return there.querySelector("ul");
  const [section, label, list] = ["section", "p", "ul"].map((tag) => document.createElement(tag));
  section.className = "cs-group";
  section.dataset.day = day;
  label.className = "cs-day";
  label.textContent = words[day];
  section.append(label, list);
  const isLater = (other) => DAYS.indexOf(other.dataset.day) > DAYS.indexOf(day);
  history.insertBefore(section, sections.find(isLater) ?? null);
  return list;
}

function putFirst(line, list) {
  if (list.firstElementChild === line) return;
  const focused = line.contains(document.activeElement) && document.activeElement;
  const group = line.closest(".cs-group");
  list.prepend(line); // takes the focus from what is in it
  if (focused) focused.focus();
  if (group && !group.querySelector("[data-id]")) group.remove();
}

function drop(line) {
  const group = line.closest(".cs-group");
  line.remove();
  if (!group.querySelector("[data-id]")) group.remove();
}

/** Return what "Older conversations" does: it adds pages until there is one more to see. */
function createPager(chat, addPage, onError) {
  let isLoading = false;

  async function load(button) {
    for (let added = []; !added.length && button.dataset.next; ) {
      const { next, results } = await chat.call("GET", button.dataset.next);
      added = addPage(results);
      button.dataset.next = next ?? "";
      if (added.length) part(added[0], "link").focus();
    }
    button.hidden = !button.dataset.next;
  }

  return async ({ currentTarget: button }) => {
    if (isLoading) return;
    isLoading = true;
    button.setAttribute("aria-busy", "true");
    try {
      await load(button);
    } catch (problem) {
      if (!problem.code) throw problem;
      onError?.(problem);
    } finally {
      isLoading = false;
      button.removeAttribute("aria-busy");
    }
  };
}

/** Let a title be written in its place. Return it, stripped; "" for nothing to do. */
function askTitle(line, label) {
  const link = part(line, "link");
  const field = document.createElement("input");
  field.className = "cs-rename";
  field.dir = "auto";
  field.maxLength = MAX_TITLE;
  field.value = link.textContent;
  field.setAttribute("aria-label", label);
  link.hidden = true;
  link.after(field);
  field.select();
  return new Promise((resolve) => {
    const listening = new AbortController(); // leaving the field blurs it
    const { signal } = listening;
    const leave = (title) => {
      const hadFocus = field === document.activeElement;
      listening.abort();
      link.hidden = false;
      if (hadFocus) link.focus();
      field.remove();
      resolve(title);
    };
    const press = (event) => {
      if (isComposing(event)) return;
      event.stopPropagation(); // Escape is the answer's Stop elsewhere
      if (event.key === "Enter") leave(field.value.trim());
      if (event.key === "Escape") leave("");
    };
    field.addEventListener("blur", () => leave(field.value.trim()), { signal });
    field.addEventListener("keydown", press, { signal });
  });
}

/** Return a function that asks whether to delete the conversation of a title. */
function createConfirmation(dialog) {
  // Escape closes the dialog; it must not stop an answer, too.
  dialog.addEventListener("keydown", (event) => event.stopPropagation());
  return (title) =>
    new Promise((resolve) => {
      part(dialog, "delete-title").textContent = title;
      dialog.returnValue = "";
      const tell = () => resolve(dialog.returnValue === "delete");
      dialog.addEventListener("close", tell, { once: true });
      dialog.showModal();
    });
}

// The drawer ---------------------------------------------------------------------------------------

/** The stylesheet decides whether the sidebar is a drawer; what is behind an open one is inert. */
function createDrawer(root, sidebar, signal) {
  const menu = root.querySelector(".cs-menu");
  // Not the whole header: the page keeps its heading, and its words for screen readers.
  const behind = root.querySelectorAll(".cs-header > :is(button, a), .cs-scroll, .cs-foot");
  const isDrawer = () => getComputedStyle(sidebar).position === "absolute";
  const isOpen = () => root.dataset.drawer === "open";

  function set(open) {
    if (open) root.dataset.drawer = "open";
    else delete root.dataset.drawer;
    menu.setAttribute("aria-expanded", open);
    sidebar.inert = isDrawer() && !open;
    for (const element of behind) element.inert = open;
  }

  function open() {
    if (!isDrawer() || isOpen()) return;
    set(true);
    root.querySelector(".cs-new").focus();
  }

  function close() {
    if (!isOpen()) return;
    set(false);
    menu.focus();
  }

  root.addEventListener("click", ({ target }) => {
    if (target.closest('[data-action="menu"]')) (isOpen() ? close : open)();
    else if (isOpen() && !sidebar.contains(target) && !target.closest("dialog")) close();
  });
  const press = (event) => {
    if (event.key !== "Escape" || !isOpen() || isComposing(event)) return;
    if (event.target.closest?.("input, dialog")) return;
    event.stopPropagation();
    close();
  };
  // Before the composer hears it, for which Escape is Stop; and wherever the focus is.
  document.addEventListener("keydown", press, { capture: true, signal });
  const observer = new ResizeObserver(() => set(isOpen() && isDrawer()));
  observer.observe(root);
  signal.addEventListener("abort", () => observer.disconnect());
  set(false);
  return { open, close };
}
