/**
 * Types of `chatstream-markdown.js`.
 *
 *     const { createMarkdown } = await import(url);
 *     const markdown = createMarkdown({ marked, DOMPurify, markedFootnote, loadHighlighter, words });
 *     const answer = markdown.stream(element);
 *     for await (const { type, text } of run) if (type === "text") answer.append(text);
 *     answer.end();
 *
 * Reasons, here so that the page need not load them:
 *
 * - HTML in markdown is shown as text, but for `<br>`: models write it where markdown has nothing, for
 *   a line's end in a table's cell.
 * - An image becomes a link: its address is a way to tell others of the conversation. An address that
 *   is not http, https or mailto makes no link.
 * - A heading is two levels lower than written: the first two are the page's own.
 * - A definition takes one line. marked takes any number into a label or a title, so that a bracket
 *   left open in one paragraph would keep all that follow from being settled. For the same reason an
 *   underline makes no heading of blocks that had ended its paragraph, and what is HTML does not depend
 *   on the block before. These three are the only differences from marked's own grammar.
 * - The first definition of a label counts, and a late one renders those blocks again whose source has
 *   the label in brackets.
 * - The page is patched, never replaced, so a button in the tail can be clicked, what is focused stays
 *   focused, and a long line of code stays where it was scrolled to.
 * - Ids are made of the element's id, or at random, and numbers: no word of an answer is in them.
 */

/** What the reader sees or hears that is not the model's. */
export interface Words {
  /** The button of a code, and what it says when it has copied. */
  copy: string;
  copied: string;
  /** The link to an image that has no text. */
  image: string;
  /** The names of a code without a language, and of a table: they scroll. */
  code: string;
  table: string;
  /** The boxes of a task list. */
  taskDone: string;
  taskOpen: string;
  /** The heading of the footnotes, for screen readers, and the name of a way back to "1". */
  footnotes: string;
  footnoteBack: string;
}

export interface Libraries {
  /** The globals of the vendored scripts. */
  marked: any;
  DOMPurify: any;
  markedFootnote: any;
  /** Returns highlight.js; called when the first fence with a language closes. */
  loadHighlighter: () => Promise<any>;
  words: Words;
}

/**
 * One answer in one element, whose content it replaces. A selection in what is not settled yet holds
 * the rendering until it is gone. The element dispatches "cs-copied", which bubbles, when the reader
 * has copied a code.
 */
export interface Answer {
  /** All that was appended, as it came: what a button that copies the answer copies. */
  readonly text: string;
  /** Add text; it is shown in the next frame. */
  append(text: string): void;
  /** Show now what has come, rather than in the next frame. */
  flush(): void;
  /** Nothing more comes: show all. Resolves when it is shown, and codes have their colours. */
  end(): Promise<void>;
  /** Leave the element as it is; its buttons do nothing from now on. */
  destroy(): void;
}

export interface Markdown {
  /** Render an answer while it comes. Ids in it begin with the element's own, if it has one. */
  stream(element: HTMLElement): Answer;
  /** Render a whole answer, to the same result. */
  render(element: HTMLElement, text: string): Answer;
}

export function createMarkdown(libraries: Libraries): Markdown;

// The part that holds no state and knows no document.

export interface Block {
  /** The links that the block defines, by their labels. */
  links: Record<string, { href: string; title?: string }>;
  /** The footnotes that it defines: label to HTML, once it is rendered. */
  notes: Map<string, string>;
  /** Return its HTML, which nobody has sanitised, given all links and footnotes' labels. */
  render(links: Block["links"], labels: Iterable<string>): string;
}

export interface Grammar {
  /**
   * Return the sources of the blocks, at the beginning of complete lines, that no further line can
   * change; of all blocks if the text is whole.
   */
  split(text: string, isWhole?: boolean): string[];
  compile(source: string): Block;
}

export function createGrammar(marked: any, markedFootnote: any, words: Words): Grammar;
