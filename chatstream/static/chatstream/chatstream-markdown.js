/**
 * Render an answer's markdown while it streams: safe, fast, and to the same result as all at once.
 *
 * Blocks that no further line can change are rendered once; what follows them, the tail, again in
 * each frame, and it changes the page only where it differs. HTML in markdown is text; what marked
 * makes of the rest passes an allow-list. `chatstream-markdown.d.ts` has the types and the reasons.
 */

const SCHEMES = ["http:", "https:", "mailto:"];
const LONGEST_FRAME = 250; // milliseconds; a hidden page has no frames
const COPIED = 2_000;
const DEEPEST = 20; // quotations in lists in quotations
const LONGEST_CODE = 100_000; // characters that get colours

const TEXT_TAGS = "a blockquote br code del div em h3 h4 h5 h6 hr li ol p pre span strong sup ul";
const TABLE_TAGS = "table tbody td th thead tr";
const ATTRIBUTES = "align aria-label class data-note dir rel role start tabindex target title";
const ALLOWED = {
  ALLOWED_TAGS: `${TEXT_TAGS} ${TABLE_TAGS}`.split(" "),
  ALLOWED_ATTR: `${ATTRIBUTES} href`.split(" "),
  ADD_URI_SAFE_ATTR: ATTRIBUTES.split(" "),
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

export function createMarkdown({ marked, DOMPurify, markedFootnote, loadHighlighter, words }) {
  let highlighter = null;
  const kit = {
    words,
    grammar: createGrammar(marked, markedFootnote, words),
    sanitize: (html) => DOMPurify.sanitize(html, ALLOWED),
    highlighter: () => (highlighter ??= loadHighlighter().catch(() => null)),
    prefersBlocks: matchMedia("(prefers-reduced-motion: reduce)"),
  };
  const stream = (element) => new Stream(element, kit);
  const render = (element, text) => {
    const answer = stream(element);
    answer.append(text);
    answer.end();
    return answer;
  };
  return { stream, render };
}

// Markdown to HTML ---------------------------------------------------------------------------------

const entity = (character) => `&#${character.charCodeAt(0)};`;
const escapeAll = (text) => text.replace(/[&<>"']/g, entity);
const escapeText = (text) => text.replace(/[<>"']|&(?!#\d{1,7};|#x[\da-f]{1,6};|\w+;)/gi, entity);

/** Return a link; its text alone if the address is none that an answer may have. */
function anchor(href, title, html) {
  const url = URL.canParse(href) ? new URL(href) : null;
  if (!SCHEMES.includes(url?.protocol)) return html;
  const hint = title ? ` title="${escapeText(title)}"` : "";
  const text = html.replace(/<\/?a\b[^>]*>/g, ""); // links in it; `>` is escaped within
  const address = escapeText(url.href);
  return `<a href="${address}"${hint} rel="noopener nofollow" target="_blank">${text}</a>`;
}

/** What scrolls must be in reach of the keyboard, and have a name. */
const scroller = (name) => `tabindex="0" role="group" aria-label="${escapeText(name)}"`;

const isFenced = ({ type, codeBlockStyle }) => type === "code" && codeBlockStyle !== "indented";
const CLOSED = /^ {0,3}(`{3,}(?!`)|~{3,}(?!~))[^\n]*\n(?:[^]*\n)? {0,3}\1[~`]* *\n*$/;

function renderers(words, { table }) {
  return {
    heading({ tokens, depth }) {
      const level = Math.min(depth + 2, 6); // h1 and h2 are the page's own
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
    code(token) {
      const language = escapeAll(/^[^\s{:,]*/.exec(token.lang ?? "")[0]);
      const named = language ? `language-${language}` : "cs-unnamed";
      const open = isFenced(token) && !CLOSED.test(token.raw) ? " cs-open" : "";
      const head = `<div class="cs-code-head"><span class="cs-code-lang">${language}</span></div>`;
      const text = `${escapeAll(token.text.replace(/\n$/, ""))}\n`;
      const code = `<code class="${named}${open}">${text}</code>`;
      const pre = `<pre ${scroller(language || words.code)}>${code}</pre>`;
      return `<div class="cs-code" dir="ltr">${head}${pre}</div>`;
    },
    table(token) {
      return `<div class="cs-table" ${scroller(words.table)}>${table.call(this, token)}</div>`;
    },
    html({ block, text }) {
      if (block) return `<p class="cs-html">${escapeAll(text.trim())}</p>`;
      return /^<br *\/?>$/i.test(text) ? "<br>" : escapeAll(text); // markdown has none for cells
    },
    text({ tokens, text }) {
      return tokens ? this.parser.parseInline(tokens) : escapeText(text);
    },
    link({ href, title, tokens }) {
      return anchor(href, title, this.parser.parseInline(tokens));
    },
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

/** Return the tokenizer of what has the like in it; what is too deep is text, or the stack ends. */
function nesting(tokenizer) {
  return function (...given) {
    const { lexer } = this;
    if (lexer.depth === DEEPEST) return undefined;
    lexer.depth++;
    const token = tokenizer.apply(this, given);
    lexer.depth--;
    return token;
  };
}

/** What keeps marked from changing, by what comes, a block that has long been on the page. */
function tokenizers({ blockquote, def, del, emStrong, list }) {
  return {
    blockquote: nesting(blockquote),
    list: nesting(list),
    emStrong: nesting(emStrong),
    del: nesting(del),
    def(src) {
      return def.call(this, `${src.split("\n", 1)[0]}\n`); // it takes any number of lines
    },
    // It makes a heading of blocks that had ended the paragraph above the line of dashes.
    lheading(src) {
      const { lheading, paragraph } = this.rules.block;
      const text = lheading.exec(src)?.[1];
      return text && paragraph.exec(src)[0].startsWith(text) ? false : undefined;
    },
    html() {
      this.lexer.state.lastToken = undefined; // or it depends on the block before
      return false;
    },
  };
}

const ENDED = ["heading", "hr", "def"];
const ENDED_BY_BLANK = ["paragraph", "table", "blockquote"];

function isEnded(token, isBlankNext) {
  if (isFenced(token) && CLOSED.test(token.raw)) return true;
  return ENDED.includes(token.type) || (isBlankNext && ENDED_BY_BLANK.includes(token.type));
}

/** A token's `raw` does not always have the length of its source. */
function noteStart(rest, tokens) {
  const { lexer } = this;
  if (tokens === lexer.tokens) lexer.starts[tokens.length] = lexer.size - rest.length;
}

export function createGrammar(marked, markedFootnote, words) {
  const footnotes = markedFootnote();
  const [definition, reference] = footnotes.extensions;
  const renderer = ({ label }) => `<sup><a data-note="${escapeAll(label)}"></a></sup>`;
  const position = { name: "position", level: "block", tokenizer: noteStart };
  const options = new marked.Marked({
    renderer: renderers(words, marked.Renderer.prototype),
    tokenizer: tokenizers(marked.Tokenizer.prototype),
    extensions: [
      { ...definition, tokenizer: nesting(definition.tokenizer) },
      { ...reference, renderer },
      position,
    ],
  }).defaults;

  function lex(source) {
    const own = { size: source.length, starts: [], depth: 0 };
    const lexer = Object.assign(new marked.Lexer(options), own);
    footnotes.walkTokens({}); // makes it forget the document before
    definition.tokenizer.call({ lexer }, ""); // puts its list of definitions first
    lexer.blockTokens(source, lexer.tokens);
    return lexer;
  }

  function split(text, isWhole = false) {
    const { tokens, starts } = lex(text);
    const blocks = [...tokens.keys()].filter((at) => at && tokens[at].type !== "space");
    const sources = blocks.map((at, index) =>
      text.slice(index && starts[at], starts[blocks[index + 1]] ?? text.length),
    );
    const last = tokens[blocks.at(-1)];
    const isAll = isWhole || !last || isEnded(last, tokens.at(-1).type === "space");
    return isAll ? sources : sources.slice(0, -1);
  }

  function compile(source) {
    const lexer = lex(source);
    const definitions = lexer.tokens[0].rawItems.reverse(); // a label's first one counts
    const notes = new Map(definitions.map(({ label }) => [label, ""]));
    function render(links, labels) {
      Object.assign(lexer.tokens.links, links);
      const rawItems = Array.from(labels, (label) => ({ label, refs: [] }));
      lexer.tokens[0] = { type: "space", raw: "", rawItems, items: [] }; // where references look
      for (const { src, tokens } of lexer.inlineQueue.splice(0)) lexer.inlineTokens(src, tokens);
      for (const { label, content } of definitions)
        notes.set(label, marked.Parser.parse(content, options));
      return marked.Parser.parse(lexer.tokens, options);
    }
    return { links: { ...lexer.tokens.links }, notes, render };
  }

  return { split, compile };
}

// HTML to the page ---------------------------------------------------------------------------------

function create(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const isText = (node) => node.nodeType === Node.TEXT_NODE;
const isBlank = (node) => isText(node) && !node.data.trim();

/** Return the nodes of a block, with the controls that no answer's HTML may have. */
function build(html, { sanitize, words }) {
  const fragment = html && sanitize(html);
  if (!fragment) return [];
  for (const box of fragment.querySelectorAll(".cs-check")) box.replaceWith(checkbox(box, words));
  for (const head of fragment.querySelectorAll(".cs-code-head"))
    head.append(create("button", { class: "cs-copy", type: "button" }, words.copy));
  const nodes = [...fragment.childNodes].filter((node) => !isBlank(node));
  for (const node of nodes) node.dir ||= "auto";
  return nodes;
}

function checkbox({ className }, { taskDone, taskOpen }) {
  const isDone = className.includes("cs-checked");
  const state = isDone ? { checked: "", "aria-label": taskDone } : { "aria-label": taskOpen };
  return create("input", { class: "cs-check", type: "checkbox", disabled: "", ...state });
}

/**
 * Make the nodes `olds` look like `news`, ahead of `before`; return those that stand for `news`.
 * What is alike stays, and with it its focus, selection and scroll position.
 */
function patch(parent, olds, news, before = null) {
  for (const node of olds.slice(news.length)) node.remove();
  return news.map((node, at) =>
    at < olds.length ? patchNode(olds[at], node) : parent.insertBefore(node, before),
  );
}

function patchNode(old, node) {
  if (old.nodeName !== node.nodeName) {
    old.replaceWith(node);
    return node;
  }
  if (isText(old)) patchText(old, node.data);
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
function isKept({ classList, textContent }, node) {
  if (classList.contains("cs-copy")) return true;
  if (!classList.contains("hljs") || node.classList.contains("cs-open")) return false;
  return classList[0] === node.classList[0] && textContent === node.textContent;
}

function patchAttributes(old, node) {
  for (const { name } of [...old.attributes])
    if (!node.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of node.attributes)
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
}

const MORE_TEXT = /^(?:[^<>&]|&#(?:34|38|39|60|62);)*$/;
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
  const last = isInText && MORE_TEXT.test(text) ? lastText(nodes.at(-1)) : null;
  last?.insertData(last.length - foot.startsWith("\n"), unescape(text));
  return Boolean(last);
}

function lastText(node) {
  if (!node || isText(node)) return node;
  return lastText([...node.childNodes].findLast((child) => !isBlank(child)));
}

/** A last line that may yet become an underline, a list, a fence: not shown until it has. */
const UNDECIDED = /(^|\n)[ \t]*(?:[-=*+_#>`~|]+|\d+[.)])[ \t]*$/;
const FENCE = /^[ \t]*(?:```|~~~)/m;
const OPEN_CODE = /(?:^|\n)[^`\n]*(?:`[^`\n]+`[^`\n]*)*`[^`\n]+$/;
const OPEN_LINK = /!?\[([^[\]\n]*)\]\([^)\n]*$/;
const OPEN_STRONG = /(^|[\s("])\*\*(?=[^\s*])((?:(?!\*\*).)*?)\s*\*?$/;

/** Return what is shown of a tail: what its last line has opened is closed. */
function shown(tail) {
  const text = tail.replace(UNDECIDED, "$1");
  if (FENCE.test(text)) return text;
  if (OPEN_CODE.test(text)) return `${text}\``;
  return text.replace(OPEN_LINK, "$1").replace(OPEN_STRONG, "$1**$2**");
}

// One answer ---------------------------------------------------------------------------------------

const UNCOLOURED = '.cs-code code[class^="language-"]:not(.cs-open, .hljs)';

const squash = (text) => text.toLowerCase().replace(/[\s>]/g, "");
const refsIn = (element) => [...element.querySelectorAll("a[data-note]")];

class Stream {
  text = "";
  #root;
  #kit;
  #prefix;
  #rest = ""; // what is not settled; lines end in "\n"
  #seen = 0; // so many characters of it have been asked for settled blocks
  #isReturn = false; // whether a "\r" came last: the "\n" of its line may be on its way
  #blocks = []; // what is settled: source, nodes, html, and what the grammar made of it
  #tail = []; // the nodes of the rest
  #html = ""; // what they were built from
  #links = Object.create(null);
  #notes = new Map(); // label -> the block that defines it
  #section = null;
  #range = selectedRange();
  #isWaiting = false;
  #isEnded = false;
  #frame = 0;
  #timer = 0;
  #drawn = deferred();
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

  append(text) {
    this.text += text;
    const whole = (this.#isReturn ? "\r" : "") + text;
    this.#isReturn = whole.endsWith("\r");
    this.#rest += (this.#isReturn ? whole.slice(0, -1) : whole).replace(/\r\n?/g, "\n");
    this.#schedule();
  }

  end() {
    this.#isEnded = true;
    this.flush();
    return this.#drawn.promise.then(() => this.#colour());
  }

  destroy() {
    this.#cancel();
    this.#life.abort();
    this.#drawn.resolve();
  }

  flush() {
    this.#cancel();
    if (this.#holds(this.#tail)) return;
    const fresh = this.#settle();
    this.#define(fresh);
    const html = this.#compileTail();
    const isExtended = !fresh.length && this.#html && extend(this.#tail, this.#html, html);
    this.#html = html;
    if (isExtended) return;
    this.#place(fresh);
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

  /** Look after what has waited while it was selected. */
  #select() {
    this.#range = selectedRange(); // kept: to ask for it makes the browser lay out the page
    if (this.#isWaiting) this.#schedule();
    this.#isWaiting = false;
  }

  /** Return whether the reader has selected some of the nodes, which then have to wait. */
  #holds(nodes) {
    const isHeld = this.#range !== null && isTouched(nodes, this.#range);
    this.#isWaiting ||= isHeld;
    return isHeld;
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
    const { nodes, html, source } = block;
    Object.assign(block, this.#kit.grammar.compile(source));
    block.html = this.#render(block);
    if (block.html === html) return;
    const before = nodes.at(-1).nextSibling;
    block.nodes = patch(this.#root, nodes, build(block.html, this.#kit), before);
  }

  #render({ render }) {
    return render(this.#links, this.#notes.keys());
  }

  #compileTail() {
    if (this.#isEnded || this.#kit.prefersBlocks.matches) return "";
    return this.#render(this.#kit.grammar.compile(shown(this.#rest)));
  }

  /** Put new blocks and the tail where the tail has been. */
  #place(fresh) {
    for (const block of fresh) {
      block.html = this.#render(block);
      block.nodes = build(block.html, this.#kit);
    }
    const nodes = [...fresh.flatMap((block) => block.nodes), ...build(this.#html, this.#kit)];
    this.#tail = patch(this.#root, this.#tail, nodes, this.#section);
    for (const block of fresh) block.nodes = this.#tail.splice(0, block.nodes.length);
    this.#blocks.push(...fresh);
  }

  async #colour() {
    if (!this.#root.querySelector(UNCOLOURED)) return;
    const highlighter = await this.#kit.highlighter();
    for (const code of this.#root.querySelectorAll(UNCOLOURED))
      if (highlighter && !this.#holds([code])) colour(code, highlighter, this.#kit.sanitize);
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
    for (const ref of refs) {
      const at = labels.indexOf(ref.dataset.note);
      const count = ++counts[at];
      const name = `${at + 1}${count > 1 ? `-${count}` : ""}`;
      items[at].id = `${this.#prefix}-fn-${at + 1}`;
      ref.id = `${this.#prefix}-fnref-${name}`;
      ref.href = `#${items[at].id}`;
      ref.setAttribute("aria-describedby", `${this.#prefix}-fn`);
      ref.textContent = at + 1;
      this.#linkBack(items[at], ref.id, name, count);
    }
  }

  #linkBack(item, id, name, count) {
    const label = `${this.#kit.words.footnoteBack} ${name}`;
    const back = create("a", { class: "cs-back", href: `#${id}`, "aria-label": label }, "↩");
    if (count > 1) back.append(create("sup", {}, count));
    const last = item.lastElementChild;
    (last?.matches("p") ? last : item).append(" ", back);
  }

  #list(items) {
    const heading = { class: "cs-hidden", id: `${this.#prefix}-fn` };
    const title = create("h3", heading, this.#kit.words.footnotes);
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
    const touched = blocks.filter(({ nodes }) => isTouched(nodes, range));
    const parts = touched.map((block) => partOf(block, range));
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
  const { value } = highlighter.highlight(text, { language, ignoreIllegals: true });
  code.replaceChildren(sanitize(value));
}

function deferred() {
  const result = {};
  result.promise = new Promise((resolve) => (result.resolve = resolve));
  return result;
}

// The selection and the clipboard ------------------------------------------------------------------

/** Return the range that the reader has selected; null for none. */
function selectedRange() {
  const selection = document.getSelection();
  return !selection || selection.isCollapsed ? null : selection.getRangeAt(0);
}

const isTouched = (nodes, range) => nodes.some((node) => range.intersectsNode(node));

/** Return what to copy of a block: its source if all of its text is selected; else what is. */
function partOf({ source, nodes }, range) {
  const whole = document.createRange();
  whole.setStartBefore(nodes[0].querySelector?.(":scope > pre") ?? nodes[0]); // its head is ours
  whole.setEndAfter(nodes.at(-1));
  const part = whole.cloneRange();
  if (range.compareBoundaryPoints(Range.START_TO_START, whole) > 0)
    part.setStart(range.startContainer, range.startOffset);
  if (range.compareBoundaryPoints(Range.END_TO_END, whole) < 0)
    part.setEnd(range.endContainer, range.endOffset);
  const isWhole = `${part}`.trim() === `${whole}`.trim();
  return { isWhole, text: isWhole ? source : `${part}\n\n` };
}

function htmlOf(range) {
  const holder = create("div", {}, range.cloneContents());
  for (const head of holder.querySelectorAll(".cs-code-head")) head.remove();
  return holder.innerHTML;
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyByEvent(text); // there is no clipboard but over HTTPS and on localhost
  }
}

function copyByEvent(text) {
  const give = (event) => {
    event.clipboardData.setData("text/plain", text);
    event.preventDefault();
    event.stopImmediatePropagation();
  };
  addEventListener("copy", give, { capture: true, once: true });
  document.execCommand("copy");
  removeEventListener("copy", give, { capture: true });
}
