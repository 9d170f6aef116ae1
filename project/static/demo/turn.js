/** One prompt and its answer on the page. Text only ever becomes a text node, never markup. */

import { describeEnding, describeFigures } from "./endings.js";

export function createTurn(prompt) {
  const element = make("article", "turn");
  const question = make("p", "question", prompt);
  const answer = make("div", "answer");
  const text = document.createTextNode("");
  const foot = make("div", "foot");
  const line = make("p", "ending", "Waiting for the first word…");
  element.setAttribute("aria-label", "You asked, the model answered");
  answer.setAttribute("aria-busy", "true");
  answer.append(text);
  foot.append(line);
  element.append(question, answer, foot);
  let reasoning = null;

  return {
    element,
    write(piece) {
      if (!text.length) line.textContent = "Answering…";
      text.appendData(piece);
    },
    think(piece) {
      reasoning ??= createReasoning(answer);
      reasoning.appendData(piece);
    },
    /** Show how it ended; return the words. `askAgain` is called by the button, if there is one. */
    end(ending, measured, askAgain) {
      const { tone, words, code, canAskAgain } = describeEnding(ending);
      const figures = describeFigures(measured);
      answer.setAttribute("aria-busy", "false");
      answer.hidden = !text.length && !reasoning;
      element.dataset.ending = ending.kind;
      line.dataset.tone = tone;
      line.replaceChildren(make("strong", "", words), ...figures.map((text) => ` · ${text}`));
      if (code) line.append(" · ", make("code", "", code));
      if (canAskAgain) foot.append(makeButton("Ask again", askAgain));
      return line.textContent;
    },
  };
}

function createReasoning(answer) {
  const details = make("details", "reasoning");
  const text = document.createTextNode("");
  const body = make("div");
  body.append(text);
  details.append(make("summary", "", "Reasoning"), body);
  answer.before(details);
  return text;
}

function make(tag, className = "", textContent = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.textContent = textContent;
  return element;
}

function makeButton(label, onClick) {
  const button = make("button", "secondary small", label);
  button.type = "button";
  button.addEventListener("click", onClick);
  return button;
}
