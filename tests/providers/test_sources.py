"""What a view may hand over, and what is refused with a word of what to pass instead."""

import asyncio
from contextlib import contextmanager

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from chatstream.core.framer import Framer
from chatstream.core.outcomes import RunError
from chatstream.core.requests import RunRequest
from chatstream.providers.deadlines import Deadlines
from chatstream.providers.scripted import ScriptedProvider
from chatstream.providers.sources import AsyncSource, ProviderSource, SyncSource, source_of
from chatstream.providers.transport import HttptoolsTransport
from chatstream.relay import aframes, frames
from tests.providers import drained
from tests.upstream import Upstream


def chunk(text="", finish=None):
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


CHUNKS = [chunk("Hel"), chunk("lo"), chunk(finish="stop")]


def pulled(source: SyncSource, framer: Framer | None = None) -> str:
    return shown(frames(source.open(), framer or Framer()))


async def apulled(source, framer: Framer | None = None) -> str:
    return shown([frame async for frame in aframes(source.aopen(), framer or Framer())])


def shown(taken) -> str:
    taken = list(taken)
    text = "".join(frame.data["text"] for frame in taken if frame.kind == "text")
    return f"{text}|{taken[-1].data.get('code', taken[-1].kind)}"


def generate(chunks=CHUNKS):
    yield from chunks


async def agenerate(chunks=CHUNKS):
    for one in chunks:
        yield one


class AsyncIterable:
    def __aiter__(self):
        return agenerate()


class Iterable:
    def __iter__(self):
        return generate()


class Closable:
    """An iterable with a close of its own."""

    def __init__(self):
        self.closed = 0

    def __iter__(self):
        return generate()

    def close(self):
        self.closed += 1


class AsyncClosable(Closable):
    def __aiter__(self):
        return agenerate()

    async def aclose(self):
        self.closed += 1

    close = None


@pytest.fixture(scope="module")
def upstream():
    with Upstream() as running:
        yield running


# Taken


@pytest.mark.parametrize("make", [generate, Iterable, lambda: CHUNKS, lambda: iter(CHUNKS)])
def test_an_iterable_of_chunks(make):
    source = source_of(make())
    assert isinstance(source, SyncSource)
    assert pulled(source) == "Hello|done"


@pytest.mark.parametrize("make", [agenerate, AsyncIterable])
async def test_an_async_iterable_of_chunks(make):
    source = source_of(make())
    assert isinstance(source, AsyncSource)
    assert await apulled(source) == "Hello|done"


async def test_an_object_that_is_both_is_taken_as_async():
    assert isinstance(source_of(AsyncClosable()), AsyncSource)


def test_a_source_is_taken_as_it_is():
    source = ProviderSource(ScriptedProvider("s", {"model": "m"}), RunRequest(messages=[]))
    assert source_of(source) is source
    assert source.model == "m"


async def test_a_provider_source_opens_its_provider():
    source = ProviderSource(ScriptedProvider("s", {"script": ["a"]}), RunRequest(messages=[]))
    assert await apulled(source) == "a|upstream_incomplete"


def test_a_chunk_of_a_wrong_type_is_internal_and_logged_as_itself(caplog):
    assert pulled(source_of(iter([chunk("a"), "text"]))) == "a|internal"
    assert "yielded str" in str(caplog.records[-1].exc_info[1])


def test_the_given_deadlines_hold():
    deadlines = Deadlines(1, 2, 3)
    assert source_of([], deadlines).deadlines == deadlines
    assert source_of([]).deadlines == Deadlines()


async def test_an_async_iterable_that_hangs_meets_its_deadline():
    async def hang():
        yield chunk("a")
        await asyncio.sleep(60)

    source = source_of(hang(), Deadlines(30, 0.05, 30))
    assert await apulled(source) == "a|upstream_timeout"


def test_a_closable_iterable_is_closed_at_its_end_and_when_the_reader_leaves():
    whole, left = Closable(), Closable()
    assert pulled(source_of(whole)) == "Hello|done"
    with source_of(left).open() as batches:
        next(iter(batches))
    assert whole.closed
    assert left.closed


async def test_a_closable_async_iterable_is_closed():
    completion = AsyncClosable()
    await apulled(source_of(completion))
    assert completion.closed


async def test_discarding_closes_what_was_never_opened():
    sync, asynchronous = Closable(), AsyncClosable()
    await source_of(sync).adiscard()
    await source_of(asynchronous).adiscard()
    assert (sync.closed, asynchronous.closed) == (1, 1)


def test_the_openai_packages_own_chunks_may_be_yielded():
    values = [
        {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", **one}
        for one in CHUNKS
    ]
    models = [ChatCompletionChunk.model_validate(value) for value in values]
    assert pulled(source_of(models)) == "Hello|done"


# The streams of the openai package


def create(client, model):
    return client.chat.completions.create(model=model, messages=[], stream=True)


@pytest.mark.parametrize(
    ("behaviour", "ending"),
    [("ok", "done"), ("ok_gzip", "done"), ("end_no_finish", "upstream_incomplete")],
)
def test_a_stream_of_the_package(upstream, behaviour, ending):
    with openai.OpenAI(base_url=upstream.url, api_key="k", max_retries=0) as client:
        source = source_of(create(client, behaviour))
        assert isinstance(source, SyncSource)
        assert pulled(source).endswith(f"|{ending}")


@pytest.mark.parametrize(
    ("behaviour", "ending"),
    [
        ("ok", "done"),
        ("ok_bom", "done"),
        ("rst_mid_stream", "upstream_incomplete"),
        ("ok_finish_then_rst", "done"),
    ],
)
async def test_an_async_stream_of_the_package(upstream, behaviour, ending):
    async with openai.AsyncOpenAI(base_url=upstream.url, api_key="k", max_retries=0) as client:
        source = source_of(await create(client, behaviour))
        assert isinstance(source, AsyncSource)
        assert (await apulled(source)).endswith(f"|{ending}")


@pytest.mark.parametrize(
    ("behaviour", "is_used_again"),
    [("ok", True), ("ok_no_done", True), ("ok_done_late_end", True), ("error_object", False)],
)
async def test_the_connection_of_an_async_stream_is_used_again_after_a_clean_end(
    upstream, behaviour, is_used_again
):
    models = [f"{behaviour}@again{number}" for number in (1, 2)]
    async with openai.AsyncOpenAI(base_url=upstream.url, api_key="k", max_retries=0) as client:
        for model in models:
            await apulled(source_of(await create(client, model)))
            await drained()
    first, second = (upstream.requests_for(model)[0].connection for model in models)
    assert (first is second) == is_used_again


def test_a_reader_that_leaves_closes_the_stream(upstream):
    with openai.OpenAI(base_url=upstream.url, api_key="k", max_retries=0) as client:
        with source_of(create(client, "endless@left")).open() as batches:
            next(iter(batches))
        assert upstream.wait_closed(5, "endless@left")


async def test_a_reader_that_leaves_closes_the_async_stream(upstream):
    async with openai.AsyncOpenAI(base_url=upstream.url, api_key="k", max_retries=0) as client:
        source = source_of(await create(client, "endless@aleft"))
        async with source.aopen() as batches:
            await anext(aiter(batches))
        assert await asyncio.to_thread(upstream.wait_closed, 5, "endless@aleft")


def test_interrupting_wakes_a_thread_that_waits_for_the_upstream(upstream):
    import threading

    with openai.OpenAI(base_url=upstream.url, api_key="k", max_retries=0) as client:
        source = source_of(create(client, "hang_after_role@wake"))
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(pulled(source)))
        thread.start()
        upstream.wait_requests("hang_after_role@wake")
        thread.join(0.2)
        assert thread.is_alive()
        source.interrupt()
        thread.join(5)
        assert found == ["|upstream_incomplete"]


def test_interrupting_after_the_end_harms_nobody(upstream):
    with openai.OpenAI(base_url=upstream.url, api_key="k", max_retries=0) as client:
        source = source_of(create(client, "ok"))
        pulled(source)
        source.interrupt()
        assert pulled(source_of(create(client, "ok"))).endswith("|done")


REQUEST = httpx2.Request("POST", "http://upstream.invalid/v1")


def status_error(status: int, body: object = None, **headers: str) -> openai.APIStatusError:
    response = httpx2.Response(status, request=REQUEST, headers=headers)
    return openai.APIStatusError("zq-words", response=response, body=body)


def lost() -> openai.APIConnectionError:
    error = openai.APIConnectionError(request=REQUEST)
    error.__cause__ = httpx2.ReadError("zq-words")
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (status_error(503), "upstream_unavailable"),
        (status_error(429, {"code": "insufficient_quota"}), "upstream_quota"),
        (status_error(401), "upstream_auth"),
        (openai.APITimeoutError(request=REQUEST), "upstream_timeout"),
        (openai.APIError("zq-words", REQUEST, body={"type": "x"}), "upstream_error"),
        (lost(), "upstream_unreachable"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_each_error_of_the_package_has_its_code(error, code, caplog):
    def broken():
        yield chunk("Hel")
        raise error

    assert pulled(source_of(broken())) == f"Hel|{code}"
    assert "zq-words" not in caplog.text


def test_an_error_of_the_package_from_an_iterable_is_translated():
    def fails():
        yield chunk("a")
        raise openai.APITimeoutError(request=None)

    assert pulled(source_of(fails())) == "a|upstream_timeout"


def test_a_run_error_from_an_iterable_keeps_its_code():
    def fails():
        yield chunk("a")
        raise RunError("upstream_quota")

    assert pulled(source_of(fails())) == "a|upstream_quota"


# Refused


async def coroutine():
    raise AssertionError("never awaited")


@contextmanager
def manager():
    yield iter(CHUNKS)


def started():
    generator = generate()
    next(generator)
    return generator


def finished():
    generator = generate()
    list(generator)
    return generator


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (coroutine, "coroutine: await it first"),
        (lambda: "text", "str: put chunks into a list"),
        (lambda: b"text", "bytes: put chunks into a list"),
        (lambda: CHUNKS[0], "dict: put chunks into a list"),
        (
            lambda: ChatCompletion(
                id="x", choices=[], created=1, model="m", object="chat.completion"
            ),
            "whole ChatCompletion: pass stream=True",
        ),
        (manager, "not a _GeneratorContextManager: create"),
        (
            lambda: openai.OpenAI(api_key="k").chat.completions.stream(model="m", messages=[]),
            "ChatCompletionStreamManager: create",
        ),
        (started, "generator was already iterated"),
        (finished, "generator was already iterated"),
        (lambda: 5, "not int"),
        (lambda: None, "not NoneType"),
        (lambda: generate, "not function"),
    ],
)
def test_a_misfit_is_refused_with_what_to_pass(make, says):
    with pytest.raises(TypeError, match="EventStreamResponse takes the unstarted stream") as caught:
        source_of(make())
    assert says in str(caught.value)


async def test_a_future_is_refused():
    with pytest.raises(TypeError, match="Future: await it first"):
        source_of(asyncio.get_running_loop().create_future())


async def test_an_async_generator_that_was_started_or_is_finished_is_refused():
    begun, over = agenerate(), agenerate()
    await anext(begun)
    async for _ in over:
        pass
    for generator in (begun, over):
        with pytest.raises(TypeError, match="async_generator was already iterated"):
            source_of(generator)
    await begun.aclose()


async def test_an_async_generator_that_was_closed_untouched_is_refused():
    generator = agenerate()
    await generator.aclose()
    with pytest.raises(TypeError, match="already iterated"):
        source_of(generator)


def test_a_consumed_stream_is_refused(upstream):
    with openai.OpenAI(base_url=upstream.url, api_key="k", max_retries=0) as client:
        begun, over, closed = (create(client, "ok") for _ in range(3))
        next(begun)
        list(over)
        closed.close()
        for stream in (begun, over, closed):
            with pytest.raises(TypeError, match="Stream was already iterated"):
                source_of(stream)
        begun.close()


@pytest.mark.parametrize("transport", [None, HttptoolsTransport], ids=["httpx", "httptools"])
async def test_an_async_stream_that_was_streamed_is_refused(upstream, transport):
    http_client = httpx2.AsyncClient(transport=transport and transport())
    async with openai.AsyncOpenAI(
        base_url=upstream.url, api_key="k", max_retries=0, http_client=http_client
    ) as client:
        stream = await create(client, "ok")
        async with source_of(stream).aopen() as batches:
            with pytest.raises(TypeError, match="AsyncStream was already iterated"):
                source_of(stream)  # while it is read, and not only after
            async for _ in batches:
                pass
        await drained()
        with pytest.raises(TypeError, match="AsyncStream was already iterated"):
            source_of(stream)


async def test_a_consumed_async_stream_is_refused(upstream):
    async with openai.AsyncOpenAI(base_url=upstream.url, api_key="k", max_retries=0) as client:
        stream = await create(client, "ok")
        await anext(stream)
        with pytest.raises(TypeError, match="AsyncStream was already iterated"):
            source_of(stream)
        await stream.close()
