"""The OpenAI provider against a real server, over both transports."""

import asyncio
import gc
import logging
import re

import pytest
from django.core.exceptions import ImproperlyConfigured

from chatstream.core.framer import Framer
from chatstream.core.frames import Kind
from chatstream.core.requests import RunRequest
from chatstream.loop import background_loop
from chatstream.providers.openai import OpenAIProvider
from chatstream.relay import aframes, frames
from tests.behaviours import PARTIAL, PROVIDER_WORDS, TEXT
from tests.providers import drained
from tests.upstream import Upstream, closed_port, self_signed, unknown_host

KEY = "sk-canary-4242424242"
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "hi 🎉"}], "x_unknown": None},
]
# For an upstream that falls silent; on a busy machine a good one may take longer than this.
FAST = {"connect_timeout": 5, "first_token_timeout": 1, "token_timeout": 1, "run_timeout": 5}


@pytest.fixture
def upstream():
    with Upstream() as running:
        yield running


@pytest.fixture(params=["httpx", "httptools"])
def transport(request):
    return request.param


@pytest.fixture
async def make(upstream, transport):
    """Return a function: a provider with these options; all are closed at the end."""
    made = []

    def make(**options):
        options = {"base_url": upstream.url, "api_key": KEY, "transport": transport, **options}
        made.append(OpenAIProvider("mine", options))
        return made[-1]

    yield make
    await drained()
    for provider in made:
        await provider.aclose()


def asking(model, **params):
    return RunRequest(messages=MESSAGES, model=model, params=params)


async def pull(provider, request, framer=None):
    return [frame async for frame in aframes(provider.aopen(request), framer or Framer("run-7"))]


def text_of(taken) -> str:
    return "".join(frame.data["text"] for frame in taken if frame.kind is Kind.TEXT)


def ending(taken) -> str:
    return taken[-1].data.get("code", str(taken[-1].kind))


def patience(behaviour) -> dict[str, float]:
    """Return the deadlines for a behaviour: short ones where it is they that end the answer."""
    return FAST if "hang" in behaviour or "pings" in behaviour else {}


async def ended(provider, model) -> str:
    return ending(await pull(provider, asking(model)))


# The request


async def test_the_request_is_what_the_server_expects(make, upstream):
    taken = await pull(make(), asking("ok@shape"))
    assert (text_of(taken), ending(taken)) == (TEXT, "done")
    (request,) = upstream.requests_for("ok@shape")
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.body == {
        "model": "ok@shape",
        "messages": MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["content-type"] == "application/json"
    assert "cookie" not in request.headers


async def test_usage_is_not_asked_for_if_the_server_does_not_know_it(make, upstream):
    await pull(make(include_usage=False), asking("ok@nousage"))
    assert "stream_options" not in upstream.requests_for("ok@nousage")[0].body


async def test_the_requests_params_win_over_the_providers(make, upstream):
    provider = make(params={"temperature": 0.2, "top_p": 0.9, "x_vendor": {"a": 1}})
    await pull(provider, asking("ok@params", temperature=0.7, seed=1))
    body = upstream.requests_for("ok@params")[0].body
    assert (body["temperature"], body["top_p"], body["seed"]) == (0.7, 0.9, 1)
    assert body["x_vendor"] == {"a": 1}


async def test_the_providers_model_is_asked_unless_the_request_names_one(make, upstream):
    provider = make(model="ok@own")
    await pull(provider, asking(None))
    await pull(provider, asking("ok@other"))
    assert len(upstream.requests_for("ok@own")) == len(upstream.requests_for("ok@other")) == 1


async def test_headers_of_the_options_are_sent(make, upstream):
    await pull(make(headers={"X-Title": "Chat", "Accept-Encoding": "gzip"}), asking("ok@headers"))
    headers = upstream.requests_for("ok@headers")[0].headers
    assert (headers["x-title"], headers["accept-encoding"]) == ("Chat", "gzip")


async def test_a_server_that_wants_no_key_gets_a_word(make, upstream):
    assert await ended(make(api_key=None), "ok@nokey") == "done"
    assert KEY not in upstream.requests_for("ok@nokey")[0].headers["authorization"]


async def test_azure_has_the_deployment_in_the_path_and_the_key_in_its_own_header(make, upstream):
    provider = make(base_url=upstream.root, azure_api_version="2024-10-21", model="ok@azure")
    assert ending(await pull(provider, asking(None))) == "done"
    (request,) = upstream.requests_for("ok@azure")
    path, _, query = request.path.partition("?")
    assert path in (
        "/openai/deployments/ok@azure/chat/completions",
        "/openai/deployments/ok%40azure/chat/completions",
    )
    assert query == "api-version=2024-10-21"
    assert request.headers["api-key"] == KEY
    assert "authorization" not in request.headers


async def test_nothing_is_asked_before_the_completion_is_entered(make, upstream):
    completion = make().aopen(asking("ok@unentered"))
    await asyncio.sleep(0.05)
    assert upstream.requests_for("ok@unentered") == []
    del completion


async def test_usage_comes_with_the_finish_frame(make):
    taken = await pull(make(), asking("ok_usage"))
    assert taken[-2].data["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 10,
        "total_tokens": 17,
    }


# Connections


async def connections_of(upstream, provider, first, second="ok"):
    mark = f"{first}-{provider.options.transport}"
    models = [f"{first}@1{mark}", f"{second}@2{mark}"]
    for model in models:
        await pull(provider, asking(model))
        await drained()
    return [upstream.requests_for(model)[-1].connection.number for model in models]


@pytest.mark.parametrize(
    "behaviour", ["ok", "ok_gzip", "ok_usage", "ok_dup_done", "ok_no_done", "ok_content_length"]
)
async def test_a_connection_is_used_again_after_a_clean_end(make, upstream, behaviour):
    first, second = await connections_of(upstream, make(), behaviour)
    assert first == second


@pytest.mark.parametrize(
    "behaviour",
    [
        "bad_json",
        "error_object",
        "error_event",
        "invalid_utf8",
        "ok_done_then_hang",
        "ok_finish_then_hang",
        "hang_mid_stream",
        "http_500_endless_body",
    ],
)
async def test_a_connection_is_not_used_again_after_a_bad_end(make, upstream, behaviour):
    first, second = await connections_of(
        upstream, make(**{**patience(behaviour), "first_token_timeout": 30}), behaviour
    )
    assert first != second
    assert not any(connection.reused_when_dead for connection in upstream.connections)


async def test_a_response_in_a_coding_that_cannot_be_read_is_closed(make, upstream, transport):
    assert await ended(make(), "brotli") == "upstream_malformed"
    assert await asyncio.to_thread(upstream.wait_closed, 2, "brotli")


async def test_a_reader_that_leaves_closes_the_connection(make, upstream, transport):
    model = f"endless@leaves-{transport}"
    generator = aframes(make().aopen(asking(model)), Framer())
    async for frame in generator:
        if frame.kind is Kind.TEXT:
            break
    await generator.aclose()
    assert await asyncio.to_thread(upstream.wait_closed, 5, model)


async def test_a_cancelled_reader_closes_a_connection_that_waits(make, upstream, transport):
    model = f"hang_before_headers@cancel-{transport}"
    task = asyncio.create_task(pull(make(), asking(model)))
    await asyncio.to_thread(upstream.wait_requests, model)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(upstream.wait_closed, 5, model)


async def test_closing_the_provider_closes_its_connections_and_it_can_be_used_again(
    make, upstream, transport
):
    provider, model = make(), f"ok@close-{transport}"
    await pull(provider, asking(model))
    await drained()
    await provider.aclose()
    assert await asyncio.to_thread(upstream.wait_closed, 5, model)
    await provider.aclose()
    assert await ended(provider, model) == "done"
    first, second = upstream.requests_for(model)
    assert first.connection.number != second.connection.number


# Once more


async def test_a_connection_lost_before_a_response_is_asked_once_more(make, upstream, transport):
    model = f"fin_before_headers@{transport}"
    assert await ended(make(), model) == "upstream_unreachable"
    assert len(upstream.requests_for(model)) == 2


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        ("rst_mid_stream", "upstream_incomplete"),
        ("empty_200", "upstream_incomplete"),
        ("http_503_html", "upstream_unavailable"),
        ("http_429_retry_after", "upstream_rate_limited"),
        ("ok_429_then_ok", "upstream_rate_limited"),
        ("http_408", "upstream_timeout"),
        ("http_409", "upstream_unavailable"),
        ("status_garbage", "upstream_malformed"),
        ("hang_before_headers", "upstream_timeout"),
        ("hang_after_headers", "upstream_timeout"),
    ],
)
async def test_everything_else_is_asked_once(make, upstream, transport, behaviour, code):
    model = f"{behaviour}@once-{transport}"
    assert await ended(make(**patience(behaviour)), model) == code
    assert len(upstream.requests_for(model)) == 1


# Endings


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        ("http_400", "upstream_rejected"),
        ("http_400_context", "upstream_too_large"),
        ("http_403", "upstream_auth"),
        ("http_404", "upstream_rejected"),
        ("http_429_quota", "upstream_quota"),
        ("http_500_endless_body", "upstream_unavailable"),
        ("http_504", "upstream_timeout"),
        ("http_200_json_error", "upstream_malformed"),
        ("http_200_html", "upstream_malformed"),
        ("http_204", "upstream_malformed"),
        ("brotli", "upstream_malformed"),
        ("hang_with_pings", "upstream_timeout"),
        ("end_no_finish_eof", "upstream_incomplete"),
        ("ok_finish_then_rst", "done"),
        ("ok_finish_then_pings", "done"),
        ("ok_done_then_hang", "done"),
    ],
)
async def test_what_a_behaviour_ends_in(make, behaviour, code):
    assert await ended(make(**patience(behaviour)), behaviour) == code


async def test_text_before_a_fault_is_delivered(make):
    taken = await pull(make(), asking("rst_mid_stream"))
    assert (text_of(taken), ending(taken)) == (PARTIAL, "upstream_incomplete")


async def test_an_event_over_the_cap_is_too_long(make):
    assert await ended(make(max_event_bytes=100_000), "ok_huge_chunk") == "too_long"


@pytest.mark.parametrize("address", [closed_port, unknown_host])
async def test_a_server_that_is_not_there_is_unreachable(make, address):
    assert await ended(make(base_url=address()), "ok") == "upstream_unreachable"


async def test_a_certificate_that_nobody_trusts_is_unreachable(make):
    with self_signed() as url:
        assert await ended(make(base_url=url), "ok") == "upstream_unreachable"


@pytest.mark.parametrize("behaviour", ["http_307_loop", "http_302_other_host"])
async def test_redirects_are_not_followed(make, upstream, transport, behaviour):
    model = f"{behaviour}@{transport}"
    before = len(upstream.requests)
    assert await ended(make(), model) == "upstream_rejected"
    assert len(upstream.requests) == before + 1


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ("http_429", None),
        ("http_429_retry_after", 45),
        ("http_429_garbage", None),
        ("http_429_nan", None),
        ("http_503_html", 45),
    ],
)
async def test_retry_after_in_seconds(make, behaviour, expected):
    taken = await pull(make(), asking(behaviour))
    assert taken[-1].data.get("retry_after") == expected


async def test_retry_after_as_a_date(make):
    taken = await pull(make(), asking("http_429_date"))
    assert 0 < taken[-1].data["retry_after"] < 3600


async def test_a_huge_retry_after_is_a_number_still(make):
    taken = await pull(make(), asking("http_429_huge"))
    assert isinstance(taken[-1].data["retry_after"], int)


# Secrets, and where requests go


@pytest.mark.parametrize(
    "behaviour",
    [
        "ok",
        "http_401_key_echo",
        "error_key_echo",
        "http_500_string_body",
        "fin_before_headers",
        "rst_mid_stream",
        "status_garbage",
        "bad_json",
        "http_302_other_host",
    ],
)
async def test_the_key_and_the_providers_words_are_nowhere(make, behaviour, caplog):
    provider = make()
    with caplog.at_level(logging.INFO):
        taken = await pull(provider, asking(behaviour))
    shown = [repr(provider), repr(provider.options), str(vars(provider))]
    told = " ".join([caplog.text, str(taken), *shown])
    assert KEY not in told
    assert "sk-canary" not in told
    assert PROVIDER_WORDS not in " ".join([caplog.text, str(taken)])


async def test_the_key_is_in_no_exception(make):
    async def enter():
        async with make().aopen(asking("http_401_key_echo")):
            pass

    with pytest.raises(Exception, match="upstream_auth") as caught:
        await enter()
    chain, exc = [], caught.value
    while exc is not None and exc not in chain:
        chain.append(exc)
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    assert KEY not in " ".join(f"{one!r} {one}" for one in chain)


PROXIES = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]


async def test_proxies_of_the_environment_are_not_used(make, monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in PROXIES:
        monkeypatch.setenv(name, closed_port().removesuffix("/v1"))
    assert await ended(make(), "ok") == "done"


@pytest.mark.parametrize("transport", ["httpx", "auto"], indirect=True)
async def test_proxies_of_the_environment_are_used_if_asked_for(make, monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in PROXIES:
        monkeypatch.setenv(name, closed_port().removesuffix("/v1"))
    assert await ended(make(trust_env=True), "ok") == "upstream_unreachable"


def test_a_transport_that_knows_no_proxies_is_refused_with_them():
    options = {"api_key": KEY, "transport": "httptools", "trust_env": True}
    with pytest.raises(ImproperlyConfigured, match=r"knows no proxies\. With trust_env, say"):
        OpenAIProvider("mine", options)


async def test_the_environment_does_not_choose_the_server(make, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", closed_port())
    monkeypatch.setenv("OPENAI_ORG_ID", "org-x")
    assert await ended(make(), "ok") == "done"


# Without an event loop


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ("ok", (TEXT, "done")),
        ("rst_mid_stream", (PARTIAL, "upstream_incomplete")),
        ("http_429_quota", ("", "upstream_quota")),
        ("hang_mid_stream", (PARTIAL, "upstream_timeout")),
    ],
)
def test_open_is_aopen_for_callers_without_a_loop(upstream, transport, behaviour, expected):
    options = {"base_url": upstream.url, "api_key": KEY, "transport": transport}
    options |= patience(behaviour)
    provider = OpenAIProvider("mine", options)
    try:
        taken = list(frames(provider.open(asking(behaviour)), Framer()))
    finally:
        background_loop().submit(provider.aclose()).result(10)
    assert (text_of(taken), ending(taken)) == expected


def test_a_reader_of_open_that_leaves_closes_the_connection(upstream, transport):
    model = f"endless@open-{transport}"
    options = {"base_url": upstream.url, "api_key": KEY, "transport": transport}
    provider = OpenAIProvider("mine", options)
    generator = frames(provider.open(asking(model)), Framer())
    next(frame for frame in generator if frame.kind is Kind.TEXT)
    generator.close()
    assert upstream.wait_closed(5, model)
    background_loop().submit(provider.aclose()).result(10)


# Options


def test_a_missing_key_is_a_warning_and_never_shown():
    (warning,) = OpenAIProvider("mine", {}).check()
    assert re.fullmatch(r"chatstream\.W\d+", warning.id)
    assert OpenAIProvider("mine", {"api_key": KEY}).check() == []
    assert OpenAIProvider("mine", {"base_url": "http://localhost/v1"}).check() == []


@pytest.mark.parametrize(
    "options", [{"api_kei": KEY}, {"connect_timeout": 0}, {"transport": "urllib"}, {"model": None}]
)
def test_a_wrong_option_is_refused_without_showing_the_key(options):
    with pytest.raises(ImproperlyConfigured) as caught:
        OpenAIProvider("mine", {"api_key": KEY, **options})
    assert KEY not in str(caught.value)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the sockets that the loops left open
def test_the_clients_of_loops_that_ended_are_let_go(upstream, transport):
    options = {"base_url": upstream.url, "api_key": KEY, "transport": transport}
    provider = OpenAIProvider("mine", options)
    for _ in range(3):
        assert asyncio.run(ended(provider, "ok")) == "done"
    assert len(provider._clients) == 1
    provider._clients.clear()
    gc.collect()
