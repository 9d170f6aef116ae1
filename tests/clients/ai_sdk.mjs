/**
 * Chats of the AI SDK, all at once: node ai_sdk.mjs <api> <JSON: [{name, model, steps}]>
 *
 * A step is the name of one of the chat's methods with its arguments, or one of `actions`. Prints a
 * line for each chat: what the page's code sees once the last step has ended.
 */
import { Chat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";

const [api, cases] = [process.argv[2], JSON.parse(process.argv[3])];
const visitor = await visit();

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
  async stopped(chat, prompt) {
    const sent = chat.sendMessage({ text: prompt });
    await until(() => textOf(chat.lastMessage));
    await visitor(`${api}${chat.id}/stop`, { method: "POST", body: "{}" });
    await sent;
  },
};

for (const line of await Promise.all(cases.map(play))) console.log(JSON.stringify(line));

async function play({ name, model, steps, body = {} }) {
  const seen = { name, calls: [] };
  const transport = new DefaultChatTransport({ api, body: { model, ...body }, fetch: visitor });
  const chat = new Chat({
    id: `${name} ${model}`,
    transport,
    onFinish: ({ finishReason, isError }) => Object.assign(seen, { finishReason, isError }),
    onToolCall: ({ toolCall }) => seen.calls.push(toolCall),
  });
  for (const [step, ...args] of steps) {
    await (actions[step] ? actions[step](chat, ...args) : chat[step](...args));
  }
  const { status, error, messages } = chat;
  return { ...seen, status, error: error?.message, messages, text: textOf(chat.lastMessage) };
}

function textOf(message) {
  if (message?.role !== "assistant") return "";
  return message.parts.map((part) => (part.type === "text" ? part.text : "")).join("");
}

async function until(look) {
  while (!look()) await new Promise((resolve) => setTimeout(resolve, 10));
}

/**
 * Return a fetch with a session and the headers that a browser adds by itself. Each request has its
 * own connection: Node, unlike a browser, fails when the server closes an idle one meanwhile.
 */
async function visit() {
  const own = {
    connection: "close",
    "content-type": "application/json",
    origin: new URL(api).origin,
    "sec-fetch-site": "same-origin",
  };
  const url = new URL("../conversations/", api);
  const first = await fetch(url, { method: "POST", headers: own, body: "{}" });
  const cookie = first.headers.getSetCookie().map((one) => one.split(";")[0]).join("; ");
  return (to, options) => fetch(to, { ...options, headers: { ...own, ...options.headers, cookie } });
}
