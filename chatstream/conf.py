"""The one setting, ``CHATSTREAM``: typed, with defaults, and strict about what it does not know.

::

    from chatstream.conf import settings

    settings.HEARTBEAT          # 15.0, or what the project set

Values are read at first use, checked as a whole, and read again when a test overrides
``CHATSTREAM``. An unknown key or a wrong type raises ``ImproperlyConfigured`` with the place, what
was expected and what came. No message and no ``repr`` here shows a string that a project set:
it could be a key.

Imports no backend: providers check their own options, with ``typed_options``.
"""

from __future__ import annotations

import difflib
import math
import os
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import (
    Any,
    Literal,
    TypedDict,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

__all__ = [
    "DEFAULT_MODEL",
    "BackendEntry",
    "ProviderEntry",
    "Settings",
    "nearest",
    "settings",
    "typed_options",
]

SETTING = "CHATSTREAM"
DEFAULT_BACKEND = "chatstream.providers.openai.OpenAIProvider"
DEFAULT_FRAME_LOG = "chatstream.framelog.database.DatabaseFrameLog"
DEFAULT_MODEL = "gpt-4o-mini"

T = TypeVar("T")


class BackendEntry(TypedDict):
    """A class's dotted path, and its options."""

    BACKEND: str
    OPTIONS: dict[str, Any]


class ProviderEntry(BackendEntry):
    """A value of ``PROVIDERS``: ``TOOLS`` are the dotted paths of functions a model may call."""

    TOOLS: list[str]


class Options(dict[str, Any]):
    """A provider's options; their ``repr`` shows names only, for one of the values is a key."""

    def __repr__(self) -> str:
        return f"<options: {', '.join(map(str, self)) or 'none'}>"


def default_providers() -> dict[str, ProviderEntry]:
    """Return the providers of a project that configures none: OpenAI, by ``OPENAI_API_KEY``.

    Without a key there is still an entry: ``manage.py check`` then says that the key is missing.
    """
    options = with_environment(DEFAULT_BACKEND, Options(model=DEFAULT_MODEL))
    return {"default": {"BACKEND": DEFAULT_BACKEND, "OPTIONS": options, "TOOLS": []}}


def with_environment(backend: str, options: Options) -> Options:
    """Return an OpenAI provider's options with what the openai package would read by itself.

    Only if they name neither a server nor a key: the key of the environment is OpenAI's, and must
    never reach another server.
    """
    if backend != DEFAULT_BACKEND or "base_url" in options or "api_key" in options:
        return options
    variables = {"api_key": "OPENAI_API_KEY", "base_url": "OPENAI_BASE_URL"}
    values = {option: os.environ.get(name) for option, name in variables.items()}
    return Options(options, **{option: value for option, value in values.items() if value})


def default_frame_log() -> BackendEntry:
    return {"BACKEND": DEFAULT_FRAME_LOG, "OPTIONS": {}}


@dataclass(frozen=True)
class Settings:
    """The settings and their defaults; ``docs/settings.md`` explains each."""

    PROVIDERS: dict[str, ProviderEntry] = field(default_factory=default_providers)
    HEARTBEAT: float = field(default=15.0, metadata={"above": 0})  # seconds
    ALLOW_ANONYMOUS: bool = False
    MAX_PROMPT_CHARS: int = field(default=32_000, metadata={"above": 0})
    MAX_HISTORY_CHARS: int = field(default=400_000, metadata={"above": 0})
    MAX_ANSWER_CHARS: int = field(default=1_000_000, metadata={"above": 0})
    MAX_OPEN_RUNS: int = field(default=10, metadata={"above": 0})  # per owner
    MAX_TOOL_ROUNDS: int = field(default=8, metadata={"above": 0})  # per run
    TOOL_TIMEOUT: float = field(default=30.0, metadata={"above": 0})  # seconds
    FRAME_LOG: BackendEntry = field(default_factory=default_frame_log)
    ON_DISCONNECT: Literal["finish", "stop"] = "finish"
    GRACE: float = field(default=30.0, metadata={"above": 0})  # seconds
    LEASE: float = field(default=15.0, metadata={"least": 1})  # seconds
    RETENTION: float = field(default=86_400.0, metadata={"above": 0})  # seconds


@dataclass(frozen=True)
class _Entry:
    """``BackendEntry``, in the form that ``typed_options`` checks."""

    BACKEND: str
    OPTIONS: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _ProviderEntry(_Entry):
    TOOLS: list[str] = field(default_factory=list)


def load() -> Settings:
    """Return the settings as Django has them now.

    Raises ``ImproperlyConfigured`` for an unknown key, a wrong type or a value out of range.
    """
    given = getattr(django_settings, SETTING, {})
    if isinstance(given, Mapping) and isinstance(given.get("PROVIDERS"), Mapping):
        given = {**given, "PROVIDERS": _provider_entries(given["PROVIDERS"])}
    if isinstance(given, Mapping) and "FRAME_LOG" in given:
        entry = typed_options(_Entry, given["FRAME_LOG"], f'{SETTING}["FRAME_LOG"]')
        given = {**given, "FRAME_LOG": {"BACKEND": entry.BACKEND, "OPTIONS": entry.OPTIONS}}
    return typed_options(Settings, given, SETTING)


def _provider_entries(given: Mapping[Any, Any]) -> dict[Any, dict[str, Any]]:
    entries = {}
    for alias, value in given.items():
        entry = typed_options(_ProviderEntry, value, f'{SETTING}["PROVIDERS"]["{alias}"]')
        options = with_environment(entry.BACKEND, Options(entry.OPTIONS))
        entries[alias] = {"BACKEND": entry.BACKEND, "OPTIONS": options, "TOOLS": entry.TOOLS}
    return entries


class _Current:
    """Stands for the ``Settings`` loaded last; loads them at first use."""

    def __init__(self) -> None:
        self._loaded: Settings | None = None
        setting_changed.connect(self._forget)

    def __getattr__(self, name: str) -> Any:
        if self._loaded is None:
            self._loaded = load()
        return getattr(self._loaded, name)

    def __repr__(self) -> str:
        return f"<{SETTING}: {self._loaded or 'not loaded yet'}>"

    def _forget(self, *, setting: str, **kwargs: Any) -> None:
        if setting == SETTING:
            self._loaded = None


# The cast gives callers the types of ``Settings``; they need not know that it is loaded lazily.
settings = cast(Settings, _Current())


# Typed options, for CHATSTREAM itself and for every provider ---------------------------------


def typed_options(dataclass_type: type[T], given: Any, where: str) -> T:
    """Return ``dataclass_type(**given)``, after checking names, types and ranges.

    ``where`` names the dict in messages, e.g. ``CHATSTREAM["PROVIDERS"]["default"]["OPTIONS"]``.
    A field's type may be a class, ``Any``, ``Literal``, ``list``/``tuple``/``dict`` of such, or a
    union; its metadata may hold ``{"above": number}`` (greater than) and ``{"least": number}``.
    An int is a float, but never a bool; a tuple is a list and the other way round.

    Raises ``ImproperlyConfigured`` otherwise. The message names the type of what came, and its
    value only if that is a number.
    """
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"{where} must be a dict, not {_came(given)}.")
    known = {f.name: f for f in fields(cast(Any, dataclass_type)) if f.init}
    _refuse_unknown(given, known, where)
    _refuse_missing(given, known, where)
    hints = get_type_hints(dataclass_type)
    values = {
        name: _checked(value, hints[name], known[name], f'{where}["{name}"]')
        for name, value in given.items()
    }
    return dataclass_type(**values)


def nearest(name: object, known: Iterable[str]) -> str | None:
    """Return the one of ``known`` that ``name`` most likely means, or None; case does not count."""
    spelling = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(str(name).lower(), spelling, n=1, cutoff=0.6)
    return spelling[found[0]] if found else None


def _refuse_unknown(given: Mapping[Any, Any], known: Mapping[str, Any], where: str) -> None:
    for name in given:
        if name in known:
            continue
        near = nearest(name, known)
        hint = f"Did you mean '{near}'?" if near else f"Known are {', '.join(known) or 'none'}."
        raise ImproperlyConfigured(f"{where} does not know '{name}'. {hint}")


def _refuse_missing(given: Mapping[Any, Any], known: Mapping[str, Field[Any]], where: str) -> None:
    for name, known_field in known.items():
        required = known_field.default is MISSING and known_field.default_factory is MISSING
        if required and name not in given:
            raise ImproperlyConfigured(f"{where} lacks '{name}'.")


def _checked(value: Any, hint: Any, known_field: Field[Any], where: str) -> Any:
    try:
        value = _as(value, hint)
    except TypeError:
        raise ImproperlyConfigured(
            f"{where} must be {_expected(hint)}, not {_came(value, hint)}."
        ) from None
    above, least = (known_field.metadata.get(bound) for bound in ("above", "least"))
    if isinstance(value, int | float):
        if above is not None and not above < value < math.inf:
            raise ImproperlyConfigured(f"{where} must be greater than {above}, not {value}.")
        if least is not None and not least <= value < math.inf:
            raise ImproperlyConfigured(f"{where} must be at least {least}, not {value}.")
    return value


def _as(value: Any, hint: Any) -> Any:
    """Return ``value`` as ``hint`` has it; ``TypeError`` if it is something else."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _as_one_of(value, arguments)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise TypeError
        return value
    if origin is not None:
        return _as_collection(value, origin, arguments)
    if hint is float and type(value) is int:
        return float(value)
    expected = dict if is_typeddict(hint) else type(None) if hint is None else hint
    # bool is an int to Python; to a reader, MAX_PROMPT_CHARS = True is a slip.
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise TypeError
    return value


def _as_one_of(value: Any, hints: tuple[Any, ...]) -> Any:
    for hint in hints:
        try:
            return _as(value, hint)
        except TypeError:
            continue
    raise TypeError


def _as_collection(value: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
    if issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise TypeError
        key, item = arguments
        return {_as(k, key): _as(v, item) for k, v in value.items()}
    if not isinstance(value, list | tuple):
        raise TypeError
    items = [_as(item, arguments[0]) for item in value]
    return tuple(items) if issubclass(origin, tuple) else items


def _expected(hint: Any) -> str:
    """Name a type as the reader of a message would: "a number", "a list of str", "'a' or 'b'"."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is not None:
        if issubclass(origin, Mapping):
            return f"a dict with {arguments[0].__name__} keys"
        return f"a list of {getattr(arguments[0], '__name__', arguments[0])}"
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "a str"}
    names |= {dict: "a dict", list: "a list", type(None): "None"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _came(value: Any, hint: Any = None) -> str:
    """Describe a value without showing it, unless it is a number, a bool or a misspelt choice."""
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if get_origin(hint) is Literal and isinstance(value, str):
        near = nearest(value, [choice for choice in get_args(hint) if isinstance(choice, str)])
        if near:
            return f"{value!r} (did you mean '{near}'?)"
    if isinstance(value, list | tuple):
        inner = sorted({type(item).__name__ for item in value})
        return f"a {type(value).__name__} of {', '.join(inner) or 'nothing'}"
    if isinstance(value, Mapping):
        inner = sorted({type(key).__name__ for key in value})
        return f"a dict with {', '.join(inner) or 'no'} keys"
    return f"a {type(value).__name__}"
