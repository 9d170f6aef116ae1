"""What the scripted upstream can do: one function for each behaviour, ``BEHAVIOURS`` by name.

The listed behaviours come first, in the order of the list; ``further`` marks those that we thought
of ourselves. What a relay must make of each stands in ``tests.faults``. Every text that a provider
might say for itself holds ``PROVIDER_WORDS``, so that a leak is found by one search.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from tests.upstream import Peer

__all__ = [
    "BEHAVIOURS",
    "HTML_TEXT",
    "INJECTION",
    "LONG",
    "MARKDOWN",
    "PARTIAL",
    "PROVIDER_WORDS",
    "REFUSAL",
    "SURROGATES",
    "TEXT",
    "chunk",
]

Behaviour = Callable[[Peer], None]
BEHAVIOURS: dict[str, Behaviour] = {}
FURTHER: set[str] = set()

TOKENS = ["Hello", " wörld", ",", " 你好", " 🎉", "\n", "- one", "\n", "- \"two\" \\ 'three'", "."]
TEXT = "".join(TOKENS)
FEW = TOKENS[:4]
PARTIAL = "".join(FEW)
LONG = "".join(f"tok{n} " for n in range(3000))
INJECTION = (
    'a\n\ndata: {"done": true}\n\nevent: error\rid: 1\r\nretry: 1\n\n: c'
    "\u2028\u2029\u0085\0\x0b\ufeff"
    '{"text": "x"} data: [DONE]\n\n'
)
HTML_TEXT = (
    "<script>alert(1)</script> [a](javascript:alert(1)) ![b](https://evil.invalid/i.png?q=1)"
    "<img src=x onerror=alert(1)></div>&amp;"
)
MARKDOWN = """\
By its **last event**. A connection that closes says *nothing*; the
[stream](https://html.spec.whatwg.org/multipage/server-sent-events.html) says `done`:

1. append each `text` that comes,
2. stop at `done` or at `error`,
3. without either, ask again from the last id.

> Nothing is lost, and nothing comes twice.

```python
async for event in stream:
    if "text" in event:
        answer += event["text"]
    elif "done" in event:
        return answer  # all of it
```

| ending | what it means | try again |
| --- | --- | ---: |
| `done` | the answer is whole[^1] | no |
| `error` | its code says why not | maybe |

- [x] keep the last id
- [ ] guess

[^1]: And saved.
"""
REFUSAL = "I cannot help with that."
SURROGATES = "lone \ud83c end, pair 🎉."
PROVIDER_WORDS = "zq-provider-words-zq"
STALL = 30.0  # seconds after which an endless behaviour gives up
BIG = 10 * 1024 * 1024

Json = Any


def chunk(content: Json = ..., *, finish: Json = None, index: int = 0, **delta: Json) -> Json:
    """Return one chat completion chunk; ``...`` leaves ``content`` out of the delta."""
    if content is not ...:
        delta["content"] = content
    return whole([{"index": index, "delta": delta, "finish_reason": finish}])


def whole(choices: Json, **more: Json) -> Json:
    """Return a chunk around ``choices``."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "scripted",
        "choices": choices,
        **more,
    }


def dump(data: Json) -> str:
    """Leave letters as they are, so that UTF-8 is on the wire; lone surrogates are escaped."""
    try:
        return json.dumps(data, ensure_ascii=False).encode().decode()
    except UnicodeEncodeError:
        return json.dumps(data)


def event(data: Json) -> bytes:
    """Return ``data`` (text as it is, else JSON) as one event."""
    return f"data: {data if isinstance(data, str) else dump(data)}\n\n".encode()


ROLE = chunk("", role="assistant")
STOP = chunk(finish="stop")
DONE = event("[DONE]")
ERROR = {
    "error": {
        "message": f"The server had an error {PROVIDER_WORDS} at http://10.0.0.1/internal",
        "type": "server_error",
        "param": None,
        "code": None,
    }
}


def events(tokens: Iterable[str] = TOKENS) -> list[bytes]:
    """Return the whole good answer as a list of events."""
    return [event(ROLE), *(event(chunk(token)) for token in tokens), event(STOP), DONE]


def behaviour(play: Behaviour) -> Behaviour:
    BEHAVIOURS[play.__name__] = play
    return play


def further(play: Behaviour) -> Behaviour:
    FURTHER.add(play.__name__)
    return behaviour(play)


def say(peer: Peer, *data: Json) -> None:
    for one in data:
        peer.body(event(one))


def start(peer: Peer, tokens: Sequence[str] = FEW) -> None:
    """Headers, the role chunk and some tokens: what comes before most faults."""
    peer.head()
    say(peer, ROLE, *(chunk(token) for token in tokens))


def finish(peer: Peer) -> None:
    """finish_reason stop, [DONE], and the end of the body."""
    say(peer, STOP)
    peer.body(DONE)
    peer.end()


def answer(peer: Peer, parts: Iterable[bytes]) -> None:
    peer.head()
    for part in parts:
        peer.body(part)
    peer.end()


def refuse(peer: Peer, status: int, body: Json, *headers: str) -> None:
    """Answer with a status and a whole body: JSON, or HTML if it is text."""
    is_html = isinstance(body, str)
    data = body.encode() if is_html else dump(body).encode()
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Odd"
    peer.head(
        f"{status} {phrase}",
        f"Content-Length: {len(data)}",
        *headers,
        content_type="text/html" if is_html else "application/json",
        chunked=False,
    )
    peer.send(data)


def error_body(message: str, code: str | None = None, type: str = "invalid_request_error") -> Json:
    message = f"{message} {PROVIDER_WORDS}"
    return {"error": {"message": message, "type": type, "param": None, "code": code}}


HTML = f"<!doctype html><html><body><h1>Bad {PROVIDER_WORDS}</h1><a href='http://x/'>x</a></body>"


# ---------------------------------------------------------------- ok


@behaviour
def ok(peer: Peer) -> None:
    answer(peer, events())


@behaviour
def ok_slow(peer: Peer) -> None:
    peer.head()
    for part in events():
        peer.pause(0.3)
        peer.body(part)
    peer.end()


@behaviour
def ok_long(peer: Peer) -> None:
    answer(peer, events(f"tok{n} " for n in range(3000)))


@behaviour
def ok_slow_first(peer: Peer) -> None:
    peer.head()
    peer.pause(3)
    say(peer, ROLE, *map(chunk, TOKENS))
    finish(peer)


@behaviour
def ok_usage(peer: Peer) -> None:
    start(peer, TOKENS)
    usage = {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17}
    say(peer, STOP, whole([], usage=usage))
    peer.body(DONE)
    peer.end()


@behaviour
def ok_eof_delimited(peer: Peer) -> None:
    peer.head("200 OK", "Connection: close", chunked=False)
    peer.body(b"".join(events()))
    peer.fin()


@behaviour
def ok_content_length(peer: Peer) -> None:
    body = b"".join(events())
    peer.head("200 OK", f"Content-Length: {len(body)}", chunked=False)
    peer.body(body)


@behaviour
def ok_crlf(peer: Peer) -> None:
    answer(peer, (part.replace(b"\n", b"\r\n") for part in events()))


@behaviour
def ok_cr(peer: Peer) -> None:
    answer(peer, (part.replace(b"\n", b"\r") for part in events()))


@behaviour
def ok_no_space(peer: Peer) -> None:
    answer(peer, (part.replace(b"data: ", b"data:", 1) for part in events()))


@behaviour
def ok_comments(peer: Peer) -> None:
    peer.head()
    peer.body(b": OPENROUTER PROCESSING\n\n")
    for part in events():
        peer.body(b":\n\n: another\n" + part)
    peer.end()


@behaviour
def ok_event_id_retry(peer: Peer) -> None:
    peer.head()
    peer.body(b"retry: 5000\n\n")
    for number, part in enumerate(events()):
        peer.body(b"event: chunk\nid: %d\nretry: 100\n%b" % (number, part))
        peer.body(b"event: nothing\n\n")
    peer.end()


@behaviour
def ok_id_then_comment(peer: Peer) -> None:
    peer.head()
    for part in events():
        peer.body(b"id: 7\n" + part + b": ping\n\n")
    peer.end()


@behaviour
def ok_empty_data(peer: Peer) -> None:
    peer.head()
    for part in events():
        peer.body(b"data:\n\n" + part + b"data\n\ndata: \n\n")
    peer.end()


@behaviour
def ok_multiline_data(peer: Peer) -> None:
    peer.head()
    for data in (ROLE, *map(chunk, TOKENS), STOP):
        lines = json.dumps(data, indent=1, ensure_ascii=False).split("\n")
        peer.body("".join(f"data: {line}\n" for line in lines).encode() + b"\n")
    peer.body(DONE)
    peer.end()


@behaviour
def ok_bom(peer: Peer) -> None:
    # The BOM stands before a token, not before the role chunk, which nobody would miss.
    parts = [event(chunk(TOKENS[0], role="assistant")), *events()[2:]]
    answer(peer, [b"\xef\xbb\xbf", *parts])


@behaviour
def ok_one_byte(peer: Peer) -> None:
    peer.head()
    for byte in b"".join(events()):
        peer.send(b"1\r\n%c\r\n" % byte)
    peer.end()


@behaviour
def ok_split_utf8(peer: Peer) -> None:
    peer.head()
    for part in b"".join(events()).splitlines(keepends=True):
        cuts = [n for n, byte in enumerate(part) if byte & 0xC0 == 0x80]
        for begin, end in zip([0, *cuts], [*cuts, len(part)], strict=True):
            peer.body(part[begin:end])
            if cuts:
                peer.pause(0.005)
    peer.end()


@behaviour
def ok_split_crlf(peer: Peer) -> None:
    peer.head()
    for part in events():
        for piece in part.replace(b"\n", b"\r\n").replace(b"\r\n", b"\r|\n|").split(b"|"):
            if piece:
                peer.body(piece)
                peer.pause(0.005)
    peer.end()


def compressed(peer: Peer, coding: str, wbits: int) -> None:
    peer.head("200 OK", f"Content-Encoding: {coding}")
    packer = zlib.compressobj(wbits=wbits)
    for part in events():
        peer.body(packer.compress(part) + packer.flush(zlib.Z_SYNC_FLUSH))
    peer.body(packer.flush())
    peer.end()


@behaviour
def ok_gzip(peer: Peer) -> None:
    compressed(peer, "gzip", 31)


@behaviour
def ok_empty_choices(peer: Peer) -> None:
    answer(peer, [event(whole([], prompt_filter_results=[{"prompt_index": 0}])), *events()])


@behaviour
def ok_null_content(peer: Peer) -> None:
    peer.head()
    for token in TOKENS:
        say(peer, chunk(None), chunk(""), chunk(), chunk(token))
    finish(peer)


@behaviour
def ok_null_delta(peer: Peer) -> None:
    start(peer, FEW)
    say(peer, whole([{"index": 0, "delta": None, "finish_reason": None}]), whole([{"index": 0}]))
    say(peer, *map(chunk, TOKENS[len(FEW) :]))
    finish(peer)


@behaviour
def ok_n2(peer: Peer) -> None:
    peer.head()
    for token in TOKENS:
        say(peer, chunk(token), chunk(f"other{token}", index=1))
    both = [
        {"index": 1, "delta": {"content": "both"}, "finish_reason": None},
        {"index": 0, "delta": {}, "finish_reason": None},
    ]
    say(peer, whole(both), chunk(finish="length", index=1))
    finish(peer)


@behaviour
def ok_reasoning(peer: Peer) -> None:
    peer.head()
    say(peer, ROLE, chunk(None, reasoning_content="Let me "), chunk("", reasoning="think."))
    say(peer, *map(chunk, TOKENS))
    finish(peer)


@behaviour
def ok_unknown_fields(peer: Peer) -> None:
    peer.head()
    for token in TOKENS:
        data = chunk(token, x_delta={"a": [1]}, annotations=[])
        data["choices"][0] |= {"logprobs": {"content": None}, "x_choice": 1.5}
        say(peer, data | {"x_groq": {"id": "r"}, "system_fingerprint": None, "obfuscation": "k"})
    say(peer, chunk(finish="eos"))
    peer.body(DONE)
    peer.end()


@behaviour
def ok_no_finish_reason(peer: Peer) -> None:
    start(peer, TOKENS)
    peer.body(DONE)
    peer.end()


@behaviour
def ok_no_done(peer: Peer) -> None:
    start(peer, TOKENS)
    say(peer, STOP)
    peer.end()


@behaviour
def ok_empty_answer(peer: Peer) -> None:
    start(peer, [])
    finish(peer)


@behaviour
def ok_data_after_done(peer: Peer) -> None:
    answer(peer, [*events(), event(chunk("after")), event("not json"), event(ERROR)])


@behaviour
def ok_dup_done(peer: Peer) -> None:
    answer(peer, [*events(), DONE])


@behaviour
def ok_done_then_hang(peer: Peer) -> None:
    peer.head()
    for part in events():
        peer.body(part)
    peer.hold()


@behaviour
def ok_429_then_ok(peer: Peer) -> None:
    if peer.nth == 1:
        refuse(peer, 429, error_body("Slow down", "rate_limit_exceeded"), "Retry-After: 1")
    else:
        ok(peer)


@behaviour
def ok_503_then_ok(peer: Peer) -> None:
    if peer.nth == 1:
        refuse(peer, 503, error_body("Overloaded"))
    else:
        ok(peer)


@behaviour
def ok_injection(peer: Peer) -> None:
    start(peer, [INJECTION])
    finish(peer)


@behaviour
def ok_html(peer: Peer) -> None:
    start(peer, [HTML_TEXT[:20], HTML_TEXT[20:]])
    finish(peer)


@behaviour
def ok_huge_chunk(peer: Peer) -> None:
    start(peer, ["x" * BIG])
    finish(peer)


# ---------------------------------------------------------------- flag


def finished_as(peer: Peer, tokens: Sequence[str], reason: str) -> None:
    start(peer, tokens)
    say(peer, chunk(finish=reason))
    peer.body(DONE)
    peer.end()


@behaviour
def finish_length(peer: Peer) -> None:
    finished_as(peer, FEW, "length")


@behaviour
def finish_content_filter(peer: Peer) -> None:
    finished_as(peer, FEW, "content_filter")


def call(index: Json, **more: Json) -> Json:
    return chunk(tool_calls=[{"index": index, **more}])


@behaviour
def finish_tool_calls(peer: Peer) -> None:
    peer.head()
    function = {"name": "weather", "arguments": ""}
    say(peer, chunk(None, role="assistant"), call(0, id="c1", type="function", function=function))
    say(peer, *(call(0, function={"arguments": piece}) for piece in ('{"city"', ': "Bern"}')))
    say(peer, chunk(finish="tool_calls"))
    peer.body(DONE)
    peer.end()


@behaviour
def finish_refusal(peer: Peer) -> None:
    peer.head()
    say(peer, chunk(None, role="assistant", refusal=""))
    say(peer, chunk(refusal=REFUSAL[:8]), chunk(refusal=REFUSAL[8:]))
    finish(peer)


# ---------------------------------------------------------------- http


def status(name: str, code: int, body: Json, *headers: str) -> None:
    BEHAVIOURS[name] = lambda peer: refuse(peer, code, body, *headers)


status("http_400", 400, error_body("Invalid 'messages'"))
status("http_400_context", 400, error_body("Maximum is 8192 tokens", "context_length_exceeded"))
status("http_400_content_filter", 400, error_body("Content management policy", "content_filter"))
status("http_403", 403, error_body("Project has no access to model"))
status("http_404", 404, error_body("The model does not exist", "model_not_found"))
status("http_408", 408, error_body("Request timed out"))
status("http_422", 422, {"detail": [{"loc": ["body", "messages"], "msg": PROVIDER_WORDS}]})
status("http_429", 429, error_body("Rate limit reached", "rate_limit_exceeded"))
status("http_429_retry_after", 429, error_body("Rate limit"), "Retry-After: 45")
status("http_429_quota", 429, error_body("Check your plan", "insufficient_quota"))
status("http_500", 500, error_body("Server error", type="server_error"))
status("http_502_html", 502, HTML)
status("http_503_html", 503, HTML, "Retry-After: 45")
status("http_504", 504, error_body("Gateway timeout"))
status("http_200_json_error", 200, error_body("Something"))
status("http_200_html", 200, HTML)


@behaviour
def http_204(peer: Peer) -> None:
    peer.head("204 No Content", content_type=None, chunked=False)


@behaviour
def http_401_key_echo(peer: Peer) -> None:
    key = peer.request.headers.get("authorization", "none")
    refuse(peer, 401, error_body(f"Incorrect API key provided: {key}", "invalid_api_key"))


# ---------------------------------------------------------------- cut


@behaviour
def fin_before_headers(peer: Peer) -> None:
    peer.fin()


@behaviour
def rst_before_headers(peer: Peer) -> None:
    peer.rst()


@behaviour
def rst_mid_stream(peer: Peer) -> None:
    start(peer)
    peer.rst()


@behaviour
def rst_mid_chunk(peer: Peer) -> None:
    start(peer)
    peer.send(b"400\r\ndata: " + dump(chunk("never"))[:30].encode())
    peer.rst()


@behaviour
def fin_mid_stream(peer: Peer) -> None:
    start(peer)
    peer.fin()


@behaviour
def fin_mid_chunk(peer: Peer) -> None:
    start(peer)
    peer.send(b"400\r\ndata: " + dump(chunk("never"))[:30].encode())
    peer.fin()


@behaviour
def end_no_finish(peer: Peer) -> None:
    start(peer)
    peer.end()


@behaviour
def end_no_finish_eof(peer: Peer) -> None:
    peer.head("200 OK", "Connection: close", chunked=False)
    say(peer, ROLE, *map(chunk, FEW))
    peer.body(event(chunk("never"))[:40])
    peer.fin()


@behaviour
def short_content_length(peer: Peer) -> None:
    peer.head("200 OK", "Content-Length: 100000", chunked=False)
    say(peer, ROLE, *map(chunk, FEW))
    peer.fin()


@behaviour
def empty_200(peer: Peer) -> None:
    peer.head()
    peer.end()


# ---------------------------------------------------------------- hang


@behaviour
def hang_before_headers(peer: Peer) -> None:
    peer.hold()


@behaviour
def hang_after_headers(peer: Peer) -> None:
    peer.head()
    peer.hold()


@behaviour
def hang_after_role(peer: Peer) -> None:
    start(peer, [])
    peer.hold()


@behaviour
def hang_mid_stream(peer: Peer) -> None:
    start(peer)
    peer.hold()


@behaviour
def hang_with_pings(peer: Peer) -> None:
    peer.head()
    for _ in range(int(STALL / 0.5)):
        peer.pause(0.5)
        peer.body(b": ping\n\n")
    peer.hold()


@behaviour
def endless(peer: Peer) -> None:
    start(peer, [])
    for number in range(int(STALL * 50)):
        say(peer, chunk(f"{number} "))
        peer.pause(0.02)
    peer.hold()


@further
def lines(peer: Peer) -> None:
    start(peer, [])
    for number in range(int(STALL * 50)):
        say(peer, chunk(f"Line {number}.\n\n"))
        peer.pause(0.02)
    finish(peer)


@further
def markdown(peer: Peer) -> None:
    answer(peer, events(line + "\n" for line in MARKDOWN.split("\n")))


@further
def markdown_hang(peer: Peer) -> None:
    start(peer, [MARKDOWN.partition("```")[0]])
    peer.hold()


@behaviour
def endless_fast(peer: Peer) -> None:
    start(peer, [])
    part = event(chunk("y" * 1024)) * 16
    for _ in range(256 * 64):
        peer.body(part)
    peer.hold()


# ---------------------------------------------------------------- data


def then(name: str, *parts: bytes, first: bool = False, ours: bool = False) -> None:
    """Register: some tokens (unless ``first``), then ``parts``, and after a moment a good rest.

    The moment is for the relay to close the connection, before HTTP has ended well.
    """

    def play(peer: Peer) -> None:
        if first:
            peer.head()
        else:
            start(peer)
        for part in parts:
            peer.body(part)
        peer.pause(0.6)
        say(peer, *map(chunk, TOKENS[len(FEW) :]))
        finish(peer)

    BEHAVIOURS[name] = play
    if ours:
        FURTHER.add(name)


def then_hold(name: str, *parts: bytes, first: bool = False, ours: bool = False) -> None:
    """Register: some tokens (unless ``first``), then ``parts``, and the connection stays open."""

    def play(peer: Peer) -> None:
        if first:
            peer.head()
        else:
            start(peer)
        for part in parts:
            peer.body(part)
        peer.hold()

    BEHAVIOURS[name] = play
    if ours:
        FURTHER.add(name)


then("bad_json", b'data: {"id": "x", "choices": [{"delta": {"content": "bro\n\n')
then("bad_json_first", b"data: {oops\n\n", first=True)
then("json_null", event("null"))
then("json_string", event('"oops"'))
then("invalid_utf8", event(chunk("@")).replace(b"@", b"\xff\xfe"))


@behaviour
def not_sse(peer: Peer) -> None:
    peer.head()
    for word in ("Hello", PROVIDER_WORDS, "this is", "plain text"):
        peer.body(f"{word}\n".encode())
    peer.end()


then_hold("error_object", event(ERROR))
then_hold(
    "error_object_first",
    event(error_body("Rate limit", "rate_limit_exceeded", "requests")),
    first=True,
)
then_hold("error_event", b'event: error\ndata: {"detail": "%b"}\n\n' % PROVIDER_WORDS.encode())


@behaviour
def error_finish_reason(peer: Peer) -> None:
    start(peer)
    say(peer, {**chunk("", finish="error"), "error": {"code": 502, "message": PROVIDER_WORDS}})
    peer.pause(0.6)
    peer.body(DONE)
    peer.end()


# ================================================================ further: HTTP


@further
def http_307_loop(peer: Peer) -> None:
    refuse(peer, 307, "", "Location: /v1/chat/completions")


@further
def http_302_other_host(peer: Peer) -> None:
    port = peer.sock.getsockname()[1]
    refuse(peer, 302, "", f"Location: http://localhost:{port}/play-redirected/v1/")


def status_further(name: str, code: int, body: Json, *headers: str) -> None:
    FURTHER.add(name)
    status(name, code, body, *headers)


status_further("http_402", 402, error_body("Insufficient credits"))
status_further("http_405", 405, HTML)
status_further("http_409", 409, error_body("Conflict"))
status_further("http_413", 413, HTML)
status_further("http_418", 418, error_body("Teapot"))
status_further("http_429_garbage", 429, error_body("Slow down"), "Retry-After: soon; ünsafe")
status_further("http_429_huge", 429, error_body("Slow down"), "Retry-After: " + "9" * 40)
status_further("http_429_negative", 429, error_body("Slow down"), "Retry-After: -5")
status_further("http_429_nan", 429, error_body("Slow down"), "Retry-After: nan")
status_further("http_500_string_body", 500, {"error": PROVIDER_WORDS})
status_further("http_500_list_body", 500, [PROVIDER_WORDS, None, 1])
status_further("http_520", 520, HTML)
status_further("http_529", 529, error_body("Overloaded", type="overloaded_error"))
status_further("http_600", 600, error_body("No such class of status"))
status_further("http_200_completion", 200, {"choices": [{"message": {"content": "whole"}}]})


@further
def http_429_date(peer: Peer) -> None:
    refuse(
        peer, 429, error_body("Slow"), f"Retry-After: {formatdate(time.time() + 30, usegmt=True)}"
    )


@further
def http_101(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
    peer.hold()


@further
def http_401_hang_body(peer: Peer) -> None:
    length = "Content-Length: 500"
    peer.head("401 Unauthorized", length, content_type="application/json", chunked=False)
    peer.send(b'{"error": ')
    peer.hold()


@further
def http_500_endless_body(peer: Peer) -> None:
    peer.head("500 Internal Server Error", content_type="text/html")
    for _ in range(8192):
        peer.body(b"<p>" * 10922)
    peer.hold()


@further
def http_500_drip_body(peer: Peer) -> None:
    peer.head("500 Internal Server Error", content_type="application/json")
    for _ in range(int(STALL / 0.2)):
        peer.body(b" ")
        peer.pause(0.2)
    peer.hold()


@further
def http_201(peer: Peer) -> None:
    peer.head("201 Created")
    for part in events():
        peer.body(part)
    peer.end()


@further
def ok_text_plain(peer: Peer) -> None:
    peer.head(content_type="text/plain")
    for part in events():
        peer.body(part)
    peer.end()


@further
def ok_no_content_type(peer: Peer) -> None:
    peer.head(content_type=None)
    for part in events():
        peer.body(part)
    peer.end()


@further
def ok_content_type_case(peer: Peer) -> None:
    peer.head(content_type="Text/Event-Stream;Charset=UTF8")
    for part in events():
        peer.body(part)
    peer.end()


@further
def ok_http10(peer: Peer) -> None:
    peer.is_chunked = False
    peer.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    peer.body(b"".join(events()))
    peer.fin()


@further
def ok_100_continue(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    peer.pause(0.1)
    ok(peer)


@further
def ok_early_hints(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n" * 3)
    ok(peer)


@further
def ok_trailers(peer: Peer) -> None:
    peer.head("200 OK", "Trailer: X-Sum")
    for part in events():
        peer.body(part)
    peer.send(b"0\r\nX-Sum: 1\r\nX-Other: data: [DONE]\r\n\r\n")


@further
def ok_chunk_extensions(peer: Peer) -> None:
    peer.head()
    for part in events():
        peer.send(b'%x;name=value;q="a"\r\n%b\r\n' % (len(part), part))
    peer.end()


@further
def ok_uppercase_hex(peer: Peer) -> None:
    peer.head()
    for part in events():
        peer.send(b"000%X\r\n%b\r\n" % (len(part), part))
    peer.end()


@further
def ok_one_write(peer: Peer) -> None:
    parts = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in events())
    peer.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"
    )


@further
def ok_connection_close(peer: Peer) -> None:
    peer.head("200 OK", "Connection: close")
    for part in events():
        peer.body(part)
    peer.end()
    peer.fin()


@further
def ok_identity(peer: Peer) -> None:
    peer.head("200 OK", "Content-Encoding: identity")
    for part in events():
        peer.body(part)
    peer.end()


@further
def ok_before_body(peer: Peer) -> None:
    """Reached through ``url_playing``: answers before it has read the request's body."""
    ok(peer)


STRAY = b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\ndata: [DONE]\n\n\r\n"


@further
def ok_stray_with_end(peer: Peer) -> None:
    """Bytes after the response, in one write with its end."""
    peer.head()
    for part in events():
        peer.body(part)
    peer.send(b"0\r\n\r\n" + STRAY)
    peer.hold()


@further
def ok_stray_later(peer: Peer) -> None:
    """Bytes after the response, when the connection lies in the pool."""
    ok(peer)
    peer.pause(0.3)
    peer.send(STRAY)
    peer.hold()


@further
def ok_fin_after(peer: Peer) -> None:
    ok(peer)
    peer.fin()


@further
def stale(peer: Peer) -> None:
    """A good answer on a fresh connection; FIN, without a byte, on one that was used before."""
    if len(peer.connection.requests) > 1:
        peer.fin()
    ok(peer)


@further
def deflate(peer: Peer) -> None:
    compressed(peer, "deflate", 15)


@further
def brotli(peer: Peer) -> None:
    """One uncompressed meta-block (RFC 7932, section 9.2), then the empty last one."""
    body = b"".join(events())
    peer.head("200 OK", "Content-Encoding: br")
    peer.body(((len(body) - 1 << 4) | 1 << 20).to_bytes(3, "little") + body + b"\x03")
    peer.end()


@further
def unknown_coding(peer: Peer) -> None:
    peer.head("200 OK", "Content-Encoding: x-rot13")
    peer.body(b"\x01\x02\x03 qngn: uryyb\n\n")
    peer.end()


@further
def gzip_garbage(peer: Peer) -> None:
    peer.head("200 OK", "Content-Encoding: gzip")
    for part in events():
        peer.body(part)
    peer.end()


@further
def gzip_bomb(peer: Peer) -> None:
    """256 MiB of one event in some 256 KiB."""
    peer.head("200 OK", "Content-Encoding: gzip")
    packer = zlib.compressobj(9, wbits=31)
    peer.body(packer.compress(b'data: {"x": "'))
    for _ in range(256):
        peer.body(packer.compress(b"x" * 1048576) + packer.flush(zlib.Z_SYNC_FLUSH))
    peer.body(packer.flush())
    peer.end()


@further
def header_line_endless(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nX-Endless: ")
    for _ in range(1024):
        peer.send(b"a" * 65536)
    peer.hold()


@further
def headers_thousands(peer: Peer) -> None:
    peer.head("200 OK", *(f"X-Header-{n}: {n}" for n in range(5000)))
    for part in events():
        peer.body(part)
    peer.end()


@further
def headers_drip(peer: Peer) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 200:
        peer.send(bytes([byte]))
        peer.pause(0.2)
    peer.hold()


@further
def flood_1xx(peer: Peer) -> None:
    for _ in range(int(STALL / 0.01)):
        peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        peer.pause(0.01)
    peer.hold()


@further
def status_garbage(peer: Peer) -> None:
    peer.send(b"SSH-2.0-OpenSSH_9.2 " + PROVIDER_WORDS.encode() + b"\r\n\r\n")
    peer.hold()


@further
def comments_before_headers(peer: Peer) -> None:
    for _ in range(int(STALL / 0.1)):
        peer.send(b": ping\n\n")
        peer.pause(0.1)
    peer.hold()


def raw(name: str, head: bytes, rest: bytes = b"") -> None:
    """Register: this very head, a good body without chunked coding, ``rest``, and a held end."""

    def play(peer: Peer) -> None:
        peer.is_chunked = False
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + head + b"\r\n")
        peer.body(b"".join(events()) + rest)
        peer.hold()

    FURTHER.add(name)
    BEHAVIOURS[name] = play


raw("content_length_negative", b"Content-Length: -5\r\n")
raw("content_length_garbage", b"Content-Length: many\r\n")
raw("content_length_two", b"Content-Length: 10\r\nContent-Length: 20\r\n")
raw("header_with_nul", b"X-Nul: a\0b\r\nConnection: close\r\n")


def broken_chunk(name: str, garbage: bytes) -> None:
    """Register: some tokens, then ``garbage`` where a chunk's size should be, and then nothing."""

    def play(peer: Peer) -> None:
        start(peer)
        peer.pause(0.5)
        peer.send(garbage)
        peer.hold()

    FURTHER.add(name)
    BEHAVIOURS[name] = play


broken_chunk("chunk_size_garbage", b"zzz\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
broken_chunk("chunk_size_negative", b"-5\r\ndata: [DONE]\n\n\r\n")
broken_chunk("chunk_size_huge", b"f" * 40 + b"\r\n" + DONE)
broken_chunk("chunk_unterminated", b"2\r\n\n\nXX0\r\n\r\n")
broken_chunk("tls_alert", b"\x15\x03\x03\x00\x02\x02\x50")


# ================================================================ further: events


@further
def ok_big_chunk(peer: Peer) -> None:
    start(peer, ["z" * 1_000_000])
    finish(peer)


@further
def ok_many_in_one_write(peer: Peer) -> None:
    peer.head()
    peer.body(b"".join(events(f"tok{n} " for n in range(3000))))
    peer.end()


@further
def ok_finish_in_first_chunk(peer: Peer) -> None:
    peer.head()
    say(peer, chunk(TEXT, role="assistant", finish="stop"))
    peer.end()


@further
def ok_finish_with_last_token(peer: Peer) -> None:
    start(peer, TOKENS[:-1])
    say(peer, chunk(TOKENS[-1], finish="stop"))
    peer.body(DONE)
    peer.end()


@further
def ok_finish_then_rst(peer: Peer) -> None:
    start(peer, TOKENS)
    say(peer, STOP)
    peer.rst()


@further
def ok_finish_then_fin_in_chunk(peer: Peer) -> None:
    start(peer, TOKENS)
    say(peer, STOP)
    peer.send(b"400\r\ndata: {")
    peer.fin()


@further
def ok_finish_then_hang(peer: Peer) -> None:
    start(peer, TOKENS)
    say(peer, STOP)
    peer.hold()


@further
def ok_done_late_end(peer: Peer) -> None:
    """The end of the body comes a while after ``[DONE]``."""
    peer.head()
    for part in events():
        peer.body(part)
    peer.pause(0.1)
    peer.end()


@further
def ok_finish_then_pings(peer: Peer) -> None:
    start(peer, TOKENS)
    say(peer, STOP)
    for _ in range(int(STALL / 0.3)):
        peer.body(b": ping\n\n")
        peer.pause(0.3)
    peer.hold()


@further
def ok_error_after_done(peer: Peer) -> None:
    answer(peer, [*events(), event(ERROR), b'event: error\ndata: {"x": 1}\n\n'])


@further
def ok_role_every_chunk(peer: Peer) -> None:
    peer.head()
    say(peer, *(chunk(token, role="assistant", function_call=None) for token in TOKENS))
    finish(peer)


@further
def ok_no_index(peer: Peer) -> None:
    peer.head()
    say(peer, *(whole([{"delta": {"content": token}}]) for token in TOKENS))
    say(peer, whole([{"delta": {}, "finish_reason": "stop"}]))
    peer.body(DONE)
    peer.end()


@further
def ok_bare_choices(peer: Peer) -> None:
    """No id, object, created or model: nothing but what an answer needs."""
    peer.head()
    say(peer, *({"choices": [{"delta": {"content": token}}]} for token in TOKENS))
    say(peer, {"choices": [{"finish_reason": "stop"}]})
    peer.end()


@further
def ok_error_null(peer: Peer) -> None:
    peer.head()
    say(peer, *(chunk(token) | {"error": None} for token in TOKENS))
    finish(peer)


@further
def ok_other_choice_first(peer: Peer) -> None:
    """Choice 1 ends long before choice 0: no end of the answer that is shown."""
    start(peer, FEW)
    say(peer, chunk("other", index=1), chunk(finish="content_filter", index=1))
    peer.pause(1.2)
    say(peer, *map(chunk, TOKENS[len(FEW) :]))
    finish(peer)


@further
def other_choice_only_finish(peer: Peer) -> None:
    start(peer, FEW)
    say(peer, chunk(finish="stop", index=1))
    peer.end()


then("ok_choices_null", event(whole(None)), event({"choices": None}), ours=True)
then("ok_choices_absent", event({"id": "x"}), event({"type": "ping"}), event("{}"), ours=True)
then("choice_null", event(whole([None])), ours=True)
then("ok_named_ping", b"event: ping\ndata: {}\n\nevent: heartbeat\n\n", ours=True)
then("ok_usage_nulls", event(whole([], usage={"prompt_tokens": None})), ours=True)
then("ok_usage_null", event(whole([], usage=None)), ours=True)
then("ok_leading_space_json", b"data:    " + event(whole([]))[6:], ours=True)
then("ok_unknown_sse_fields", b"foo: bar\nnothing\n:\nid: \0\nretry: soon\n\n", ours=True)
then("ok_many_blank_lines", b"\n" * 5000 + b"\r\n\r\n", ours=True)
then("ok_huge_comment", b": " + b"c" * 1_000_000 + b"\n\n", ours=True)
then("ok_bom_later", b"\xef\xbb\xbfdata: ignored, for no field has this name\n\n", ours=True)


@further
def ok_surrogate_pair_split(peer: Peer) -> None:
    peer.head()
    say(peer, ROLE)
    for token in ("lone \ud83c end, pair ", "\ud83c", "\udf89", "."):
        peer.body(f"data: {json.dumps(chunk(token))}\n\n".encode())
        peer.pause(0.05)
    finish(peer)


@further
def ok_nul(peer: Peer) -> None:
    start(peer, ["a\0b", "\0"])
    finish(peer)


@further
def ok_tool_calls_odd(peer: Peer) -> None:
    """Out of order, without index, id after the arguments, null pieces, text in between."""
    start(peer, TOKENS)
    say(peer, call(1, function={"arguments": '{"b"'}), call(0, function={"arguments": "{"}))
    say(peer, call(1, id="c2", function={"name": "b", "arguments": None}), call(0, id="c1"))
    say(peer, chunk(tool_calls=None), chunk(tool_calls=[]), chunk(tool_calls=[{"id": "c3"}]))
    say(peer, call(0, function={"name": "a", "arguments": "}"}), call(0, function=None))
    say(peer, chunk(finish="tool_calls"))
    peer.body(DONE)
    peer.end()


@further
def ok_function_call(peer: Peer) -> None:
    start(peer, TOKENS)
    say(peer, chunk(function_call={"name": "f", "arguments": "{}"}), chunk(finish="function_call"))
    peer.body(DONE)
    peer.end()


@further
def text_after_finish(peer: Peer) -> None:
    start(peer, TOKENS)
    say(peer, STOP, chunk(" more"))
    peer.body(DONE)
    peer.end()


@further
def finish_abort(peer: Peer) -> None:
    finished_as(peer, FEW, "abort")


@further
def finish_error(peer: Peer) -> None:
    finished_as(peer, FEW, "error")


@further
def finish_max_tokens(peer: Peer) -> None:
    finished_as(peer, FEW, "max_tokens")


@further
def finish_empty_string(peer: Peer) -> None:
    """Some servers send ``""`` for "not yet": no reason, and so no evidence."""
    peer.head()
    say(peer, *(chunk(token, finish="") for token in FEW))
    peer.end()


@further
def finish_number(peer: Peer) -> None:
    start(peer, FEW)
    say(peer, chunk(finish=7))
    peer.end()


@further
def done_first(peer: Peer) -> None:
    answer(peer, [DONE])


@further
def done_after_empty_choices(peer: Peer) -> None:
    answer(peer, [event(whole([])), DONE])


@further
def done_unterminated(peer: Peer) -> None:
    """The body ends inside the line of [DONE], with no reason before: the event never was."""
    start(peer, TOKENS)
    peer.body(b"data: [DONE]")
    peer.end()


@further
def done_in_named_event(peer: Peer) -> None:
    """``event: error`` whose data is [DONE]: told apart by name, this is an error."""
    start(peer, FEW)
    peer.body(b"event: error\ndata: [DONE]\n\n")
    peer.end()


@further
def detail_only(peer: Peer) -> None:
    answer(peer, [event({"detail": f"Not authenticated {PROVIDER_WORDS}"})])


@further
def detail_mid_stream(peer: Peer) -> None:
    start(peer)
    say(peer, {"detail": PROVIDER_WORDS})
    peer.end()


@further
def utf16(peer: Peer) -> None:
    answer(peer, [b"".join(events()).decode().encode("utf-16")])


@further
def error_key_echo(peer: Peer) -> None:
    start(peer)
    key = peer.request.headers.get("authorization", "none")
    say(peer, error_body(f"Bad key {key} for http://10.0.0.1/", "invalid_api_key"))
    peer.hold()


then_hold("error_string", event({"error": f"text {PROVIDER_WORDS}"}), ours=True)
then_hold("error_message_object", event({"error": {"message": {"a": [PROVIDER_WORDS]}}}), ours=True)
then_hold("error_message_number", event({"error": {"message": 5, "code": []}}), ours=True)
then_hold("error_list", event({"error": [PROVIDER_WORDS]}), ours=True)
then_hold("error_empty_object", event({"error": {}}), ours=True)
then_hold("error_object_type", event({"object": "error", "message": PROVIDER_WORDS}), ours=True)
then_hold("error_in_choice_chunk", event({**chunk("x"), **ERROR}), ours=True)
then_hold("error_event_text", b"event: error\ndata: %b\n\n" % PROVIDER_WORDS.encode(), ours=True)
then_hold("error_after_finish", event(STOP), event(ERROR), ours=True)

then("json_array", event([]), ours=True)
then("json_number", event("42"), ours=True)
then("json_true", event("true"), ours=True)
then("json_trailing", event('{"choices": []} x'), ours=True)
then("json_two_objects", event('{"choices": []}{"choices": []}'), ours=True)
then("json_deep", event('{"x": ' + "[" * 100_000 + "]" * 100_000 + "}"), ours=True)
then("json_deep_broken", event("[" * 200_000), ours=True)
then("json_huge_integer", event('{"created": 1' + "0" * 6000 + ', "choices": []}'), ours=True)
then("json_nan", event('{"created": NaN, "choices": []}'), ours=True)
then(
    "json_raw_newline",
    b'data: {"choices": [{"delta": {"content": "a\ndata: b"}}]}\n\n',
    ours=True,
)
then("json_bad_escape", event('{"choices": [{"delta": {"content": "\\x41"}}]}'), ours=True)
then("utf8_overlong", event(chunk("@")).replace(b"@", b"\xc0\xaf"), ours=True)
then("utf8_surrogate", event(chunk("@")).replace(b"@", b"\xed\xa0\xbc"), ours=True)
then("content_parts", event(chunk([{"type": "text", "text": "part"}])), ours=True)
then("content_number", event(chunk(5)), ours=True)
then("content_object", event(chunk({"text": "x"})), ours=True)
then("choices_object", event(whole({"index": 0, "delta": {"content": "x"}})), ours=True)
then("choices_string", event(whole("abc")), ours=True)
then("delta_string", event(whole([{"index": 0, "delta": "abc"}])), ours=True)
then("usage_string", event(whole([], usage="many")), ours=True)


@further
def event_20mb(peer: Peer) -> None:
    start(peer)
    peer.body(b"data: ")
    for _ in range(20):
        peer.body(b"x" * 1048576)
    peer.hold()


@further
def line_endless(peer: Peer) -> None:
    start(peer)
    for _ in range(4096):
        peer.body(b"z" * 65536)
    peer.hold()


@further
def data_lines_endless(peer: Peer) -> None:
    start(peer)
    for _ in range(4096):
        peer.body((b"data: " + b"z" * 1000 + b"\n") * 64)
    peer.hold()


@further
def comments_endless(peer: Peer) -> None:
    """Comments as fast as they are taken, never a token: bytes are no sign of life."""
    start(peer)
    until = time.monotonic() + STALL
    while time.monotonic() < until:
        peer.body(b": comment\n\n" * 500)
        peer.pause(0.01)
    peer.hold()


@further
def empty_deltas_endless(peer: Peer) -> None:
    """Valid chunks without a word, for ever: no tokens either."""
    start(peer)
    for _ in range(int(STALL / 0.2)):
        say(peer, chunk(""), chunk(None), whole([]))
        peer.pause(0.2)
    peer.hold()


@further
def drip_event(peer: Peer) -> None:
    start(peer)
    for _ in range(int(STALL / 0.1)):
        peer.body(b"data: x"[:1])
        peer.pause(0.1)
    peer.hold()


@further
def reasoning_then_hang(peer: Peer) -> None:
    peer.head()
    say(peer, ROLE, chunk(reasoning_content="Hm"))
    peer.hold()


# ================================================================ for the tests of readers


@further
def busy_then_hang(peer: Peer) -> None:
    """100 tokens in two seconds, then silence."""
    peer.head()
    for number in range(100):
        say(peer, chunk(f"{number} "))
        peer.pause(0.02)
    peer.hold()


@further
def flood(peer: Peer) -> None:
    """64 MiB of answer as fast as it is taken, then a good end."""
    start(peer, [])
    part = event(chunk("#" * 1024)) * 16
    for _ in range(64 * 64):
        peer.body(part)
    finish(peer)


@further
def ok_four_seconds(peer: Peer) -> None:
    """40 tokens in four seconds: long enough to leave, to read slowly, to be overtaken."""
    peer.head()
    for number in range(40):
        say(peer, chunk(f"{number} "))
        peer.pause(0.1)
    finish(peer)


@further
def tools_by_prompt(peer: Peer) -> None:
    """Call what the prompt says, a round after the other; then say what came of it.

    The prompt is JSON: for each round a list of calls, ``[name, arguments]``.
    """
    messages = peer.request.body["messages"]
    prompt = max(n for n, message in enumerate(messages) if message["role"] == "user")
    past = messages[prompt + 1 :]
    rounds = json.loads(messages[prompt]["content"])
    done = sum("tool_calls" in message for message in past)
    peer.head()
    if done == len(rounds):
        results = [message["content"] for message in past if message["role"] == "tool"]
        say(peer, chunk("So: "), chunk(" | ".join(results)))
        return finish(peer)
    say(peer, chunk("Let me see. ", role="assistant"))
    for index, (name, arguments) in enumerate(rounds[done]):
        function = {"name": name, "arguments": ""}
        say(peer, call(index, id=f"c{index}", type="function", function=function))
        say(peer, call(index, function={"arguments": json.dumps(arguments)}))
    say(peer, chunk(finish="tool_calls"))
    peer.body(DONE)
    peer.end()
    return None
