/**
 * Chats of the AI SDK, all at once: node ai_sdk.mjs <api> <JSON: [{name, model, steps}]>
 *
 * A step is the name of one of the chat's methods with its arguments, or one of `actions`. A chat may
 * have an `api` of its own. Prints a line for each: what the page's code sees once the last step has
 * ended, and in `attempts` what it saw after each.
 */
import { Chat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { as, visit } from "./visitor.mjs";

const [site, cases] = [process.argv[2], JSON.parse(process.argv[3])];
const cookie = await visit(site);
// A connection for each request: Node, unlike a browser, fails when the server closes an idle one.
const closing = as(cookie, { connection: "close" });
const staying = as(cookie);

const actions = {
  /** Ask, and leave at the first words: the client's stop() does no more. */
  async leave(chat, prompt) {
    const sent = chat.sendMessage({ text: prompt });
    await until(() => textOf(chat.lastMessage));
    await chat.stop();
    await sent;
  },
  /** Say something else instead of the first message. */
  edit: (chat, text) => chat.sendMessage({ text, messageId: chat.messages[0].id }),
  /** Ask, and stop the answer on the server at its first words; the page goes on reading. */
  async stopped(chat, prompt, stop) {
    const sent = chat.sendMessage({ text: prompt });
    await until(() => textOf(chat.lastMessage));
    await stop();
    await sent;
  },
};

for (const line of await Promise.all(cases.map(play))) console.log(JSON.stringify(line));

async function play({ name, model, steps, body = {}, api = site }) {
  const visitor = api === site ? closing : staying;
  const seen = { name, calls: [], attempts: [] };
  const transport = new DefaultChatTransport({ api, body: { model, ...body }, fetch: visitor });
  const chat = new Chat({
    id: `${name} ${model}`,
    transport,
    onFinish: ({ finishReason, isError }) => Object.assign(seen, { finishReason, isError }),
    onToolCall: ({ toolCall }) => seen.calls.push(toolCall),
  });
  const stop = () => visitor(`${api}${chat.id}/stop`, { method: "POST", body: "{}" });
  for (const [step, ...args] of steps) {
    await (actions[step] ? actions[step](chat, ...args, stop) : chat[step](...args));
    const { status, error } = chat;
    const text = textOf(chat.lastMessage);
    const { finishReason } = seen;
    seen.attempts.push({ text, status, error: error?.message, finishReason });
  }
  const { attempts, ...rest } = seen;
  return { ...rest, ...attempts.at(-1), attempts, messages: chat.messages };
}

function textOf(message) {
  if (message?.role !== "assistant") return "";
  return message.parts.map((part) => (part.type === "text" ? part.text : "")).join("");
}

async function until(look) {
  while (!look()) await new Promise((resolve) => setTimeout(resolve, 10));
}
