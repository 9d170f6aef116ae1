// @ag-ui/client, unmodified: plays cases, all at once, and tells what a page sees.
//
//   node ag_ui.mjs <url> <headers as JSON> <cases as JSON: {name: case}>
//
// A case is {runs: [run, …], threadId?, headers?, url?}, for one agent. A run has what runAgent takes,
// and may have: `messages`, instead of those that the agent has; `drop`, how many of them to forget;
// `say`, what the user says; `stop`, to stop the answer at its first text, by the address that
// RUN_STARTED tells. Prints [name, [seen, …]] as each case ends.

import { HttpAgent } from "@ag-ui/client";

const [site, headers, cases] = [
  process.argv[2],
  JSON.parse(process.argv[3]),
  JSON.parse(process.argv[4]),
];

const warnings = [];
console.warn = (...words) => warnings.push(words.join(" "));
// A connection that breaks rejects runAgent, and once more where nobody can catch it.
process.on("unhandledRejection", (error) => console.error("unhandled:", error.message));

function recorder(seen, stops, agent) {
  return {
    onEvent: ({ event }) => {
      seen.events.push(event.type);
    },
    onRunStartedEvent: ({ event }) => {
      seen.started = event;
    },
    onTextMessageContentEvent: async ({ event }) => {
      seen.deltas.push(event.delta);
      if (stops && seen.deltas.length === 1) {
        await fetch(new URL(seen.started.metadata.stop_url, agent.url), {
          method: "POST",
          headers: { ...agent.headers, "Content-Type": "application/json" },
          body: "{}",
        });
      }
    },
    onRunErrorEvent: ({ event }) => {
      seen.error = event;
    },
    onRunFinishedEvent: ({ event, outcome, result, pendingToolCallIds }) => {
      seen.finished = { outcome, result, usage: event.usage, pendingToolCallIds };
    },
    onRunFailed: ({ error }) => {
      seen.failed = error.message;
    },
  };
}

async function play(agent, { messages, drop = 0, say, stop = false, ...parameters }) {
  const seen = { events: [], deltas: [], resolved: false };
  const before = messages ?? agent.messages;
  agent.setMessages(before.slice(0, before.length - drop));
  if (say !== undefined) {
    agent.addMessage({ id: crypto.randomUUID(), role: "user", content: say });
  }
  try {
    await agent.runAgent(parameters, recorder(seen, stop, agent));
    seen.resolved = true;
  } catch (error) {
    seen.rejected = { message: error.message, status: error.status, payload: error.payload };
  }
  seen.messages = structuredClone(agent.messages);
  return seen;
}

async function playAll(name, { runs, threadId, headers: more, url = site }) {
  const agent = new HttpAgent({ url, headers: { ...headers, ...more }, threadId });
  const seen = [];
  for (const run of runs) {
    seen.push(await play(agent, run));
  }
  console.log(JSON.stringify([name, seen]));
}

await Promise.all(Object.entries(cases).map((one) => playAll(...one)));
console.log(JSON.stringify(["warnings", warnings]));
