"""The JavaScript client in a real browser: its pure parts, and what it makes of the network."""

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.acceptance.network import Network
from tests.behaviours import TEXT
from tests.demo import Demo
from tests.upstream import Upstream

TIMEOUT = 30_000  # milliseconds
MODULE = "/static/chatstream/chatstream.js"

# What the tests call in the page: `begin` follows a run and keeps its events.
PRELUDE = f"""async () => {{
    window.client = await import("{MODULE}");
    window.chat = client.createChat("/chat/", {{ patience: 3_000 }});
    window.begin = (run) => {{
        const events = [];
        window.run = run;
        window.events = events;
        (async () => {{ for await (const event of run) events.push(event); }})();
        return run;
    }};
    // The visitor's session begins with this; an answer that is lost cannot take it along.
    await chat.call("POST", "conversations/", {{}});
}}"""


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    # Playwright's own wait_for_function evaluates text; test_demo watches over the policy.
    context = browser.new_context(bypass_csp=True)
    context.set_default_timeout(TIMEOUT)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, demo: Demo) -> Page:
    return open_page(context, demo.url)


@pytest.fixture
def network(demo: Demo) -> Iterator[Network]:
    with Network(demo.port) as network:
        yield network


@pytest.fixture
def far(context: BrowserContext, network: Network) -> Page:
    """A page behind a network that can be cut."""
    return open_page(context, network.url)


def open_page(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.goto(url)
    page.evaluate(PRELUDE)
    return page


def start(page: Page, model: str, **request: Any) -> None:
    page.evaluate(
        "(request) => void begin(chat.start(request))", {"prompt": "x", "model": model, **request}
    )


def follow(page: Page, run: str, **options: Any) -> None:
    page.evaluate("([run, options]) => void begin(chat.follow(run, options))", [run, options])


def run_id(page: Page) -> str:
    found: str = page.wait_for_function("run.id").json_value()
    return found


def wait_for_text(page: Page, text: str) -> None:
    page.wait_for_function("(text) => run.text.includes(text)", arg=text)


def end_of(page: Page) -> dict[str, Any]:
    """Wait for the end of the run that the page began last; check what holds for every run."""
    end: dict[str, Any] = page.evaluate("run.ended")
    page.wait_for_function("events.at(-1)?.type === 'end'")
    events = page.evaluate("events")
    assert [event["type"] for event in events].count("end") == 1
    assert events[0] == {"type": "state", "state": "connecting"}
    assert page.evaluate("run.state") == "ended"
    return end


def told(page: Page) -> str:
    """Return the text events, joined."""
    joined: str = page.evaluate(
        "events.filter(({ type }) => type === 'text').map(({ text }) => text).join('')"
    )
    return joined


def states(page: Page) -> list[str]:
    found: list[str] = page.evaluate(
        "events.filter(({ type }) => type === 'state').map(({ state }) => state)"
    )
    return found


# ------------------------------------------------------------------------------------ pure parts


@pytest.mark.slow
def test_pauses_double_from_half_a_second_and_stay_below_fifteen(page: Page) -> None:
    bounds = page.evaluate(
        """Array.from({ length: 40 }, (_, attempt) =>
            [client.backoff(attempt, 0), client.backoff(attempt, 0.999999)])"""
    )
    assert bounds[0][0] == 500
    assert all(500 <= low < high <= 15_000 for low, high in bounds)
    assert [low for low, _ in bounds[:4]] == [500, 1000, 2000, 4000]


def receive(page: Page, *events: tuple[str, str, dict[str, Any]]) -> tuple[dict[str, Any], list]:
    """Feed events to the pure receiver; return what it holds in the end, and what it told."""
    held, told = page.evaluate(
        """(events) => {
            let held = { seq: 0, text: "", finish: null };
            const told = [];
            for (const [name, id, data] of events) {
                const [next, event] = client.receive(held, name, id, data);
                held = next;
                told.push(event);
            }
            return [held, told];
        }""",
        [list(event) for event in events],
    )
    return held, told


def test_an_event_that_came_before_is_dropped_by_its_id(page: Page) -> None:
    held, events = receive(
        page,
        ("message", "r:2", {"text": "a"}),
        ("message", "r:2", {"text": "a"}),
        ("message", "r:1", {"text": "older"}),
        ("message", "r:3", {"text": "b"}),
    )
    assert (held["text"], held["seq"]) == ("ab", 3)
    assert events[1:3] == [None, None]


def test_an_error_without_an_id_of_its_own_is_no_end(page: Page) -> None:
    """EventSource gives it the id of the event before."""
    error = {"error": {"code": "stalled", "message": "…", "retryable": True}}
    held, events = receive(page, ("message", "r:2", {"text": "a"}), ("message", "r:2", error))
    assert events[-1] == {"type": "broken"}
    assert held["seq"] == 2
    _, events = receive(page, ("message", "", error))
    assert events == [{"type": "broken"}]


def test_text_without_an_id_is_the_whole_text(page: Page) -> None:
    whole = ("message", "", {"text": "all"})
    held, events = receive(page, whole, whole, ("message", "r:9", {"done": True}))
    assert held["text"] == "all"
    assert events[1] is None
    assert events[2]["outcome"] == "completed"


def test_the_end_says_what_the_finish_event_said(page: Page) -> None:
    _, events = receive(
        page,
        ("message", "r:1", {"text": "a"}),
        ("finish", "r:2", {"outcome": "truncated", "usage": {"completion_tokens": 1}}),
        ("message", "r:3", {"done": True}),
    )
    assert events[-1] == {
        "type": "end",
        "outcome": "truncated",
        "error": None,
        "usage": {"completion_tokens": 1},
        "text": "a",
    }


@pytest.mark.parametrize(
    ("code", "outcome"), [("stopped", "stopped"), ("upstream_timeout", "failed")]
)
def test_an_error_frame_alone_implies_its_outcome(page: Page, code: str, outcome: str) -> None:
    error = {"code": code, "message": "…", "retryable": False}
    _, events = receive(page, ("message", "r:1", {"error": error}))
    assert (events[0]["outcome"], events[0]["error"]) == (outcome, error)


def test_a_key_is_made_without_https_too(page: Page) -> None:
    keys = page.evaluate("Array.from({ length: 100 }, client.newKey)")
    page.evaluate("crypto.randomUUID = undefined")
    keys += page.evaluate("Array.from({ length: 100 }, client.newKey)")
    assert len(set(keys)) == 200
    assert all(len(key) >= 32 for key in keys)


def test_the_csrf_token_comes_from_the_cookie_else_from_a_form(page: Page) -> None:
    tokens = page.evaluate(
        """["a=1; csrftoken=fresh; b=2", "xcsrftoken=no"].map((cookie) => client.csrfToken(
            { cookie, querySelector: () => ({ value: "of the form" }) }))"""
    )
    assert tokens == ["fresh", "of the form"]


# ----------------------------------------------------------------------------------------- a run


def test_a_run_is_told_from_connecting_to_its_end(page: Page) -> None:
    start(page, "ok_usage@js")
    end = end_of(page)
    assert (end["outcome"], end["error"], end["text"]) == ("completed", None, TEXT)
    assert end["usage"]["completion_tokens"] == 10
    assert told(page) == TEXT
    assert states(page) == ["connecting", "streaming"]
    types = [event["type"] for event in page.evaluate("events")]
    assert types[1] == "created"
    assert types[-2:] == ["finish", "end"]


def test_every_loop_gets_all_events(page: Page) -> None:
    start(page, "ok@loops")
    end_of(page)
    again = page.evaluate(
        """(async () => {
            const seen = [];
            for await (const event of run) seen.push(event);
            return seen;
        })()"""
    )
    assert again == page.evaluate("events")


def test_a_failure_has_the_code_and_the_words_of_its_frame(page: Page) -> None:
    start(page, "http_429_retry_after@js")
    end = end_of(page)
    assert end["outcome"] == "failed"
    assert end["error"] == {
        "code": "upstream_rate_limited",
        "message": "The model is busy. Please try again shortly.",
        "retryable": True,
        "retry_after": 45,
    }


def test_a_refusal_is_an_end_too(page: Page, upstream: Upstream) -> None:
    start(page, "ok@refused-js", provider="nobody")
    end = end_of(page)
    assert end["outcome"] == "refused"
    assert (end["error"]["status"], end["error"]["code"]) == (400, "invalid")
    assert (end["error"]["field"], end["error"]["retryable"]) == ("provider", False)
    assert upstream.requests_for("ok@refused-js") == []


def test_a_conflict_names_the_open_run(page: Page) -> None:
    conversation = page.evaluate("chat.call('POST', 'conversations/', {})")["id"]
    start(page, "endless@open", conversation=conversation)
    first = run_id(page)
    page.evaluate("window.first = run")
    start(page, "ok@second", conversation=conversation)
    end = end_of(page)
    assert (end["outcome"], end["error"]["code"], end["error"]["run"]) == (
        "refused",
        "conflict",
        first,
    )
    page.evaluate("first.stop()")


def test_a_stream_ends_with_no_connection_left_open(page: Page) -> None:
    start(page, "ok@closed")
    requests: list[str] = []
    end_of(page)
    page.on("request", lambda request: requests.append(request.url))
    page.wait_for_timeout(2_000)  # an EventSource that is left alone asks again after one second
    assert requests == []


# ----------------------------------------------------------------------------- a network that fails


def test_an_answer_goes_on_after_a_cut_without_a_gap_and_without_a_double(
    far: Page, network: Network, upstream: Upstream
) -> None:
    start(far, "ok_slow@cut-js")
    for word in ("Hello", "wörld"):
        wait_for_text(far, word)
        network.cut()
        far.wait_for_function("run.state === 'reconnecting'")
        network.restore()
    end = end_of(far)
    assert (end["outcome"], end["text"], told(far)) == ("completed", TEXT, TEXT)
    assert states(far)[:4] == ["connecting", "streaming", "reconnecting", "streaming"]
    assert len(upstream.requests_for("ok_slow@cut-js")) == 1


def test_a_new_connection_asks_for_what_comes_after_the_last_frame(
    far: Page, network: Network
) -> None:
    start(far, "ok_slow@after")
    wait_for_text(far, "Hello")
    network.cut()
    far.wait_for_function("run.state === 'reconnecting'")
    seq = far.evaluate("run.seq")
    with far.expect_request(lambda request: "/stream/" in request.url) as asked:
        network.restore()
    assert asked.value.url.endswith(f"/stream/?events=all&after={seq}")
    end_of(far)


def test_a_lost_answer_to_the_post_starts_no_second_run(
    far: Page, network: Network, upstream: Upstream
) -> None:
    network.loses_answers = True
    start(far, "ok@lost-js")
    upstream.wait_requests("ok@lost-js")
    far.wait_for_function("run.state === 'reconnecting'")
    network.loses_answers = False
    end = end_of(far)
    assert (end["outcome"], end["text"]) == ("completed", TEXT)
    assert len(upstream.requests_for("ok@lost-js")) == 1


@pytest.mark.slow
def test_a_server_that_never_answers_the_post_is_lost(far: Page, network: Network) -> None:
    network.cut()
    start(far, "ok@never")
    end = end_of(far)
    assert (end["outcome"], end["error"]["code"], end["error"]["status"]) == ("lost", "network", 0)
    assert end["error"]["retryable"] is True


@pytest.mark.slow
def test_the_browser_coming_online_ends_the_pause_at_once(far: Page, network: Network) -> None:
    start(far, "ok_slow@online")
    wait_for_text(far, "Hello")
    far.evaluate("window.setTimeout = () => 0")  # no pause ends by itself
    network.cut()
    far.wait_for_function("run.state === 'reconnecting'")
    network.restore()
    far.evaluate("window.dispatchEvent(new Event('online'))")
    assert end_of(far)["text"] == TEXT


# -------------------------------------------------------------------------------- stop and detach


@pytest.mark.parametrize("behaviour", ["endless", "hang_after_headers"])
def test_stop_closes_its_stream_then_asks_then_follows_to_the_end(
    page: Page, upstream: Upstream, behaviour: str
) -> None:
    model = f"{behaviour}@stop-js"
    start(page, model)
    upstream.wait_requests(model)
    page.wait_for_function("run.state === 'streaming'")
    page.evaluate(LOG_CALLS)
    page.evaluate("run.stop()")
    end = end_of(page)
    assert (end["outcome"], end["error"]["code"]) == ("stopped", "stopped")
    assert page.evaluate("calls") == ["close", "POST", "open", "close"]
    assert upstream.wait_closed(5, model)


LOG_CALLS = """() => {
    const calls = window.calls = [];
    const { fetch, EventSource } = window;
    window.fetch = (url, init) => { calls.push(init.method); return fetch(url, init); };
    window.EventSource = class extends EventSource {
        constructor(url) { super(url); calls.push("open"); }
    };
    const { close } = EventSource.prototype;
    EventSource.prototype.close = function () { calls.push("close"); close.call(this); };
}"""


def test_stop_before_the_run_is_created_stops_it_when_it_is(page: Page) -> None:
    page.evaluate(
        "void begin(chat.start({ prompt: 'x', model: 'endless@early' })).stop()",
    )
    assert end_of(page)["outcome"] == "stopped"


def test_stop_waits_for_the_network(far: Page, network: Network, upstream: Upstream) -> None:
    start(far, "endless@stop-cut")
    wait_for_text(far, "3 ")
    network.cut()
    far.wait_for_function("run.state === 'reconnecting'")
    far.evaluate("void run.stop()")
    network.restore()
    assert end_of(far)["outcome"] == "stopped"
    assert upstream.wait_closed(5, "endless@stop-cut")


def test_stop_that_comes_too_late_changes_nothing(page: Page) -> None:
    start(page, "ok@late")
    end = end_of(page)
    page.evaluate("run.stop()")
    assert page.evaluate("run.ended") == end


def test_a_stop_that_the_server_refuses_is_told_and_the_answer_goes_on(page: Page) -> None:
    page.evaluate(
        """() => {
            window.chat = client.createChat("/chat/", { csrfToken: () => window.token });
            window.token = client.csrfToken();
        }"""
    )
    start(page, "ok_slow@refused-stop")
    wait_for_text(page, "Hello")
    code = page.evaluate(
        "(window.token = 'forged', run.stop().then(() => '', (problem) => problem.code))"
    )
    assert code == "csrf_failed"
    assert end_of(page)["text"] == TEXT


def test_detach_leaves_and_the_answer_goes_on(page: Page, upstream: Upstream) -> None:
    start(page, "ok_slow@detach")
    wait_for_text(page, "Hello")
    page.evaluate("run.detach()")
    assert end_of(page)["outcome"] == "detached"
    follow(page, run_id(page))
    end = end_of(page)
    assert (end["outcome"], end["text"]) == ("completed", TEXT)
    assert len(upstream.requests_for("ok_slow@detach")) == 1


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_an_aborted_signal_detaches(page: Page, when: str) -> None:
    page.evaluate(
        """(when) => {
            window.control = new AbortController();
            if (when === "before") control.abort();
            const request = { prompt: "x", model: "ok_slow@abort" };
            begin(chat.start(request, { signal: control.signal }));
        }""",
        when,
    )
    if when == "meanwhile":
        wait_for_text(page, "Hello")
        page.evaluate("control.abort()")
    assert end_of(page)["outcome"] == "detached"


# ------------------------------------------------------------------------------------- following


def finished_run(page: Page, model: str = "ok@finished") -> tuple[str, int]:
    """Return the id of a run that has ended, and its last number."""
    start(page, model)
    end_of(page)
    return run_id(page), page.evaluate("run.seq")


def test_a_run_is_followed_from_its_start(page: Page) -> None:
    run, _ = finished_run(page)
    follow(page, run)
    assert (end_of(page)["text"], told(page)) == (TEXT, TEXT)


def test_a_run_is_followed_from_where_a_reader_left(page: Page) -> None:
    start(page, "ok_slow@left")
    wait_for_text(page, "wörld")
    page.evaluate("run.detach()")
    held, after = page.evaluate("[run.text, run.seq]")
    follow(page, run_id(page), after=after, text=held)
    end = end_of(page)
    assert end["text"] == TEXT
    assert held + told(page) == TEXT


def test_a_reader_to_whom_nothing_is_left_to_tell_learns_the_end_from_the_run(page: Page) -> None:
    run, last = finished_run(page)
    follow(page, run, after=last, text=TEXT)  # 204
    end = end_of(page)
    assert (end["outcome"], end["text"], told(page)) == ("completed", TEXT, "")


def test_a_reader_of_frames_that_are_no_longer_kept_gets_the_saved_text(
    page: Page, demo: Demo
) -> None:
    run, _ = finished_run(page)
    with sqlite3.connect(demo.database, timeout=20) as connection:
        connection.execute("DELETE FROM chatstream_storedframe WHERE run_id = ?", [run])
    connection.close()
    follow(page, run, after=2, text="Hello")  # 410
    end = end_of(page)
    assert (end["outcome"], end["text"], told(page)) == ("completed", TEXT, TEXT[5:])
    follow(page, run)
    assert (end_of(page)["text"], told(page)) == (TEXT, TEXT)


def test_a_failed_run_is_told_by_the_run_as_by_its_frame(page: Page) -> None:
    run, last = finished_run(page, "http_500@told")
    error = page.evaluate("run.ended")["error"]
    follow(page, run, after=last)  # 204
    end = end_of(page)
    assert (end["outcome"], end["error"]) == ("failed", error)


@pytest.mark.parametrize("run", ["0" * 26, "nonsense"])
def test_a_run_of_nobody_is_refused_for_good(page: Page, run: str) -> None:
    follow(page, run)
    end = end_of(page)
    assert (end["outcome"], end["error"]["status"]) == ("refused", 404)
    assert end["error"]["code"] == "not_found"


def test_a_run_of_somebody_else_is_refused_for_good(
    page: Page, browser: Browser, demo: Demo
) -> None:
    run, _ = finished_run(page)
    context = browser.new_context(bypass_csp=True)
    stranger = open_page(context, demo.url)
    follow(stranger, run)
    end = end_of(stranger)
    context.close()
    assert (end["outcome"], end["error"]["code"]) == ("refused", "not_found")


def test_a_page_that_is_no_chat_is_refused_in_words(page: Page) -> None:
    page.evaluate("window.chat = client.createChat('/nowhere/')")
    start(page, "ok@nowhere")
    end = end_of(page)
    assert (end["outcome"], end["error"]["code"]) == ("refused", "unexpected")
