/** Return a session of the site at `url`: its cookies. */
export async function visit(url) {
  const options = { method: "POST", body: "{}" };
  const first = await as("")(new URL("/chat/conversations/", url), options);
  return first.headers.getSetCookie().map((one) => one.split(";")[0]).join("; ");
}

/**
 * Return a fetch with a session's cookies, the headers that a browser adds by itself, and more. With
 * `connection: close`, Node takes a response that is cut off for a whole one.
 */
export function as(cookie, more = {}) {
  return (to, { headers, ...options } = {}) => {
    const given = Object.fromEntries(new Headers(headers));
    const sent = { "content-type": "application/json", ...given, ...own(to), cookie, ...more };
    return fetch(to, { ...options, headers: sent });
  };
}

function own(url) {
  return { origin: new URL(url).origin, "sec-fetch-site": "same-origin" };
}
