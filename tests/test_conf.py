"""The setting `CHATSTREAM` and the helper that types it."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from chatstream.conf import DEFAULT_MODEL, nearest, settings, typed_options

OPENAI = "chatstream.providers.openai.OpenAIProvider"
DATABASE_LOG = "chatstream.framelog.database.DatabaseFrameLog"
KEY = "sk-live-0123456789"


@pytest.fixture(autouse=True)
def no_key_of_this_machine(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def refusal(chatstream: Any) -> str:
    with override_settings(CHATSTREAM=chatstream), pytest.raises(ImproperlyConfigured) as caught:
        _ = settings.HEARTBEAT
    return str(caught.value)


def test_every_setting_has_a_default():
    with override_settings(CHATSTREAM={}):
        assert settings.HEARTBEAT == 15.0
        assert settings.ALLOW_ANONYMOUS is False
        assert settings.MAX_PROMPT_CHARS == 32_000
        assert settings.MAX_HISTORY_CHARS == 400_000
        assert settings.MAX_ANSWER_CHARS == 1_000_000
        assert settings.MAX_OPEN_RUNS == 10
        assert settings.ON_DISCONNECT == "finish"
        assert settings.GRACE == 30.0
        assert settings.LEASE == 15.0
        assert settings.RETENTION == 86_400.0
        assert settings.FRAME_LOG == {"BACKEND": DATABASE_LOG, "OPTIONS": {}}


def test_a_project_without_the_setting_has_the_defaults(settings):
    from chatstream.conf import settings as chatstream_settings

    del settings.CHATSTREAM
    assert chatstream_settings.HEARTBEAT == 15.0


def test_what_the_project_sets_counts_and_a_test_may_change_it():
    with override_settings(CHATSTREAM={"HEARTBEAT": 3}):
        assert settings.HEARTBEAT == 3.0
        assert isinstance(settings.HEARTBEAT, float)
        with override_settings(CHATSTREAM={"HEARTBEAT": 4}):
            assert settings.HEARTBEAT == 4.0
        assert settings.HEARTBEAT == 3.0


def test_a_key_alone_is_a_provider_with_a_default_model(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with override_settings(CHATSTREAM={}):
        entry = settings.PROVIDERS["default"]
    assert entry["BACKEND"] == OPENAI
    assert entry["OPTIONS"] == {"api_key": KEY, "model": DEFAULT_MODEL}


def test_the_key_of_the_environment_goes_to_openai_alone(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def options_of(backend=OPENAI, **options):
        providers = {"default": {"BACKEND": backend, "OPTIONS": options}}
        with override_settings(CHATSTREAM={"PROVIDERS": providers}):
            return settings.PROVIDERS["default"]["OPTIONS"]

    assert options_of(model="m") == {"model": "m", "api_key": KEY}
    assert options_of(api_key="mine") == {"api_key": "mine"}
    assert options_of(base_url="http://127.0.0.1:1/v1") == {"base_url": "http://127.0.0.1:1/v1"}
    assert options_of("x.Y") == {}


def test_the_default_provider_heeds_the_openai_packages_own_base_url(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    with override_settings(CHATSTREAM={}):
        assert settings.PROVIDERS["default"]["OPTIONS"]["base_url"] == "http://127.0.0.1:1/v1"


def test_options_of_a_provider_default_to_none_at_all():
    with override_settings(CHATSTREAM={"PROVIDERS": {"default": {"BACKEND": "x.Y"}}}):
        assert settings.PROVIDERS == {"default": {"BACKEND": "x.Y", "OPTIONS": {}, "TOOLS": []}}


def test_options_of_a_frame_log_default_to_none_at_all():
    with override_settings(CHATSTREAM={"FRAME_LOG": {"BACKEND": "x.Y"}}):
        assert settings.FRAME_LOG == {"BACKEND": "x.Y", "OPTIONS": {}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"HEARTBEET": 1}, "CHATSTREAM does not know 'HEARTBEET'. Did you mean 'HEARTBEAT'?"),
        ({"heartbeat": 1}, "CHATSTREAM does not know 'heartbeat'. Did you mean 'HEARTBEAT'?"),
        ({"HEARTBEAT": "15"}, 'CHATSTREAM["HEARTBEAT"] must be a number, not a str.'),
        ({"HEARTBEAT": 0}, 'CHATSTREAM["HEARTBEAT"] must be greater than 0, not 0.0.'),
        ({"HEARTBEAT": float("nan")}, 'CHATSTREAM["HEARTBEAT"] must be greater than 0, not nan.'),
        ({"HEARTBEAT": float("inf")}, 'CHATSTREAM["HEARTBEAT"] must be greater than 0, not inf.'),
        ({"HEARTBEAT": True}, 'CHATSTREAM["HEARTBEAT"] must be a number, not True.'),
        (
            {"MAX_PROMPT_CHARS": 1.5},
            'CHATSTREAM["MAX_PROMPT_CHARS"] must be a whole number, not 1.5.',
        ),
        ({"ALLOW_ANONYMOUS": 1}, 'CHATSTREAM["ALLOW_ANONYMOUS"] must be True or False, not 1.'),
        ({"PROVIDERS": None}, 'CHATSTREAM["PROVIDERS"] must be a dict with str keys, not None.'),
        (
            {"PROVIDERS": {7: {"BACKEND": "x.Y"}}},
            'CHATSTREAM["PROVIDERS"] must be a dict with str keys, not a dict with int keys.',
        ),
        ({"PROVIDERS": {"a": {}}}, 'CHATSTREAM["PROVIDERS"]["a"] lacks \'BACKEND\'.'),
        (
            {"PROVIDERS": {"a": {"BACKEND": "x.Y", "OPTION": {}}}},
            "CHATSTREAM[\"PROVIDERS\"][\"a\"] does not know 'OPTION'. Did you mean 'OPTIONS'?",
        ),
        ({"FRAME_LOG": "x.Y"}, 'CHATSTREAM["FRAME_LOG"] must be a dict, not a str.'),
        ({"FRAME_LOG": {}}, "CHATSTREAM[\"FRAME_LOG\"] lacks 'BACKEND'."),
        (
            {"FRAME_LOG": {"BACKEND": "x.Y", "OPTION": {}}},
            "CHATSTREAM[\"FRAME_LOG\"] does not know 'OPTION'. Did you mean 'OPTIONS'?",
        ),
        (
            {"ON_DISCONNECT": "finnish"},
            "CHATSTREAM[\"ON_DISCONNECT\"] must be 'finish' or 'stop', "
            "not 'finnish' (did you mean 'finish'?).",
        ),
        ({"GRACE": 0}, 'CHATSTREAM["GRACE"] must be greater than 0, not 0.0.'),
        ({"LEASE": 0.5}, 'CHATSTREAM["LEASE"] must be at least 1, not 0.5.'),
        ({"RETENTION": -1}, 'CHATSTREAM["RETENTION"] must be greater than 0, not -1.0.'),
        ({"MAX_OPEN_RUNS": 0}, 'CHATSTREAM["MAX_OPEN_RUNS"] must be greater than 0, not 0.'),
        (["HEARTBEAT"], "CHATSTREAM must be a dict, not a list of str."),
    ],
)
def test_a_mistake_is_refused_with_the_place_and_what_was_expected(given, message):
    assert refusal(given) == message


def test_a_name_like_no_other_is_refused_with_all_that_are_known():
    assert refusal({"ZZZZ": 1}).startswith("CHATSTREAM does not know 'ZZZZ'. Known are PROVIDERS,")


@pytest.mark.parametrize(
    "chatstream",
    [
        {"PROVIDERS": KEY},
        {"PROVIDERS": {"default": KEY}},
        {"PROVIDERS": {"default": {"BACKEND": [KEY]}}},
        {"PROVIDERS": {"default": {"BACKEND": "x.Y", "OPTIONS": KEY}}},
        {"PROVIDERS": {"default": {"BACKEND": "x.Y", "OPTIONS": [KEY]}}},
        {"HEARTBEAT": KEY},
        {"ON_DISCONNECT": KEY},
        {"FRAME_LOG": KEY},
        {"FRAME_LOG": {"BACKEND": [KEY]}},
        {"FRAME_LOG": {"BACKEND": "x.Y", "OPTIONS": KEY}},
        KEY,
    ],
)
def test_no_message_shows_a_key(chatstream):
    assert KEY not in refusal(chatstream)


def test_no_repr_shows_a_key():
    providers = {"default": {"BACKEND": "x.Y", "OPTIONS": {"api_key": KEY, "model": "m"}}}
    with override_settings(CHATSTREAM={"PROVIDERS": providers}):
        assert settings.PROVIDERS["default"]["OPTIONS"]["api_key"] == KEY
        shown = f"{settings!r} {settings.PROVIDERS!r}"
    assert "api_key" in shown
    assert KEY not in shown


@dataclass(frozen=True)
class Options:
    model: str
    models: list[str] = field(default_factory=list)
    tags: tuple[str, ...] = ()
    api_key: str | None = None
    transport: Literal["auto", "httpx", "httptools"] = "auto"
    timeout: float = field(default=3.0, metadata={"above": 0})
    retries: int = field(default=0, metadata={"least": 0})
    params: dict[str, Any] = field(default_factory=dict)


def options(**given: Any) -> Options:
    return typed_options(Options, given, "OPTIONS")


def test_options_become_the_dataclass_with_its_own_types():
    assert options(model="m", models=("a",), tags=["b"], timeout=1, params={"n": 1}) == Options(
        model="m", models=["a"], tags=("b",), timeout=1.0, params={"n": 1}
    )
    assert options(model="m", api_key=None).api_key is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "OPTIONS lacks 'model'."),
        ({"modell": "m"}, "OPTIONS does not know 'modell'. Did you mean 'model'?"),
        ({"models": "m"}, 'OPTIONS["models"] must be a list of str, not a str.'),
        ({"models": [1]}, 'OPTIONS["models"] must be a list of str, not a list of int.'),
        ({"api_key": 1}, 'OPTIONS["api_key"] must be a str or None, not 1.'),
        ({"retries": -1}, 'OPTIONS["retries"] must be at least 0, not -1.'),
        (
            {"transport": "httptoolz"},
            "OPTIONS[\"transport\"] must be 'auto' or 'httpx' or 'httptools', "
            "not 'httptoolz' (did you mean 'httptools'?).",
        ),
        (
            {"transport": KEY},
            "OPTIONS[\"transport\"] must be 'auto' or 'httpx' or 'httptools', not a str.",
        ),
    ],
)
def test_a_wrong_option_is_refused_by_name(given, message):
    given = given if given == {} or "modell" in given else {"model": "m"} | given
    with pytest.raises(ImproperlyConfigured) as caught:
        typed_options(Options, given, "OPTIONS")
    assert str(caught.value) == message


def test_the_nearest_name_is_found_in_any_case():
    assert nearest("TOKEN_TIMEOUT", ["token_timeout", "run_timeout"]) == "token_timeout"
    assert nearest("zzz", ["token_timeout"]) is None
