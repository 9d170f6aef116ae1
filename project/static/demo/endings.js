/** How an answer ended, in words. Pure. */

const ERRORS = {
  filtered: "A content filter stopped this answer",
  stopped: "The answer was stopped",
  interrupted: "The server restarted in the middle of this answer",
  upstream_unreachable: "The model could not be reached",
  upstream_timeout: "The model went silent for too long",
  upstream_unavailable: "The model is not available right now",
  upstream_rate_limited: "The model is busy",
  upstream_quota: "The quota for this model is used up",
  upstream_rejected: "The model did not accept this prompt",
  upstream_too_large: "This is too long for the model",
  upstream_auth: "The server's key for the model was not accepted",
  upstream_incomplete: "The model broke off before the answer was whole",
  upstream_malformed: "The model sent something that is not an answer",
  upstream_error: "The model reported an error",
  too_long: "The answer grew longer than this site allows",
  stalled: "Nothing was read for too long, so the server closed this stream",
  storage: "The answer could not be stored",
  internal: "Something went wrong on the server",
  expired: "This answer is no longer kept",
};

const REFUSALS = {
  invalid: "The server did not accept this request",
  not_authenticated: "You need to log in first",
  forbidden: "You may not use this chat",
  csrf_failed: "The page's security token is out of date. Reload the page",
  not_found: "There is no chat at this address",
  method_not_allowed: "The server does not take this kind of request",
  unsupported_media_type: "The server does not take this kind of request",
  conflict: "This is being answered already",
  expired: "This is no longer kept",
  too_large: "This prompt is too large",
  throttled: "You asked too often",
  busy: "Too many answers are being written at once",
  storage: "The server's database is not available",
};

const STATES = {
  connecting: "Connecting…",
  reconnecting: "Connection lost. Reconnecting…",
  stopping: "Stopping…",
};

/** Return what is going on, in words; `hasText` is whether anything of the answer came. */
export function describeState(state, hasText) {
  return STATES[state] ?? (hasText ? "Answering…" : "Waiting for the first word…");
}

/**
 * Return `{ tone, words, code, canAskAgain }` for the `end` of a run; `tone` is "good", "warn" or
 * "bad", `code` the stable code to look up, or "".
 */
export function describeEnding({ outcome, error }) {
  switch (outcome) {
    case "completed":
      return say("good", "Done");
    case "truncated":
      return say("warn", "Cut off at the model's length limit: the answer is not whole", outcome);
    case "stopped":
      return say("warn", "Stopped by you: the answer is not whole", "", true);
    case "detached":
      return say("warn", "You left this answer; the server goes on with it");
    case "lost":
      return say("bad", "Connection lost: the server did not answer", "", true);
    default:
      return describeError(error, outcome === "refused" ? REFUSALS : ERRORS);
  }
}

function describeError({ code, message, retryable, retry_after: wait }, known) {
  const words = known[code] ?? message;
  return say("bad", wait ? `${words}. Try again in ${wait} s` : words, code, retryable);
}

const say = (tone, words, code = "", canAskAgain = false) => ({ tone, words, code, canAskAgain });

/** Return what was measured, as short phrases: the time to the first word, the token count. */
export function describeFigures({ firstWordMs, tokens }) {
  const figures = [];
  if (firstWordMs !== null) figures.push(`first word after ${(firstWordMs / 1000).toFixed(2)} s`);
  if (Number.isInteger(tokens)) figures.push(`${tokens} ${tokens === 1 ? "token" : "tokens"}`);
  return figures;
}
