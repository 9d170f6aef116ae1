/**
 * A chat page as a React project has it: useChat, resumed at each load, its messages kept in the
 * tab. The query names the chat and the model. What onFinish was told last is in `finished`.
 */
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { useEffect, useState } from "react";
import { createRoot } from "react-dom/client";

const query = new URLSearchParams(location.search);
const [id, model] = [query.get("chat"), query.get("model")];
const api = "/chat/ai-sdk/";
const kept = JSON.parse(sessionStorage.getItem(id) ?? "[]");
const transport = new DefaultChatTransport({ api, body: { model } });

createRoot(document.querySelector("main")).render(<Page />);

function Page() {
  const onFinish = ({ finishReason, isError }) => (window.finished = { finishReason, isError });
  const chat = useChat({ id, transport, messages: kept, resume: true, onFinish });
  const { messages, status, error, regenerate, sendMessage } = chat;
  const [prompt, setPrompt] = useState("");
  useEffect(() => sessionStorage.setItem(id, JSON.stringify(messages)), [messages]);
  const send = (event) => {
    event.preventDefault();
    sendMessage({ text: prompt });
    setPrompt("");
  };
  return (
    <>
      {messages.map((message) => (
        <article key={message.id} className={message.role}>
          {message.parts.map((part, index) =>
            part.type === "reasoning" ? <i key={index}>{part.text}</i> : <b key={index}>{part.text}</b>,
          )}
        </article>
      ))}
      <output>{status}</output>
      <p role="alert">{error?.message}</p>
      <form onSubmit={send}>
        <input value={prompt} onChange={(event) => setPrompt(event.target.value)} />
      </form>
      <button onClick={() => regenerate()}>Again</button>
      <button onClick={stop}>Stop</button>
    </>
  );
}

/** The client's own stop() only leaves; a reader that stays is told how the answer ended. */
function stop() {
  const headers = { "content-type": "application/json" };
  return fetch(`${api}${encodeURIComponent(id)}/stop`, { method: "POST", headers });
}
