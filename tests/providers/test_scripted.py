"""The provider that plays a script, under each of its two doors."""

import asyncio
import time

import pytest
from django.core.exceptions import ImproperlyConfigured

from chatstream.core.framer import Framer
from chatstream.core.requests import RunRequest
from chatstream.providers import get_provider
from chatstream.providers.scripted import ScriptedProvider
from chatstream.relay import aframes, frames

REQUEST = RunRequest(messages=[{"role": "user", "content": "hi"}])


@pytest.fixture(params=["open", "aopen"])
def play(request):
    """Return a function: the frames that a script makes."""

    def pull(script):
        provider = ScriptedProvider("s", {"script": script})
        if request.param == "open":
            return list(frames(provider.open(REQUEST), Framer()))

        async def main():
            return [frame async for frame in aframes(provider.aopen(REQUEST), Framer())]

        return asyncio.run(main())

    return pull


def shown(taken) -> str:
    return " ".join(f"{frame.kind}={frame.data.get('text', '')}".rstrip("=") for frame in taken)


def test_a_script_of_text(play):
    taken = play(["Hel", "lo", {"finish_reason": "stop"}])
    assert shown(taken) == "start text=Hel text=lo finish done"


def test_a_script_without_a_finish_reason_is_incomplete(play):
    assert play(["Hel"])[-1].data["code"] == "upstream_incomplete"


def test_an_empty_script_is_incomplete(play):
    assert play([])[-1].data["code"] == "upstream_incomplete"


def test_a_scripted_error(play):
    taken = play(["Hel", {"error": "upstream_rate_limited"}, "never"])
    assert shown(taken) == "start text=Hel finish error"
    assert taken[-1].data["code"] == "upstream_rate_limited"


def test_fields_of_a_delta(play):
    taken = play([{"reasoning": "hm"}, {"text": "a", "finish_reason": "length"}, {"is_done": True}])
    assert shown(taken) == "start reasoning=hm text=a finish done"
    assert taken[-2].data["outcome"] == "truncated"


def test_a_number_is_a_pause(play):
    began = time.monotonic()
    play([0.1, {"finish_reason": "stop"}])
    assert 0.1 <= time.monotonic() - began < 5


def test_the_default_script_is_a_good_answer():
    taken = list(frames(ScriptedProvider("s", {}).open(REQUEST), Framer()))
    assert shown(taken).startswith("start text=Hello")
    assert taken[-1].kind == "done"


def test_requests_are_kept():
    provider = ScriptedProvider("s", {})
    list(frames(provider.open(REQUEST), Framer()))
    assert provider.requests == [REQUEST]


@pytest.mark.parametrize("step", [None, ["x"], {"texts": "x"}, {"error": "no_such_code"}, b"x"])
def test_a_step_that_cannot_be_played_is_refused_and_shown(step):
    with pytest.raises(ImproperlyConfigured, match="provider 'mine'") as caught:
        ScriptedProvider("mine", {"script": [step]})
    assert "no_such_code" not in str(step) or "upstream_timeout" in str(caught.value)


def test_an_unknown_option_is_refused():
    with pytest.raises(ImproperlyConfigured, match="script"):
        ScriptedProvider("s", {"scrpt": []})


def test_an_alias_has_one_instance_until_the_setting_changes(settings):
    first = get_provider()
    assert get_provider("default") is first
    settings.CHATSTREAM = {**settings.CHATSTREAM}
    assert get_provider() is not first


def test_an_unknown_alias_is_a_key_error():
    with pytest.raises(KeyError):
        get_provider("nobody")


def test_which_models_a_client_may_ask_for():
    provider = ScriptedProvider("s", {"model": "a", "models": ["b"]})
    assert [model for model in ("a", "b", "c", "") if provider.allows_model(model)] == ["a", "b"]
    assert ScriptedProvider("s", {"models": ["*"]}).allows_model("c")
    assert provider.model_for(REQUEST) == "a"
    assert provider.model_for(RunRequest(messages=[], model="b")) == "b"
