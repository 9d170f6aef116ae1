/**
 * The openai package, all cases at once: node openai.mjs <key> <JSON: [{name, url, model, prompt}]>
 *
 * Prints [name, [attempt, …]] for each case: what the code sees of the stream, and once more if its
 * connection broke, with the same Idempotency-Key.
 */
import OpenAI, { APIError } from "openai";

const [apiKey, cases] = [process.argv[2], JSON.parse(process.argv[3])];
await Promise.all(cases.map(play));

async function play({ name, url, model, prompt }) {
  const client = new OpenAI({ baseURL: `${url}chat/v1`, apiKey });
  const attempts = [await ask(client, model, prompt)];
  if (attempts[0].is_broken) attempts.push(await ask(client, model, prompt));
  console.log(JSON.stringify([name, attempts]));
}

async function ask(client, model, prompt) {
  const seen = { text: "", finish_reason: null };
  const body = { model, messages: [{ role: "user", content: prompt }], stream: true };
  try {
    const headers = { "Idempotency-Key": model };
    for await (const { choices } of await client.chat.completions.create(body, { headers })) {
      seen.text += choices[0].delta.content ?? "";
      seen.finish_reason = choices[0].finish_reason;
    }
  } catch (error) {
    seen.raised = error.constructor.name;
    seen.status = error.status;
    seen.code = error.code;
    // A stream that breaks is no APIError here, but what fetch throws.
    seen.is_broken = !(error instanceof APIError) || error instanceof OpenAI.APIConnectionError;
  }
  return seen;
}
