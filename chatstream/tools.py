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
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, make_dataclass
from functools import partial
from typing import Any, TypeVar, get_type_hints

from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.models import QuerySet
from django.utils.functional import Promise
from django.utils.module_loading import import_string
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated
from pydantic.json_schema import GenerateJsonSchema

__all__ = ["Caller", "Tool", "ToolError", "tools_of"]

logger = logging.getLogger("chatstream")

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what OpenAI takes for the name of a function
_ANY: TypeAdapter[Any] = TypeAdapter(Any)
_PLAIN = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


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
    """A function, as a model may call it.

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
            if hints.get(name) is Caller:
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
            self.parameters = _schema(adapter, self.function)
        except (PydanticUserError, TypeError) as exc:
            raise ImproperlyConfigured(
                f"{self._where} has a parameter that JSON cannot hold: {str(exc).splitlines()[0]}"
            ) from None
        return adapter

    @property
    def spec(self) -> dict[str, Any]:
        """Return what the model is told, an entry of ``tools`` in a request of OpenAI's."""
        function = {"name": self.name, "description": self.description}
        return {"type": "function", "function": {**function, "parameters": self.parameters}}

    async def call(self, arguments: str, caller: Caller, within: float) -> Any:
        """Return what the function returns, as JSON data; ``arguments`` is a JSON object.

        One that is no coroutine function runs in a thread of its own. It is given up after
        ``within`` seconds. Raises ``ToolError`` with what may be told of a failure.
        """
        given = self._validated(arguments)
        if self._caller is not None:
            given[self._caller] = caller
        try:
            async with asyncio.timeout(within):
                if inspect.iscoroutinefunction(self.function):
                    return _json(await self.function(**given))
                return await _in_thread(partial(self._call, given))
        except ToolError:
            raise
        except TimeoutError:
            logger.warning("run %s: the tool %s took over %g s", caller.run, self.name, within)
            raise ToolError("The tool took too long.") from None
        except Exception:
            logger.exception("run %s: the tool %s failed", caller.run, self.name)
            raise ToolError("The tool failed.") from None

    def _call(self, given: dict[str, Any]) -> Any:
        return _json(self.function(**given))  # what is lazy is evaluated in this thread, too

    def _validated(self, arguments: str) -> dict[str, Any]:
        try:
            values = self._arguments.validate_json(arguments or "{}")
        except ValidationError as exc:
            faults = exc.errors(include_url=False, include_context=False, include_input=False)
            said = "; ".join(
                f"{'.'.join(map(str, f['loc']))}: {f['msg']}".lstrip(": ") for f in faults
            )
            raise ToolError(f"The arguments do not fit. {said}") from None
        return dict(vars(values))


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


class _Schema(GenerateJsonSchema):
    """Without titles, which repeat the names: each request pays for them."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _schema(adapter: TypeAdapter[Any], function: Callable[..., Any]) -> dict[str, Any]:
    schema = adapter.json_schema(schema_generator=_Schema)
    for name in ("title", "description"):  # of a class that nobody wrote
        schema.pop(name, None)
    json.dumps(schema)  # a default may be no JSON: a TypeError
    return schema


def _default(value: Any) -> Any:
    """Return the field of a parameter with a default, which a dataclass wants hashable."""
    is_mutable = isinstance(value, list | dict | set)
    return field(default_factory=lambda: value) if is_mutable else field(default=value)


def _json(value: Any) -> Any:
    """Return a value as JSON data: dates, decimals, models of pydantic and ``.values()`` too."""
    return value if isinstance(value, str) else json.loads(_ANY.dump_json(value, fallback=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, Promise):  # a translation that is not looked up yet
        return str(value)
    if isinstance(value, QuerySet):
        return list(value)
    raise TypeError(f"a tool returned a {type(value).__name__}, which is no JSON")


async def _in_thread(function: Callable[[], T]) -> T:
    """Run a call in a thread of its own: one that hangs holds up nobody, nor the process's end."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # whoever waits may leave; the thread goes on

    def work() -> None:
        try:
            try:
                result = function()
            finally:
                connections.close_all()
        except BaseException as exc:
            future.set_exception(exc)
        else:
            future.set_result(result)

    threading.Thread(target=work, name="chatstream-tool", daemon=True).start()
    return await asyncio.wrap_future(future)
