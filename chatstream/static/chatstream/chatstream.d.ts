/** Types of `chatstream.js`. */

export type State = "connecting" | "streaming" | "reconnecting" | "ended";

/** How the server says that a run ended. */
export type Outcome =
  | "completed"
  | "truncated"
  | "filtered"
  | "stopped"
  | "interrupted"
  | "failed";

/** What a frame or a refusal says of an error; the stable codes are in docs/design.md. */
export interface ErrorInfo {
  code: string;
  message: string;
  retryable: boolean;
  /** Seconds. */
  retry_after?: number;
  /** Refusals only: the HTTP status, 0 if there was no answer (code "network"). */
  status?: number;
  /** Refusals only: the field at fault. */
  field?: string;
  /** Code "conflict": the run that is open, and its stream. */
  run?: string;
  stream_url?: string;
}

export interface Usage {
  prompt_tokens?: number;
  completion_tokens?: number;
  total_tokens?: number;
}

/** The last event of a run, and only it. */
export interface End {
  type: "end";
  /**
   * What became of the run, or why nobody here knows: "refused" (the server would not start it, or
   * not let us follow), "lost" (no answer to the request that starts it: asking again with the same
   * `idempotency_key` is safe), "detached" (we left).
   */
  outcome: Outcome | "refused" | "lost" | "detached";
  /** null on success, and for "detached". */
  error: ErrorInfo | null;
  usage: Usage | null;
  /** All of the answer that came. */
  text: string;
}

export type RunEvent =
  | { type: "state"; state: Exclude<State, "ended"> }
  /** The run exists: from now on `follow(id)` finds it. */
  | { type: "created"; id: string; conversation: string | null; message: string | null }
  | { type: "text"; text: string }
  | { type: "start"; run: string; model: string }
  | { type: "reasoning"; text: string }
  | { type: "tool_call"; index: number; id?: string; name?: string; arguments: string }
  | { type: "tool_result"; id: string; output?: unknown; error?: string }
  | { type: "finish"; outcome: Outcome; finish_reason?: string; usage?: Usage }
  | End;

/** The body of `POST runs/`. */
export interface RunRequest {
  prompt?: string;
  messages?: { role: string; content: unknown }[];
  action?: "regenerate" | "continue" | "edit";
  message?: string;
  conversation?: string | null;
  provider?: string;
  model?: string;
  /** Made for you; give one to repeat a request whose answer was lost. */
  idempotency_key?: string;
}

/**
 * One answer. Iterate it for its events: each loop, whenever it begins, gets all of them, in order.
 * Leaving a loop leaves the run as it is; `detach` closes its connection.
 */
export interface Run extends AsyncIterable<RunEvent> {
  readonly id: string | null;
  readonly conversation: string | null;
  /** The answer's message in its conversation. */
  readonly message: string | null;
  readonly state: State;
  /** The answer so far. */
  readonly text: string;
  /** The number of the last frame that came. */
  readonly seq: number;
  /** What was sent, with its key; null for a run that was followed. */
  readonly request: RunRequest | null;
  readonly ended: Promise<End>;
  /**
   * Stop the answer on the server. Resolves once the server knows (or the run has ended); the run's
   * own end follows. Rejects with a `ChatError` if the server refuses; then the answer goes on.
   */
  stop(): Promise<void>;
  /** Leave: the connection closes, the server goes on, the run here ends as "detached". */
  detach(): void;
}

export interface Options {
  /** Aborting it is `detach()`. */
  signal?: AbortSignal;
}

export interface FollowOptions extends Options {
  /** The number of the last frame that you hold, and the text up to it. */
  after?: number;
  text?: string;
}

export interface Chat {
  /** Create a run and follow it. */
  start(request: RunRequest, options?: Options): Run;
  /** Follow a run that exists, from its beginning or after a frame. */
  follow(id: string, options?: FollowOptions): Run;
  /** Ask another endpoint, such as "conversations/"; throws a `ChatError`. */
  call(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<any>;
}

export interface ChatOptions {
  /** Returns the CSRF token, where it is neither in the cookie "csrftoken" nor in a form. */
  csrfToken?: () => string;
  /** How long `start` goes on trying without an answer; milliseconds, 30,000 unless given. */
  patience?: number;
}

/** `url` is where `chatstream.urls` is included. */
export function createChat(url?: string | URL, options?: ChatOptions): Chat;

export class ChatError extends Error implements ErrorInfo {
  constructor(info: Partial<ErrorInfo> & { code: string; message: string }, options?: ErrorOptions);
  code: string;
  retryable: boolean;
  status: number;
  retry_after?: number;
  field?: string;
  run?: string;
  stream_url?: string;
}

// The parts that hold no state, for those who write a client of their own.

export interface Held {
  seq: number;
  text: string;
  finish: object | null;
}

export function backoff(attempt: number, random?: number): number;
export function seqOf(id: string): number;
export function receive(
  held: Held,
  name: string,
  id: string,
  data: any,
): [Held, RunEvent | { type: "broken" } | null];
export function endOfStatus(status: any): End | null;
export function csrfToken(page?: Document): string;
export function newKey(): string;
