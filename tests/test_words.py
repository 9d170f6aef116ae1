"""What the page says: words for every state and code, in every language, placeholders and all."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import polib
import pytest
from django.test import Client, override_settings
from django.utils import translation

from chatstream import words
from chatstream.core.outcomes import ERRORS, REFUSALS, Outcome
from chatstream.words import STATES, WORDS, state_of
from tests.asking import configured

PACKAGE = Path(words.__file__).parent
CONTEXT = "chatstream"
LANGUAGES = {"de": "de", "es": "es", "fr": "fr", "zh_Hans": "zh-hans"}

each_language = pytest.mark.parametrize("locale", LANGUAGES)


def catalogue(locale: str) -> polib.POFile:
    return polib.pofile(str(PACKAGE / "locale" / locale / "LC_MESSAGES" / "django.po"))


def said() -> set[tuple[str, str]]:
    """Return (context, English) of all that the package marks to be translated."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and "pgettext" in ast.unparse(node.func):
                context, text = (ast.literal_eval(argument) for argument in node.args)
                found.add((context, text))
    for path in (PACKAGE / "templates").rglob("*.html"):
        tags = re.findall(r"\{% (?:blocktranslate|translate)([^%]*)%\}", path.read_text())
        for tag in tags:
            match = re.fullmatch(r" '([^']+)' context '(\w+)' ", tag)
            assert match, f"{path.name}: {tag}"
            found.add((match[2], match[1]))
    return found


def placeholders(text: str) -> list[str]:
    return sorted(re.findall(r"\{\w*\}", text))


# English ------------------------------------------------------------------------------------------


def test_every_code_has_words_and_no_other_has() -> None:
    assert words.ERRORS.keys() == ERRORS.keys()
    assert words.REFUSALS.keys() == REFUSALS.keys()


def test_an_error_reads_on_the_page_as_in_its_frame() -> None:
    with translation.override("en"):
        assert {code: str(text) for code, text in words.ERRORS.items()} == {
            code: public.message for code, public in ERRORS.items()
        }


def test_every_outcome_is_a_state() -> None:
    assert {state_of(outcome) for outcome in Outcome} <= STATES.keys()


def test_all_that_is_said_has_our_context() -> None:
    assert {context for context, _ in said()} == {CONTEXT}


def test_javascript_asks_for_no_word_that_is_not_there() -> None:
    sources = [path.read_text() for path in (PACKAGE / "static" / "chatstream").glob("*.js")]
    asked = {name for source in sources for name in re.findall(r"\bwords\.(?!py\b)(\w+)", source)}
    assert asked
    assert asked <= WORDS.keys()


def test_the_words_for_javascript_are_json() -> None:
    from django.core.serializers.json import DjangoJSONEncoder

    told = json.loads(json.dumps(words.config(), cls=DjangoJSONEncoder))
    assert set(told) == {"states", "words", "errors", "refusals"}
    assert told["states"]["done"] == {
        "tone": "",
        "label": "",
        "words": "",
        "actions": ["regenerate"],
    }


# Other languages ----------------------------------------------------------------------------------


@each_language
def test_a_language_is_complete(locale: str) -> None:
    entries = catalogue(locale)
    assert {(entry.msgctxt, entry.msgid) for entry in entries} == said()
    assert [entry.msgid for entry in entries if not entry.msgstr or entry.fuzzy] == []


@each_language
def test_placeholders_are_kept(locale: str) -> None:
    for entry in catalogue(locale):
        assert placeholders(entry.msgstr) == placeholders(entry.msgid), entry.msgid


@each_language
def test_what_was_compiled_is_what_was_written(locale: str) -> None:
    written = catalogue(locale)
    path = PACKAGE / "locale" / locale / "LC_MESSAGES" / "django.mo"
    compiled = {(entry.msgctxt, entry.msgid): entry.msgstr for entry in polib.mofile(str(path))}
    assert compiled == {(entry.msgctxt, entry.msgid): entry.msgstr for entry in written}


@pytest.mark.parametrize("language", LANGUAGES.values())
def test_django_finds_every_language(language: str) -> None:
    with translation.override(language):
        assert str(STATES["stopped"].words) != "Stopped."


# On the page --------------------------------------------------------------------------------------


@pytest.mark.django_db
@override_settings(
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.locale.LocaleMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ]
)
@pytest.mark.parametrize(
    ("language", "placeholder"),
    [
        ("en", "Ask anything…"),
        ("de", "Eine Frage stellen …"),
        ("zh-hans", "随便问点什么…"),
        ("nn", "Ask anything…"),  # which we do not speak
    ],
)
def test_the_page_speaks_the_visitors_language(language: str, placeholder: str) -> None:
    with translation.override("en"), configured():  # the middleware's language outlives its request
        response: Any = Client().get("/chat/", headers={"accept-language": language})
    text = response.content.decode()
    assert f'<html lang="{language}" dir="ltr">' in text
    assert f'placeholder="{placeholder}"' in text
    assert json.dumps(placeholder)[1:-1] in text  # JavaScript's, too
