"""Tools: what a model is told of a function, what becomes of what it sends, who is told what."""

import asyncio
import datetime
import decimal
import json
import threading
from typing import Annotated, Any, Literal

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpRequest
from django.utils.translation import gettext_lazy
from pydantic import AfterValidator, BaseModel, Field

from chatstream.tools import Caller, Slots, Tool, ToolError, tools_of

ANYBODY = Caller("run", "anon:x")
WITHIN = 10.0  # seconds, generous


def call(
    function: Any,
    arguments: Any = "{}",
    caller: Caller = ANYBODY,
    within: float = WITHIN,
    max_chars: int = 1000,
) -> Any:
    given = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return asyncio.run(Tool(function).call(given, caller, within=within, max_chars=max_chars))


def find_orders(
    status: Literal["open", "sent"],
    limit: Annotated[int, Field(ge=1, description="how many at most")] = 10,
    tags: list[str] = [],  # noqa: B006  as a project may write it
    *,
    caller: Caller,
) -> Any:
    """Return the customer's own orders."""
    return [status, limit, tags, caller.owner]


def echo(value: Any) -> Any:
    """Return what came."""
    return value


# What the model is told ---------------------------------------------------------------------------


def test_a_model_is_told_of_the_name_the_docstring_and_the_parameters() -> None:
    assert Tool(find_orders).spec == {
        "type": "function",
        "function": {
            "name": "find_orders",
            "description": "Return the customer's own orders.",
            "parameters": {
                "type": "object",
                "properties": {
                    "status": {"enum": ["open", "sent"], "type": "string"},
                    "limit": {
                        "description": "how many at most",
                        "minimum": 1,
                        "type": "integer",
                        "default": 10,
                    },
                    "tags": {"items": {"type": "string"}, "type": "array"},
                },
                "required": ["status"],
                "additionalProperties": False,
            },
        },
    }


def no_docstring(x: int) -> int:
    return x


def no_type(x):
    """Take anything."""


def by_place(x: int, /) -> None:
    """Take a parameter that has no name."""


def many(*x: int) -> None:
    """Take any number."""


def not_json(x: HttpRequest) -> None:
    """Take what no model can send."""


def optional_caller(caller: Caller | None = None) -> None:
    """Take a caller that a model could send."""


def described_caller(caller: Annotated[Caller, "who"]) -> None:
    """Take a caller that a model could send."""


def two_callers(caller: Caller, other: Caller) -> None:
    """Take a caller twice."""


def bad_pattern(x: Annotated[str, Field(pattern="(")]) -> None:
    """Take what fits no pattern."""


def unknown(x: "Nobody") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Take what is not there."""


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (no_docstring, "no docstring"),
        (no_type, "needs a type for its parameter 'x'"),
        (by_place, "given by name"),
        (many, "given by name"),
        (not_json, "JSON cannot hold"),
        (optional_caller, "annotated with Caller alone"),
        (described_caller, "annotated with Caller alone"),
        (two_callers, "annotated with Caller alone"),
        (bad_pattern, "JSON cannot hold"),
        (unknown, "unknown annotation"),
        (lambda: 1, "must be a function with a name"),
        (5, "must be a function with a name"),
    ],
)
def test_what_no_model_could_call_is_refused_with_the_reason(function: Any, words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        Tool(function)


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["tests.test_tools.nothing"], "cannot be imported"),
        (["nowhere"], "cannot be imported"),
        (["tests.test_tools.echo", "tests.test_tools.echo"], "two tools named 'echo'"),
    ],
)
def test_a_setting_that_names_no_tool_is_refused(paths: list[str], words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        tools_of(paths, "TOOLS")


# Calling ------------------------------------------------------------------------------------------


def test_arguments_are_given_as_their_types_and_the_caller_is_filled_in() -> None:
    assert call(find_orders, {"status": "open", "limit": "3"}) == ["open", 3, [], "anon:x"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "status: Field required"),
        ("{", "Invalid JSON"),
        ("null", "should be an object"),
        ('{"status": "lost"}', "status: Input should be 'open' or 'sent'"),
        ('{"status": "open", "limit": 0}', "limit: "),
        ('{"status": "open", "limit": NaN}', "limit: "),
        ('{"status": "open", "caller": {"run": "r", "owner": "user:1"}}', "caller: Unexpected"),
    ],
)
def test_arguments_that_do_not_fit_are_told_to_the_model(arguments: str, words: str) -> None:
    with pytest.raises(ToolError, match=words) as refused:
        call(find_orders, arguments)
    assert "http" not in str(refused.value)


class Order(BaseModel):
    number: int


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("text", "text"),
        (None, None),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (decimal.Decimal("1.50"), "1.50"),
        ([Order(number=1)], [{"number": 1}]),
        ((n for n in range(2)), [0, 1]),
        (float("nan"), None),
        (gettext_lazy("Monday"), "Monday"),
    ],
)
def test_what_a_tool_returns_is_told_as_json(returned: Any, told: Any) -> None:
    def give() -> Any:
        """Return it."""
        return returned

    assert call(give) == told


def test_a_coroutine_function_runs_on_the_loop() -> None:
    async def where() -> str:
        """Say where this runs."""
        return threading.current_thread().name

    assert call(where) == threading.current_thread().name


def test_another_function_runs_in_a_thread_that_holds_up_nobody() -> None:
    def where() -> list[Any]:
        """Say where this runs."""
        thread = threading.current_thread()
        return [thread.name, thread.daemon]

    assert call(where) == ["chatstream-tool", True]


@pytest.mark.django_db(transaction=True)
def test_a_tool_reads_the_sites_data_for_its_caller() -> None:
    ada = User.objects.create(username="ada")

    def users(caller: Caller) -> Any:
        """Return who there is, and who asks."""
        return {"all": User.objects.values("username"), "me": str(caller.user())}

    assert call(users, caller=Caller("r", f"user:{ada.pk}")) == {
        "all": [{"username": "ada"}],
        "me": "ada",
    }
    assert call(users)["me"] == "None"


@pytest.mark.django_db(transaction=True)
def test_a_tools_thread_keeps_no_connection() -> None:
    used: list[BaseDatabaseWrapper] = []

    def ask() -> bool:
        """Ask the database."""
        used.append(connections["default"])  # this thread's own
        return User.objects.exists()

    assert call(ask) is False
    assert used[0].connection is None


def test_the_words_of_a_tool_error_are_told() -> None:
    def find(number: int) -> None:
        """Find an order."""
        raise ToolError(f"There is no order {number}.")

    with pytest.raises(ToolError, match=r"^There is no order 17\.$"):
        call(find, {"number": 17})


@pytest.mark.parametrize(
    "returned",
    [
        object(),
        {1, object()},
        ValueError("secret"),
        StopIteration("secret"),
        SystemExit("secret"),
        TimeoutError("secret"),
        asyncio.CancelledError("secret"),
    ],
)
def test_the_words_of_another_failure_are_for_the_operator_alone(returned: Any, caplog) -> None:
    def fail() -> Any:
        """Fail, or return what is no JSON."""
        if isinstance(returned, BaseException):
            raise returned
        return returned

    with pytest.raises(ToolError, match=r"^The tool failed\.$"):
        call(fail)
    assert "the tool fail failed" in caplog.text

    async def afail() -> Any:
        """Fail on the loop."""
        return fail()

    with pytest.raises(ToolError, match=r"^The tool failed\.$"):
        call(afail)


def check_secret(value: str) -> str:
    if value == "lookup":
        raise KeyError("secret")
    raise ValueError("secret")


def guarded(x: Annotated[str, AfterValidator(check_secret)]) -> None:
    """Take nothing."""


@pytest.mark.parametrize(
    ("given", "words"), [("other", "x: Not a valid value"), ("lookup", "The tool failed")]
)
def test_a_validators_words_are_not_told(given: str, words: str) -> None:
    with pytest.raises(ToolError, match=words) as failed:
        call(guarded, {"x": given})
    assert "secret" not in str(failed.value)


def test_of_many_faults_a_few_are_told() -> None:
    def add(numbers: list[int]) -> int:
        """Add."""
        return sum(numbers)

    with pytest.raises(ToolError, match="and 95 more") as failed:
        call(add, {"numbers": ["x"] * 100})
    assert len(str(failed.value)) < 1000


def test_what_is_too_long_is_neither_taken_nor_told() -> None:
    def shout(word: str) -> str:
        """Repeat a word."""
        if word == "fail":
            raise ToolError(word * 5000)
        return word * 5000

    with pytest.raises(ToolError, match="arguments are longer"):
        call(shout, {"word": "x" * 200_000})
    with pytest.raises(ToolError, match="The result is too long"):
        call(shout, {"word": "hey"})
    with pytest.raises(ToolError, match="fail") as failed:
        call(shout, {"word": "fail"})
    assert len(str(failed.value)) == 2000


def test_so_many_threads_run_at_once_and_one_that_hangs_gives_its_slot_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(apps.get_app_config("chatstream"), "tool_slots", Slots(2))
    end, running, most = threading.Event(), [], []

    def work(is_hanging: bool = False) -> None:
        """Count who is here."""
        running.append(1)
        most.append(len(running))
        if is_hanging:
            end.wait(WITHIN)
        running.pop()

    async def main() -> None:
        tool = Tool(work)
        hanging = [
            tool.call('{"is_hanging": true}', ANYBODY, within=0.2, max_chars=9) for _ in range(2)
        ]
        calls = [tool.call("{}", ANYBODY, within=WITHIN, max_chars=9) for _ in range(20)]
        said = await asyncio.gather(*hanging, *calls, return_exceptions=True)
        assert [str(one) for one in said] == ["The tool took too long."] * 2 + ["None"] * 20

    try:
        asyncio.run(main())
    finally:
        end.set()
    assert max(most) <= 4  # two that were given up, and two in their slots


def test_who_is_cancelled_while_waiting_takes_no_slot() -> None:
    async def main() -> None:
        slots = Slots(1)
        async with slots.one():
            waiting = asyncio.create_task(enter(slots))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
        await asyncio.wait_for(enter(slots), WITHIN)

    async def enter(slots: Slots) -> None:
        async with slots.one():
            pass

    asyncio.run(main())


def test_a_tool_that_hangs_is_given_up() -> None:
    end = threading.Event()

    def hang() -> None:
        """Wait for the end of the test."""
        end.wait(WITHIN)

    try:
        with pytest.raises(ToolError, match="took too long"):
            call(hang, within=0.1)
    finally:
        end.set()
