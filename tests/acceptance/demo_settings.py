"""The demo's settings, with a provider that plays any behaviour and does not wait for long."""

from project.settings import *  # noqa: F403
from project.settings import CHATSTREAM

CHATSTREAM["MAX_PROMPT_CHARS"] = 6_000
CHATSTREAM["LEASE"] = 5.0
CHATSTREAM["PROVIDERS"]["default"]["OPTIONS"] |= {
    "models": ["*"],
    "first_token_timeout": 3.0,
    "token_timeout": 2.0,
}
