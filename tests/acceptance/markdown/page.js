// What the tests call. `caught` is what must never happen: a script that ran, a refusal of the policy.

const MODULE = "/chatstream/chatstream-markdown.js";
const HIGHLIGHTER = "/chatstream/vendor/highlight.min.js";
const TAGS = new Set(
  ("A BLOCKQUOTE BR BUTTON CODE DEL DIV EM H3 H4 H5 H6 HR INPUT LI OL P PRE SECTION SPAN STRONG SUP " +
    "TABLE TBODY TD TH THEAD TR UL").split(" "),
);
const ATTRIBUTES = new Set(
  ("align aria-describedby aria-label checked class data-note dir disabled href id rel role start " +
    "tabindex target title type").split(" "),
);
const ADDRESS = /^(https?:\/\/|mailto:|#cs-[\d-]+-fn)/;

window.caught = [];
for (const name of ["alert", "confirm", "prompt", "print", "open", "pwn"])
  window[name] = (...given) => window.caught.push(`${name}(${given})`);
addEventListener("securitypolicyviolation", ({ violatedDirective, sample }) =>
  window.caught.push(`${violatedDirective}: ${sample}`),
);

const WORDS = {
  copy: "Copy",
  copied: "Copied",
  image: "Image",
  code: "Code",
  table: "Table",
  taskDone: "Done",
  taskOpen: "To do",
  footnotes: "Footnotes",
  footnoteBack: "Back to reference",
};

const main = document.querySelector("main");

/** Return a new element on the page, the only one. */
function fresh() {
  const element = document.createElement("div");
  main.replaceChildren(element);
  return element;
}

/** Return what is not allowed among what an answer became. */
function findings(element) {
  const found = [];
  for (const node of element.querySelectorAll("*")) {
    if (!TAGS.has(node.tagName)) found.push(node.outerHTML);
    for (const { name, value } of node.attributes)
      if (!ATTRIBUTES.has(name) || (name === "href" && !ADDRESS.test(value))) found.push(node.outerHTML);
    if (node.target && node.rel !== "noopener nofollow") found.push(node.outerHTML);
  }
  return found;
}

/** Return an answer's HTML; ids, which no two answers share, and the order of attributes made equal. */
function htmlOf(element) {
  const copy = element.cloneNode(true);
  for (const node of copy.querySelectorAll("*")) {
    const attributes = [...node.attributes].sort((a, b) => (a.name < b.name ? -1 : 1));
    for (const { name } of attributes) node.removeAttribute(name);
    for (const { name, value } of attributes) node.setAttribute(name, value);
  }
  return copy.innerHTML.replaceAll(/cs-\d+-\d+-fn/g, "cs-fn");
}

/** Stream `pieces`, each of them rendered; return the HTML that they end in. */
async function streamed(pieces, check = () => {}) {
  const element = fresh();
  const answer = markdown.stream(element);
  for (const piece of pieces) {
    answer.append(piece);
    answer.flush();
    check(element);
  }
  await answer.end();
  check(element);
  answer.destroy();
  return htmlOf(element);
}

/** Render `text` at once; return its HTML. */
async function rendered(text) {
  const element = fresh();
  await markdown.render(element, text).end();
  return htmlOf(element);
}

/** Return what is wrong with `text` when it comes whole, letter by letter, and split at each place. */
async function attack(text, { isSplit }) {
  const found = new Set();
  const check = (element) => findings(element).forEach((finding) => found.add(finding));
  const whole = await streamed([text], check);
  const ways = [[...text]];
  for (let at = 1; isSplit && at < text.length; at++) ways.push([text.slice(0, at), text.slice(at)]);
  for (const pieces of ways)
    if ((await streamed(pieces, check)) !== whole) found.add(`differs: ${JSON.stringify(pieces)}`);
  return [...found, ...window.caught.splice(0)];
}

/** Return the pieces of a text that end at `cuts`, ascending. */
function pieces(text, cuts) {
  return [...cuts, text.length].map((end, index) => text.slice(cuts[index - 1] ?? 0, end));
}

/** Add to the answer that the test streams, and show it. */
function add(text) {
  window.answer.append(text);
  window.answer.flush();
}

const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));

/** Let the page do what else there is to do; timers come late. */
const turn = () =>
  new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = resolve;
    port2.postMessage(null);
  });

/** Load what is tested, once. */
async function load() {
  const { createMarkdown } = await import(MODULE);
  window.markdown = createMarkdown({
    marked: window.marked,
    DOMPurify: window.DOMPurify,
    markedFootnote: window.markedFootnote,
    loadHighlighter: async () => {
      window.loads = (window.loads ?? 0) + 1;
      return (await import(HIGHLIGHTER)).default;
    },
    words: WORDS,
  });
}

Object.assign(window, { add, fresh, streamed, rendered, attack, pieces, findings, frame, turn, main });
await load();
main.dataset.ready = "";
