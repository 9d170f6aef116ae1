/**
 * Render an answer's markdown while it streams: safe, fast, and to the same result as all at once.
 *
 *     const { createMarkdown } = await import(url);
 *     const markdown = createMarkdown({ marked, DOMPurify, markedFootnote, loadHighlighter });
 *     const answer = markdown.stream(element);
 *     for await (const { type, text } of run) if (type === "text") answer.append(text);
 *     answer.end();
 *
 * Blocks that no further line can change are rendered once; what follows them, the tail, is rendered
 * again once per frame, and the page is changed only where it differs. No element of the model's
 * making reaches the page: HTML in markdown is text, and what marked makes of the rest passes an
 * allow-list on its way. It needs no `innerHTML`, no inline style, and it loads nothing by itself.
 * `chatstream-markdown.d.ts` has the types.
 */

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
const SCHEMES = ["http:", "https:", "mailto:"];
const LONGEST_FRAME = 250; // milliseconds; a hidden page has no frames
const COPIED = 2_000;
const LONGEST_CODE = 100_000; // characters that are highlighted

const ALLOWED = {
  ALLOWED_TAGS: [
    ...["h1", "h2", "h3", "h4", "h5", "h6", "p", "hr", "br", "blockquote", "pre", "ul", "ol", "li"],
    ...["table", "thead", "tbody", "tr", "th", "td"],
    ...["a", "code", "del", "em", "span", "strong", "sup"],
  ],
  ALLOWED_ATTR: ["align", "class", "data-note", "href", "start", "title"],
  ADD_URI_SAFE_ATTR: ["align", "data-note", "start"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

/** Return what renders markdown; see the types for what it is given. */
export function createMarkdown({ marked, DOMPurify, markedFootnote, loadHighlighter, words }) {
  const kit = {
    words: { ...WORDS, ...words },
    sanitize: (html) => DOMPurify.sanitize(html, ALLOWED),
    prefersBlocks: matchMedia("(prefers-reduced-motion: reduce)"),
    highlighter: loadedOnce(loadHighlighter),
  };
  kit.grammar = createGrammar(marked, markedFootnote, kit.words);
  const stream = (element) => new Stream(element, kit);
  const render = (element, text) => {
    const whole = stream(element);
    whole.append(text);
    whole.end();
    return whole;
  };
  return { stream, render };
}

/** Return `{ value, load }`: `load` resolves to whether there is a value now, and may be tried again. */
function loadedOnce(load) {
  let loading = null;
  const held = { value: null };
  held.load = () => {
    loading ??= Promise.resolve(load?.()).then(
      (value) => Boolean((held.value = value)),
      () => Boolean((loading = null)), // without colours, code is code
    );
    return loading;
  };
  return held;
}

// Markdown to HTML ---------------------------------------------------------------------------------

const entity = (character) => `&#${character.charCodeAt(0)};`;
const escapeAll = (text) => text.replace(/[&<>"']/g, entity);
/** Escape a text whose entities marked has left in place. */
const escapeText = (text) => text.replace(/[<>"']|&(?!#\d{1,7};|#x[\da-f]{1,6};|\w+;)/gi, entity);

/** Return the address in the form that a browser makes of it; null if a link must not have it. */
function safeUrl(href) {
  const url = URL.canParse(href) ? new URL(href) : null;
  return url && SCHEMES.includes(url.protocol) ? url.href : null;
}

const withoutLinks = (html) => html.replace(/<\/?a\b[^>]*>/g, ""); // our own: `>` is escaped within

function anchor(href, title, html) {
  const url = safeUrl(href);
  if (!url) return html;
  const hint = title ? ` title="${escapeText(title)}"` : "";
  return `<a href="${escapeText(url)}"${hint}>${withoutLinks(html)}</a>`;
}

const isFenced = (token) => token.type === "code" && token.codeBlockStyle !== "indented";
const isClosed = (raw) => /^ {0,3}(`{3,}(?!`)|~{3,}(?!~))[^\n]*\n(?:[^]*\n)? {0,3}\1[~`]* *\n*$/.test(raw);

function renderers(words) {
  return {
    heading({ tokens, depth }) {
      const level = Math.min(depth + 2, 6); // h1 and h2 are the page's own
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
    code(token) {
      const [language] = /^[^\s{:,]*/.exec(token.lang ?? "");
      const named = language ? `language-${escapeAll(language)}` : "cs-unnamed";
      const open = isFenced(token) && !isClosed(token.raw) ? " cs-open" : "";
      const code = escapeAll(token.text.replace(/\n$/, ""));
      return `<pre><code class="${named}${open}">${code}\n</code></pre>`;
    },
    html({ block, text }) {
      if (block) return `<p class="cs-html">${escapeAll(text.trim())}</p>`;
      // The one tag that models write where markdown has nothing: a line's end in a table cell.
      return /^<br *\/?>$/i.test(text) ? "<br>" : escapeAll(text);
    },
    text({ tokens, text }) {
      return tokens ? this.parser.parseInline(tokens) : escapeText(text);
    },
    link({ href, title, tokens }) {
      return anchor(href, title, this.parser.parseInline(tokens));
    },
    // An image's address is a way to tell others of the conversation: nothing loads unless clicked.
    image({ href, title, text }) {
      return anchor(href, title, escapeText(text || words.image));
    },
    listitem({ task, tokens }) {
      return `<li${task ? ' class="cs-task"' : ""}>${this.parser.parse(tokens)}</li>`;
    },
    checkbox({ checked }) {
      return `<span class="cs-check${checked ? " cs-checked" : ""}"></span> `;
    },
  };
}

/**
 * Where marked looks further than a reader of markdown would, and what it finds there would change a
 * block that has long been on the page.
 */
function tokenizers({ def }) {
  return {
    // It takes any number of lines into a label or a title; we take one.
    def(src) {
      return def.call(this, `${src.split("\n", 1)[0]}\n`);
    },
    // It makes a heading of blocks that had ended the paragraph above the line of dashes.
    lheading(src) {
      const { lheading, paragraph } = this.rules.block;
      const text = lheading.exec(src)?.[1];
      return text && paragraph.exec(src)[0].startsWith(text) ? false : undefined;
    },
    // What it takes for HTML depends on the block before.
    html() {
      this.lexer.state.lastToken = undefined;
      return false;
    },
  };
}

/** The blocks that a blank line ends, and those that end by themselves. */
const ENDED_BY_BLANK = ["paragraph", "table", "blockquote"];
const ENDED = ["heading", "hr", "def"];

function isEnded({ type, raw, ...token }, isBlankNext) {
  if (isFenced({ type, ...token }) && isClosed(raw)) return true;
  return ENDED.includes(type) || (isBlankNext && ENDED_BY_BLANK.includes(type));
}

/**
 * Return `{ split, compile }`. Pure: no document, and nothing is kept from call to call.
 *
 * `split(text, isWhole)` returns the sources of the blocks at the beginning of complete lines that no
 * further line can change; of all blocks if the text `isWhole`.
 * `compile(source)` returns `{ links, notes, render }`: the definitions in a block, and the function
 * `render(links, labels)`, which returns its HTML and sets `notes` to a Map of label to HTML.
 */
export function createGrammar(marked, markedFootnote, words = WORDS) {
  const footnotes = markedFootnote();
  const [definition, reference] = footnotes.extensions;
  const options = new marked.Marked({
    gfm: true,
    renderer: renderers(words),
    tokenizer: tokenizers(marked.Tokenizer.prototype),
    extensions: [
      definition,
      { ...reference, renderer: ({ label }) => `<sup><a data-note="${escapeAll(label)}"></a></sup>` },
      { name: "position", level: "block", tokenizer: notePosition },
    ],
  }).defaults;

  function lex(source) {
    const lexer = Object.assign(new marked.Lexer(options), { size: source.length, starts: [] });
    footnotes.walkTokens({}); // makes it forget the document before
    definition.tokenizer.call({ lexer }, ""); // its list of footnotes comes first
    lexer.blockTokens(source, lexer.tokens);
    return lexer;
  }

  function split(text, isWhole = false) {
    const { tokens, starts } = lex(text);
    const blocks = [...tokens.keys()].filter((at) => at && tokens[at].type !== "space");
    const sourceOf = (at, index) =>
      text.slice(index ? starts[at] : 0, starts[blocks[index + 1]] ?? text.length);
    const sources = blocks.map(sourceOf);
    if (isWhole || !blocks.length) return sources;
    const isBlankNext = tokens.at(-1).type === "space";
    return isEnded(tokens[blocks.at(-1)], isBlankNext) ? sources : sources.slice(0, -1);
  }

  function compile(source) {
    const lexer = lex(source);
    const notes = lexer.tokens[0].rawItems;
    const block = { links: { ...lexer.tokens.links }, notes: new Map() };
    for (const { label } of notes) block.notes.set(label, "");
    block.render = (links, labels) => {
      Object.assign(lexer.tokens.links, links);
      const rawItems = Array.from(labels, (label) => ({ label, refs: [] }));
      lexer.tokens[0] = { type: "space", raw: "", rawItems, items: [] }; // where references look
      for (const { src, tokens } of lexer.inlineQueue) lexer.inlineTokens(src, tokens);
      lexer.inlineQueue = [];
      const html = marked.Parser.parse(lexer.tokens, options);
      for (const { label, content } of [...notes].reverse())
        block.notes.set(label, marked.Parser.parse(content, options));
      return html;
    };
    return block;
  }

  return { split, compile };
}

/** Note where the next token begins: a token's `raw` does not always have the length of its source. */
function notePosition(rest, tokens) {
  const { lexer } = this;
  if (tokens === lexer.tokens) lexer.starts[tokens.length] = lexer.size - rest.length;
}

// HTML to the page ---------------------------------------------------------------------------------

function create(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const isBlank = (node) => node.nodeType === Node.TEXT_NODE && !node.data.trim();

/** Return the nodes of a block, with the parts that no allow-listed HTML can say. */
function build(html, { sanitize, words }) {
  if (!html) return [];
  const fragment = sanitize(html);
  for (const link of fragment.querySelectorAll("a[href]")) {
    link.rel = "noopener nofollow";
    link.target = "_blank";
  }
  for (const mark of fragment.querySelectorAll(".cs-check")) mark.replaceWith(checkbox(mark, words));
  for (const table of fragment.querySelectorAll("table")) wrapTable(table, words);
  for (const pre of fragment.querySelectorAll("pre")) wrapCode(pre, words);
  const nodes = [...fragment.childNodes].filter((node) => !isBlank(node));
  for (const node of nodes) node.dir ||= "auto";
  return nodes;
}

function checkbox({ classList }, { taskDone, taskOpen }) {
  const isDone = classList.contains("cs-checked");
  const box = create("input", { class: "cs-check", type: "checkbox", disabled: "" });
  box.toggleAttribute("checked", isDone);
  box.setAttribute("aria-label", isDone ? taskDone : taskOpen);
  return box;
}

/** What scrolls must be in reach of the keyboard, and then has a name. */
function scroller(label) {
  return { tabindex: "0", role: "group", "aria-label": label };
}

function wrapTable(table, words) {
  const wrapper = create("div", { class: "cs-table", ...scroller(words.table) });
  table.replaceWith(wrapper);
  wrapper.append(table);
}

function wrapCode(pre, words) {
  const code = pre.firstElementChild;
  const language = /^language-(.*)/.exec(code.classList[0])?.[1] ?? "";
  const button = create("button", { class: "cs-copy", type: "button" }, words.copy);
  const label = create("span", { class: "cs-code-lang" }, language);
  const head = create("div", { class: "cs-code-head" }, label, button);
  const wrapper = create("div", { class: "cs-code", dir: "ltr" }, head);
  for (const [key, value] of Object.entries(scroller(language || words.code)))
    pre.setAttribute(key, value);
  pre.replaceWith(wrapper);
  wrapper.append(pre);
}

/**
 * Make the nodes `olds` look like `news`, between `before` and what came ahead of them; return the
 * nodes that stand for `news`. What is alike stays: its scroll position, focus and selection too.
 */
function patch(parent, olds, news, before = null) {
  const nodes = news.map((node, at) => {
    if (at < olds.length) return patchNode(olds[at], node);
    return parent.insertBefore(node, before);
  });
  for (const node of olds.slice(news.length)) node.remove();
  return nodes;
}

function patchNode(old, node) {
  if (old.nodeName !== node.nodeName) old.replaceWith(node);
  if (old.nodeName !== node.nodeName) return node;
  if (old.nodeType === Node.TEXT_NODE) patchText(old, node.data);
  else if (!isKept(old, node)) {
    patchAttributes(old, node);
    patch(old, [...old.childNodes], [...node.childNodes]);
  }
  return old;
}

function patchText(old, data) {
  if (old.data === data) return;
  if (data.startsWith(old.data)) old.appendData(data.slice(old.length));
  else old.data = data;
}

/** A button that says "Copied" goes on saying so, and a code that has its colours keeps them. */
function isKept(old, { textContent, classList }) {
  if (old.classList.contains("cs-copy")) return true;
  return old.classList.contains("hljs") && old.classList[0] === classList[0] &&
    !classList.contains("cs-open") && old.textContent === textContent;
}

function patchAttributes(old, node) {
  for (const name of old.getAttributeNames()) if (!node.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of node.attributes)
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
}

const PLAIN = /^(?:[^<>&]|&#(?:34|38|39|60|62);)*$/;
const unescape = (html) => html.replace(/&#(\d+);/g, (_, code) => String.fromCharCode(code));

/**
 * Let nodes that were built from `old` say what `html` does, if it only has more text at the end of
 * its last text: so it is with most deltas, and building takes ten times as long. Return whether.
 */
function extend(nodes, old, html) {
  const end = old.search(/\n?(?:<\/[a-z\d]+>\s*)+$/);
  const [head, foot] = [old.slice(0, end), old.slice(end)];
  if (html.length < old.length || !html.startsWith(head) || !html.endsWith(foot)) return false;
  const text = html.slice(end, html.length - foot.length);
  const isInText = head.slice(head.lastIndexOf(">") + 1).trim() !== "";
  const last = isInText && PLAIN.test(text) ? lastText(nodes.at(-1)) : null;
  const at = last && last.length - (foot.startsWith("\n") ? 1 : 0);
  last?.insertData(at, unescape(text));
  return Boolean(last);
}

function lastText(node) {
  if (node.nodeType === Node.TEXT_NODE) return node;
  const inner = [...node.childNodes].findLast((child) => !isBlank(child));
  return inner ? lastText(inner) : null;
}

/** Return the range that the reader has selected; null for none. */
function selectedRange() {
  const selection = document.getSelection();
  return selection?.rangeCount && !selection.isCollapsed ? selection.getRangeAt(0) : null;
}

const isTouched = (nodes, range) => nodes.some((node) => range.intersectsNode(node));

// One answer ---------------------------------------------------------------------------------------

/** A last line that may yet become a heading's underline, a list, a fence: not shown until it has. */
const UNDECIDED = /(^|\n)[ \t]*(?:[-=*+_#>`~|]+|\d+[.)])[ \t]*$/;
const UNCOLOURED = '.cs-code > pre > code[class^="language-"]:not(.cs-open, .hljs)';

const squash = (text) => text.toLowerCase().replace(/[\s>]/g, "");
const refsIn = (element) => [...element.querySelectorAll("a[data-note]")];

class Stream {
  #root;
  #kit;
  #text = "";
  #rest = ""; // what is not settled yet; lines end in "\n"
  #seen = 0; // so many characters of it have been asked for settled blocks
  #isReturn = false; // whether a "\r" came last: the "\n" of its line may be on its way
  #blocks = []; // what is settled: source, nodes, and what the grammar made of it
  #tail = []; // the nodes of what is not
  #links = Object.create(null);
  #notes = new Map(); // label -> the block that defines it
  #html = ""; // what they were built from
  #section = null;
  #prefix;
  #range = selectedRange();
  #frame = 0;
  #timer = 0;
  #isEnded = false;
  #isWaiting = false;
  #drawn = deferred();
  #colours = null;
  #life = new AbortController();

  constructor(root, kit) {
    this.#root = root;
    this.#kit = kit;
    this.#prefix = root.id || `cs-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
    root.replaceChildren();
    this.#on(root, "click", (event) => this.#click(event));
    this.#on(root, "copy", (event) => this.#copy(event));
    this.#on(document, "selectionchange", () => this.#select());
  }

  get text() {
    return this.#text;
  }

  append(text) {
    this.#text += text;
    const ahead = this.#isReturn ? "\r" : "";
    this.#isReturn = text ? text.endsWith("\r") : this.#isReturn;
    const whole = ahead + text;
    this.#rest += (this.#isReturn ? whole.slice(0, -1) : whole).replace(/\r\n?/g, "\n");
    this.#schedule();
  }

  end() {
    this.#isEnded = true;
    this.flush();
    return this.#drawn.promise.then(() => this.#colours);
  }

  destroy() {
    this.#cancel();
    this.#life.abort();
    this.#drawn.resolve();
  }

  /** Show now what has come, unless the reader is selecting in it. */
  flush() {
    this.#cancel();
    if (this.#isSelected(this.#tail)) return;
    const fresh = this.#settle();
    this.#define(fresh);
    const html = this.#compileTail();
    if (!fresh.length && this.#html && extend(this.#tail, this.#html, html)) {
      this.#html = html;
      return;
    }
    this.#place(fresh, html);
    this.#number();
    if (this.#isEnded) this.#finish();
    this.#colour();
  }

  #on(target, name, listener) {
    target.addEventListener(name, listener, { signal: this.#life.signal });
  }

  #schedule() {
    if (this.#frame || this.#life.signal.aborted) return;
    this.#frame = requestAnimationFrame(() => this.flush());
    this.#timer = setTimeout(() => this.flush(), LONGEST_FRAME);
  }

  #cancel() {
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#timer);
    this.#frame = 0;
  }

  /** Look after what has waited while the reader selected it. */
  #select() {
    // Kept, for to ask the selection itself is to have the page laid out.
    this.#range = selectedRange();
    if (this.#isWaiting) this.#schedule();
  }

  /** Return whether nodes are selected, and so have to wait. */
  #isSelected(nodes) {
    this.#isWaiting = Boolean(this.#range) && isTouched(nodes, this.#range);
    return this.#isWaiting;
  }

  #finish() {
    for (const code of this.#root.querySelectorAll(".cs-open")) code.classList.remove("cs-open");
    this.#drawn.resolve();
  }

  // Blocks

  /** Take the blocks that are settled off the rest. */
  #settle() {
    const end = this.#isEnded ? this.#rest.length : this.#rest.lastIndexOf("\n") + 1;
    if (end <= this.#seen && !this.#isEnded) return [];
    const { split, compile } = this.#kit.grammar;
    const sources = split(this.#rest.slice(0, end), this.#isEnded);
    const size = sources.join("").length;
    this.#rest = this.#rest.slice(size);
    this.#seen = end - size;
    return sources.map((source) => ({ source, nodes: [], ...compile(source) }));
  }

  /** Take in what new blocks define, and render the blocks again that had been waiting for it. */
  #define(fresh) {
    const names = fresh.flatMap((block) => [...this.#linksOf(block), ...this.#notesOf(block)]);
    const marks = names.map((name) => `[${squash(name)}]`);
    const isWaiting = ({ source }) => marks.some((mark) => squash(source).includes(mark));
    if (marks.length) this.#blocks.filter(isWaiting).forEach((block) => this.#again(block));
  }

  #linksOf({ links }) {
    const names = Object.keys(links).filter((name) => !(name in this.#links));
    for (const name of names) this.#links[name] = links[name];
    return names;
  }

  #notesOf(block) {
    const labels = [...block.notes.keys()].filter((label) => !this.#notes.has(label));
    for (const label of labels) this.#notes.set(label, block);
    return labels.map((label) => `^${label}`);
  }

  #again(block) {
    const { render, notes } = this.#kit.grammar.compile(block.source);
    const html = this.#render(render);
    block.notes = notes;
    if (html === block.html) return;
    const before = block.nodes.at(-1).nextSibling;
    block.nodes = patch(this.#root, block.nodes, build(html, this.#kit), before);
    block.html = html;
  }

  #render(render) {
    return render(this.#links, this.#notes.keys());
  }

  #compileTail() {
    if (this.#isEnded || this.#kit.prefersBlocks.matches) return "";
    return this.#render(this.#kit.grammar.compile(this.#rest.replace(UNDECIDED, "$1")).render);
  }

  /** Put new blocks and the tail where the tail has been. */
  #place(fresh, html) {
    for (const block of fresh) {
      block.html = this.#render(block.render);
      block.nodes = build(block.html, this.#kit);
    }
    const nodes = [...fresh.flatMap((block) => block.nodes), ...build(html, this.#kit)];
    this.#html = html;
    this.#tail = patch(this.#root, this.#tail, nodes, this.#section);
    for (const block of fresh) block.nodes = this.#tail.splice(0, block.nodes.length);
    this.#blocks.push(...fresh);
  }

  // Colours

  #colour() {
    const codes = [...this.#root.querySelectorAll(UNCOLOURED)];
    const { highlighter, sanitize } = this.#kit;
    if (!codes.length) return;
    if (!highlighter.value) {
      this.#colours ??= highlighter.load().then((isLoaded) => isLoaded && this.#colour());
      return;
    }
    const free = codes.filter((code) => !this.#isSelected([code]));
    for (const code of free) colour(code, highlighter.value, sanitize);
    this.#isWaiting = free.length < codes.length;
  }

  // Footnotes

  /** Number the footnotes in the order of their first references, and list them at the end. */
  #number() {
    if (!this.#notes.size) return;
    const refs = refsIn(this.#root).filter((ref) => !this.#section?.contains(ref));
    const labels = new Set(refs.map((ref) => ref.dataset.note));
    const items = [];
    for (const label of labels) {
      const item = create("li", {}, ...build(this.#notes.get(label).notes.get(label), this.#kit));
      for (const ref of refsIn(item)) labels.add(ref.dataset.note);
      items.push(item);
    }
    this.#link([...labels], items, [...refs, ...items.flatMap(refsIn)]);
    const sections = items.length ? [this.#list(items)] : [];
    [this.#section = null] = patch(this.#root, this.#section ? [this.#section] : [], sections);
  }

  /** Give references and footnotes their numbers and their ways to each other. */
  #link(labels, items, refs) {
    const counts = items.map(() => 0);
    items.forEach((item, at) => (item.id = `${this.#prefix}-fn-${at + 1}`));
    for (const ref of refs) {
      const at = labels.indexOf(ref.dataset.note);
      const count = ++counts[at];
      ref.id = `${this.#prefix}-fnref-${at + 1}${count > 1 ? `-${count}` : ""}`;
      ref.href = `#${this.#prefix}-fn-${at + 1}`;
      ref.setAttribute("aria-describedby", `${this.#prefix}-fn`);
      ref.textContent = at + 1;
      this.#linkBack(items[at], ref.id, at + 1, count);
    }
  }

  #linkBack(item, id, number, count) {
    const name = count > 1 ? `${number}-${count}` : `${number}`;
    const label = `${this.#kit.words.footnoteBack} ${name}`;
    const back = create("a", { class: "cs-back", href: `#${id}`, "aria-label": label }, "↩");
    if (count > 1) back.append(create("sup", {}, `${count}`));
    const last = item.lastElementChild;
    (last?.matches("p") ? last : item).append(" ", back);
  }

  #list(items) {
    const title = create("h3", { class: "cs-hidden", id: `${this.#prefix}-fn` });
    title.append(this.#kit.words.footnotes);
    return create("section", { class: "cs-notes" }, title, create("ol", {}, ...items));
  }

  // Clipboard

  async #click({ target }) {
    const button = target.closest(".cs-copy");
    if (!button) return;
    const { copy, copied } = this.#kit.words;
    await copyText(button.closest(".cs-code").querySelector("code").textContent.replace(/\n$/, ""));
    button.textContent = copied;
    setTimeout(() => (button.textContent = copy), COPIED);
    this.#root.dispatchEvent(new CustomEvent("cs-copied", { bubbles: true }));
  }

  /** Let the clipboard have the markdown of the blocks that are selected as a whole. */
  #copy(event) {
    const range = selectedRange();
    if (!range || !this.#root.contains(range.commonAncestorContainer)) return;
    const blocks = [...this.#blocks, { source: this.#rest, nodes: this.#tail }];
    const parts = blocks.filter(({ nodes }) => isTouched(nodes, range)).map((b) => partOf(b, range));
    if (!parts.some(({ isWhole }) => isWhole)) return;
    event.clipboardData.setData("text/plain", parts.map(({ text }) => text).join("").trimEnd());
    event.clipboardData.setData("text/html", htmlOf(range));
    event.preventDefault();
  }
}

function colour(code, highlighter, sanitize) {
  const language = code.classList[0].slice("language-".length);
  const text = code.textContent;
  code.classList.add("hljs");
  if (!highlighter.getLanguage(language) || text.length > LONGEST_CODE) return;
  code.replaceChildren(
    sanitize(highlighter.highlight(text, { language, ignoreIllegals: true }).value),
  );
}

function deferred() {
  const result = {};
  result.promise = new Promise((resolve) => (result.resolve = resolve));
  return result;
}

// The clipboard ------------------------------------------------------------------------------------

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyByEvent(text); // there is no navigator.clipboard but over HTTPS and on localhost
  }
}

function copyByEvent(text) {
  const give = (event) => {
    event.clipboardData.setData("text/plain", text);
    event.preventDefault();
    event.stopImmediatePropagation();
  };
  document.addEventListener("copy", give, { capture: true });
  document.execCommand("copy");
  document.removeEventListener("copy", give, { capture: true });
}

/** Return `{ text, isWhole }`: a block's source if all of its text is in the range; else what is. */
function partOf({ source, nodes }, range) {
  const whole = document.createRange();
  whole.setStartBefore(nodes[0].querySelector?.(":scope > pre") ?? nodes[0]); // a code's head is ours
  whole.setEndAfter(nodes.at(-1));
  const part = whole.cloneRange();
  if (range.compareBoundaryPoints(Range.START_TO_START, whole) > 0)
    part.setStart(range.startContainer, range.startOffset);
  if (range.compareBoundaryPoints(Range.END_TO_END, whole) < 0)
    part.setEnd(range.endContainer, range.endOffset);
  const isWhole = part.toString().trim() === whole.toString().trim();
  return { isWhole, text: isWhole ? source : `${part}\n\n` };
}

function htmlOf(range) {
  const holder = create("div", {}, range.cloneContents());
  for (const head of holder.querySelectorAll(".cs-code-head")) head.remove();
  return holder.innerHTML;
}
