/** One prompt and its answer on the page. Text only ever becomes a text node, never markup. */

import { describeEnding, describeFigures, describeState } from "./endings.js";

export function createTurn(prompt) {
  const element = make("article", "turn");
  const question = make("p", "question", prompt);
  const answer = make("div", "answer");
  const text = document.createTextNode("");
  const foot = make("div", "foot");
  const line = make("p", "ending");
  element.setAttribute("aria-label", "You asked, the model answered");
  answer.append(text);
  element.append(question, answer, foot);
  let reasoning = null;
  let state = "connecting";

  const turn = {
    element,
    /** Be about to be answered, for the first time or again. */
    begin() {
      text.data = "";
      reasoning?.parentElement.parentElement.remove();
      reasoning = null;
      answer.hidden = false;
      answer.setAttribute("aria-busy", "true");
      delete element.dataset.ending;
      line.dataset.tone = "";
      foot.replaceChildren(line);
      turn.say("connecting");
    },
    say(newState) {
      state = newState;
      line.textContent = describeState(state, text.length > 0);
    },
    /** Take in an event of the run. */
    take({ type, state: newState, text: piece }) {
      if (type === "state") turn.say(newState);
      if (type === "text") turn.write(piece);
      if (type === "reasoning") turn.think(piece);
    },
    write(piece) {
      text.appendData(piece);
      turn.say(state);
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
      element.dataset.ending = ending.outcome;
      line.dataset.tone = tone;
      line.replaceChildren(make("strong", "", words), ...figures.map((text) => ` · ${text}`));
      if (code) line.append(" · ", make("code", "", code));
      if (canAskAgain) foot.append(makeButton("Ask again", askAgain));
      return line.textContent;
    },
  };
  turn.begin();
  return turn;
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
