"""The documentation names every setting, option, check and code that there is."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from chatstream import checks
from chatstream.conf import Settings
from chatstream.core.outcomes import ERRORS, REFUSALS, Outcome
from chatstream.providers.openai import OpenAIOptions
from chatstream.providers.scripted import ScriptedOptions

ROOT = Path(__file__).resolve().parent.parent


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def named_in(text: str) -> set[str]:
    """Return every word that stands in backticks, alone or in a list of such."""
    return set(re.findall(r'`"?([\w.]+)"?`', text))


@pytest.mark.parametrize("options", [Settings, OpenAIOptions, ScriptedOptions])
def test_every_setting_and_option_is_documented(options):
    assert {field.name for field in fields(options)} <= named_in(page("settings.md"))


def test_every_check_is_documented_and_no_other():
    backends = (ROOT / "chatstream" / folder for folder in ("providers", "framelog"))
    sources = [
        Path(checks.__file__),
        *(path for folder in backends for path in folder.glob("*.py")),
    ]
    ids = {
        found for path in sources for found in re.findall(r"chatstream\.[EW]\d+", path.read_text())
    }
    documented = {name for name in named_in(page("settings.md")) if re.search(r"\.[EW]\d+$", name)}
    assert ids == documented


def test_every_outcome_and_code_is_documented():
    words = {*ERRORS, *REFUSALS, *(outcome.value for outcome in Outcome)}
    assert words - {"failed"} <= named_in(page("design.md"))
