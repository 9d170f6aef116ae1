"""Tools: functions of the site that a model may call while it answers.

::

    # shop/tools.py
    def find_orders(status: Literal["open", "sent"], limit: int = 10, *, caller: Caller) -> Any:
        '''Return the customer's own orders, newest first.'''
        orders = Order.objects.filter(customer=caller.user(), status=status)
        return orders.order_by("-placed_at").values("number", "placed_at")[:limit]

    # settings.py: the provider's entry
    "TOOLS": ["shop.tools.find_orders"]

The docstring and the annotations are what the model reads; what it sends is validated against them.
A parameter annotated with ``Caller`` is filled in here, and no model can. What a tool returns is
told to the model and to the reader; so are the words of a ``ToolError``, and of no other exception.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, make_dataclass
from functools import partial
from typing import Any, TypeVar, cast, get_args, get_type_hints

from asgiref.sync import iscoroutinefunction
from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.models import QuerySet
from django.utils.functional import Promise
from django.utils.module_loading import import_string
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import SchemaError

__all__ = ["Caller", "Slots", "Tool", "ToolError", "tools_of"]

logger = logging.getLogger("chatstream")

T = TypeVar("T")

AT_ONCE = 16  # tools that run in threads of a process: each may hold a database connection
MAX_ARGUMENTS = 100_000  # characters
MAX_WORDS = 2_000  # characters of an error
TOLD_FAULTS = 5  # of the arguments, to the model

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what OpenAI takes for the name of a function
_ANY: TypeAdapter[Any] = TypeAdapter(Any)
_PLAIN = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_PRIVATE = ("value_error", "assertion_error")  # faults in the words of a validator's exception


class ToolError(Exception):
    """What went wrong, in words for the model and for the reader: "There is no order 17."."""


@dataclass(frozen=True)
class Caller:
    """For whom a tool is called: the run, and its owner, ``user:<pk>`` or ``anon:<token>``."""

    run: str
    owner: str

    def user(self) -> Any:
        """Return the user from the database; None for an anonymous visitor. Blocks."""
        kind, _, pk = self.owner.partition(":")
        return get_user_model().objects.filter(pk=pk).first() if kind == "user" else None


class Tool:
    """A function, as a model may call it. To make one takes some milliseconds.

    Raises ``ImproperlyConfigured`` for one that a model could not be told of.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name: str = getattr(function, "__name__", "")
        self._where = f"The tool '{getattr(function, '__module__', '')}.{self.name}'"
        self.description = inspect.getdoc(function) or ""
        if not callable(function) or not _NAME.fullmatch(self.name):
            raise ImproperlyConfigured(f"{self._where} must be a function with a name of its own.")
        if not self.description:
            raise ImproperlyConfigured(
                f"{self._where} has no docstring: the model reads it to know what the tool does."
            )
        self._caller, fields = self._signature()
        self._arguments = self._adapter(fields)

    def _signature(self) -> tuple[str | None, list[Any]]:
        """Return the name of the parameter for the ``Caller``, and the others as fields."""
        try:
            hints = get_type_hints(self.function, include_extras=True)
        except NameError as exc:
            raise ImproperlyConfigured(f"{self._where} has an unknown annotation: {exc}.") from None
        caller: str | None = None
        fields: list[Any] = []
        for name, parameter in inspect.signature(self.function).parameters.items():
            if _mentions_caller(hints.get(name)):
                if hints[name] is not Caller or caller is not None:
                    raise ImproperlyConfigured(
                        f"{self._where} must have one parameter for the caller, annotated with "
                        f"Caller alone: '{name}' could be given by the model."
                    )
                caller = name
            elif name not in hints or parameter.kind not in _PLAIN:
                raise ImproperlyConfigured(
                    f"{self._where} needs a type for its parameter '{name}', which must be one "
                    "that can be given by name."
                )
            elif parameter.default is parameter.empty:
                fields.append((name, hints[name]))
            else:
                fields.append((name, hints[name], _default(parameter.default)))
        return caller, fields

    def _adapter(self, fields: list[Any]) -> TypeAdapter[Any]:
        config = ConfigDict(extra="forbid", allow_inf_nan=False)
        try:
            arguments = validated(make_dataclass("Arguments", fields, kw_only=True), config=config)
            adapter: TypeAdapter[Any] = TypeAdapter(arguments)
            self.parameters = _schema(adapter)
        except (PydanticUserError, SchemaError, TypeError, ValueError) as exc:
            raise ImproperlyConfigured(
                f"{self._where} has a parameter that JSON cannot hold: {str(exc).splitlines()[0]}"
            ) from None
        return adapter

    @property
    def spec(self) -> dict[str, Any]:
        """Return what the model is told, an entry of ``tools`` in a request of OpenAI's."""
        function = {"name": self.name, "description": self.description}
        return {"type": "function", "function": {**function, "parameters": self.parameters}}

    async def call(self, arguments: str, caller: Caller, *, within: float, max_chars: int) -> Any:
        """Return what the function returns, as JSON data; ``arguments`` is a JSON object.

        It runs in a thread of its own, a coroutine function on this loop. It is given up after
        ``within`` seconds, and so is what has more than ``max_chars`` characters of JSON. Raises
        ``ToolError`` with what may be told of a failure, and nothing else.
        """
        try:
            async with asyncio.timeout(within) as deadline:
                return await self._called(arguments, caller, max_chars)
        except ToolError as error:
            raise ToolError(str(error)[:MAX_WORDS]) from None
        except (Exception, SystemExit, asyncio.CancelledError) as exc:
            if isinstance(exc, asyncio.CancelledError) and _is_cancelled():
                raise
            if isinstance(exc, TimeoutError) and deadline.expired():
                logger.warning("run %s: the tool %s took over %g s", caller.run, self.name, within)
                raise ToolError("The tool took too long.") from None
            logger.exception("run %s: the tool %s failed", caller.run, self.name)
            raise ToolError("The tool failed.") from None

    async def _called(self, arguments: str, caller: Caller, max_chars: int) -> Any:
        if not iscoroutinefunction(self.function):
            return await _in_thread(partial(self._call, arguments, caller, max_chars))
        given = await _in_thread(partial(self._given, arguments, caller))
        return _json(await self.function(**given), max_chars)

    def _call(self, arguments: str, caller: Caller, max_chars: int) -> Any:
        # What is lazy is evaluated in this thread, too.
        return _json(self.function(**self._given(arguments, caller)), max_chars)

    def _given(self, arguments: str, caller: Caller) -> dict[str, Any]:
        """Return what to call the function with; validators may ask the database."""
        if len(arguments) > MAX_ARGUMENTS:
            raise ToolError(f"The arguments are longer than {MAX_ARGUMENTS} characters.")
        try:
            values = self._arguments.validate_json(arguments or "{}")
        except ValidationError as exc:
            raise ToolError(f"The arguments do not fit. {_told(exc)}") from None
        given = dict(vars(values))
        return given if self._caller is None else {**given, self._caller: caller}


def tools_of(paths: Iterable[str], where: str) -> tuple[Tool, ...]:
    """Return the tools at these dotted paths; ``where`` is the setting that has them.

    Raises ``ImproperlyConfigured``.
    """
    tools: dict[str, Tool] = {}
    for path in paths:
        try:
            tool = Tool(import_string(path))
        except ImportError as exc:
            raise ImproperlyConfigured(f"{where}: '{path}' cannot be imported: {exc}.") from None
        if tool.name in tools:
            raise ImproperlyConfigured(f"{where} has two tools named '{tool.name}'.")
        tools[tool.name] = tool
    return tuple(tools.values())


# Signatures -----------------------------------------------------------------------------------


def _mentions_caller(hint: Any) -> bool:
    """Whether a ``Caller`` is anywhere in an annotation: a model could send one there."""
    if isinstance(hint, type) and issubclass(hint, Caller):
        return True
    return any(map(_mentions_caller, get_args(hint)))


class _Schema(GenerateJsonSchema):
    """Without titles, which repeat the names: each request pays for them."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _schema(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    schema = adapter.json_schema(schema_generator=_Schema)
    for name in ("title", "description"):  # of a class that nobody wrote
        schema.pop(name, None)
    json.dumps(schema)  # a default may be no JSON: a TypeError
    return schema


def _default(value: Any) -> Any:
    """Return the field of a parameter with a default, which a dataclass wants hashable."""
    is_hashable = type(value).__hash__ is not None
    return field(default=value) if is_hashable else field(default_factory=lambda: value)


# Values ---------------------------------------------------------------------------------------


def _told(invalid: ValidationError) -> str:
    """Return what does not fit, for the model: no words of an exception that a validator raised."""
    faults = invalid.errors(include_url=False, include_context=False, include_input=False)
    told = [_fault(fault["loc"], fault["type"], fault["msg"]) for fault in faults[:TOLD_FAULTS]]
    more = len(faults) - len(told)
    return "; ".join([*told, f"and {more} more"] if more else told)


def _fault(place: tuple[int | str, ...], kind: str, words: str) -> str:
    where = ".".join(map(str, place))
    what = "Not a valid value" if kind in _PRIVATE else words
    return f"{where}: {what}" if where else what


def _json(value: Any, max_chars: int) -> Any:
    """Return a value as JSON data: dates, decimals, models of pydantic and ``.values()`` too."""
    dumped = value if isinstance(value, str) else _ANY.dump_json(value, fallback=_plain)
    if len(dumped) > max_chars:
        raise ToolError("The result is too long.")
    return dumped if isinstance(value, str) else json.loads(dumped)


def _plain(value: Any) -> Any:
    if isinstance(value, Promise):  # a translation that is not looked up yet
        return str(value)
    if isinstance(value, QuerySet):
        return list(value)
    raise TypeError(f"a tool returned a {type(value).__name__}, which is no JSON")


# Threads --------------------------------------------------------------------------------------


class Slots:
    """Lets ``AT_ONCE`` callers of a process in at a time, whatever loop they are on.

    One that is given up gives its slot back: a thread that hangs keeps nobody waiting.
    """

    def __init__(self, count: int = AT_ONCE) -> None:
        self._lock = threading.Lock()
        self._free = count
        self._waiting: deque[Future[None]] = deque()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        turn = self._queue()
        try:
            await asyncio.wrap_future(turn)
            yield
        finally:
            if not turn.cancel():  # it had its turn
                self._next()

    def _queue(self) -> Future[None]:
        turn: Future[None] = Future()
        with self._lock:
            if self._free:
                self._free -= 1
                turn.set_result(None)
            else:
                self._waiting.append(turn)
        return turn

    def _next(self) -> None:
        with self._lock:
            while self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(None)
                    return
            self._free += 1


async def _in_thread(function: Callable[[], T]) -> T:
    """Run a call in a daemon thread: one that hangs does not hold up the process's end.

    Whatever it raises comes as an ``Exception``: what ends a thread must not end the loop.
    """
    future: Future[tuple[T | None, BaseException | None]] = Future()
    future.set_running_or_notify_cancel()  # whoever waits may leave; the thread goes on

    def work() -> None:
        result, fault = None, None
        try:
            result = function()
        except BaseException as exc:
            fault = exc
        finally:
            connections.close_all()
        future.set_result((result, fault))

    async with _slots().one():
        threading.Thread(target=work, name="chatstream-tool", daemon=True).start()
        result, fault = await asyncio.wrap_future(future)
    if isinstance(fault, ToolError):
        raise fault
    if fault is not None:
        raise RuntimeError("in the tool's thread") from fault
    return cast(T, result)


def _is_cancelled() -> bool:
    """Whether somebody cancels this task; else a ``CancelledError`` is the tool's own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _slots() -> Slots:
    return cast(Slots, apps.get_app_config("chatstream").tool_slots)  # type: ignore[attr-defined]
