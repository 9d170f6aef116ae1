"""Runs over real sockets: an answer is a log of frames that any reader can resume and stop."""

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.acceptance.rows import Service, serve
from tests.acceptance.talks import UNHURRIED, Talker, eventually, seq_of
from tests.behaviours import LONG, TEXT
from tests.faults import MAX_ANSWER_CHARS
from tests.reader import Answer, Event, Reader, read, stream_path
from tests.servers import Server, Site, each

FORTY = "".join(f"{number} " for number in range(40))  # what ok_four_seconds says
STOPS_WITHIN = 1.0  # seconds
SLACK = 2.0  # seconds for a busy machine
SETTINGS = {"MAX_OPEN_RUNS": 1000, "LEASE": 5}
STOPPED = "error:stopped"
RACES = 60


@pytest.fixture(scope="module", params=each(["uvicorn", "gunicorn-gthread"], quick=["uvicorn"]))
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with serve(request.param, options=UNHURRIED, settings=SETTINGS) as service:
        yield service


@pytest.fixture(scope="module")
def me(service: Service) -> Talker:
    return Talker(service.upstream, service.server.port)


def another(service: Service) -> Talker:
    return Talker(service.upstream, service.server.port)


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


def text_of(events: list[Event]) -> str:
    return "".join(event.json.get("text", "") for event in events)


# Resuming -------------------------------------------------------------------------------------


def first_event(open_stream: Callable[[], Reader]) -> Event:
    """Read one event, and cut the connection whatever else came."""
    with open_stream() as reader:
        return reader.read_events(1)[0]


def test_a_bare_eventsource_that_is_cut_after_every_frame_gets_the_exact_answer(
    service: Service, me: Talker
) -> None:
    model = me.name("ok_four_seconds")
    path = stream_path(model)
    events = [first_event(lambda: me.open(path))]
    assert (events[0].json, seq_of(events[0])) == ({"text": ""}, 0)
    while "done" not in events[-1].json:
        headers = {"Last-Event-ID": events[-1].id}
        events.append(first_event(lambda: me.open(path, headers=dict(headers))))  # noqa: B023
    assert text_of(events) == FORTY
    assert len({event.id for event in events}) == len(events) > 20
    assert me.get(path, headers={"Last-Event-ID": events[-1].id}).status == 204
    assert len(service.upstream.requests_for(model)) == 1


def test_a_follower_that_is_cut_after_every_frame_gets_the_exact_answer(me: Talker) -> None:
    run = me.start("ok_four_seconds")
    events, after = [], 0
    while not (events and "done" in events[-1].json):
        events.append(first_event(lambda: me.follow(run, after=after)))  # noqa: B023
        after = seq_of(events[-1])
    assert text_of(events) == FORTY
    assert len(events) > 20
    assert me.read(run, after=after).status == 204
    assert len(me.requests(run)) == 1


def test_every_place_of_an_answer_that_has_ended_can_be_resumed_from(me: Talker) -> None:
    run = me.start("ok_slow")
    whole = me.read(run)
    assert (whole.ending, whole.text) == ("done", TEXT)
    for seen, event in enumerate(whole.events[:-1], 1):
        rest = me.read(run, last_id=event.id)
        assert rest.events == whole.events[seen:]
        assert me.read(run, after=seq_of(event)).body == rest.body


def test_the_header_wins_over_the_query(me: Talker) -> None:
    run = me.start()
    ids = [event.id for event in me.read(run).events]
    assert me.read(run, after=0, last_id=ids[-1]).status == 204


def test_ten_readers_of_one_run_read_the_same_frames(me: Talker) -> None:
    run = me.start("ok_four_seconds")

    def follow(number: int) -> Answer:
        time.sleep(number / 4)  # some come at its start, some in its middle
        return me.read(run)

    answers = at_once(10, follow)
    assert {answer.text for answer in answers} == {FORTY}
    assert len({tuple(answer.events) for answer in answers}) == 1
    assert len(me.requests(run)) == 1


def test_a_reader_that_comes_after_the_end_reads_the_whole_answer_and_then_204(me: Talker) -> None:
    run = me.start()
    eventually(lambda: me.is_settled(run))
    answer = me.read(run)
    assert (answer.ending, answer.text) == ("done", TEXT)
    last = me.read(run, last_id=answer.events[-1].id)
    assert (last.status, last.body) == (204, b"")


def test_an_answer_goes_on_without_readers(me: Talker) -> None:
    run = me.start("ok_slow")
    assert eventually(lambda: me.is_settled(run))
    assert me.look(run)["text"] == TEXT
    me.replay(run)


def test_all_events_are_told_to_who_asks_for_them(me: Talker) -> None:
    run = me.start("ok_usage")
    events = me.replay(run).events
    assert [event.name for event in events][:1] == ["start"]
    assert [event.name for event in events][-2:] == ["finish", "message"]
    assert events[0].json["run"] == run
    assert events[-2].json["usage"]["total_tokens"] == 17


# Stopping -------------------------------------------------------------------------------------


def assert_upstream_closed_soon(me: Talker, run: str, asked_at: float) -> None:
    request = me.request(run)
    me.upstream.wait_closed(STOPS_WITHIN + SLACK, request.model)
    closed_at = request.connection.closed_at
    assert closed_at is not None, "the upstream connection is still open"
    assert closed_at - asked_at < STOPS_WITHIN + SLACK
    assert request.connection.closed_by == "relay"


@pytest.mark.parametrize("behaviour", ["hang_before_headers", "hang_after_role"])
def test_stop_works_before_the_first_token(me: Talker, behaviour: str) -> None:
    run = me.start(behaviour)
    me.request(run)
    with me.follow(run) as reader:
        reader.read_until(b": open")
        asked_at = time.monotonic()
        assert me.stop(run).status == 202
        assert reader.read_all().ending == STOPPED
    assert_upstream_closed_soon(me, run, asked_at)
    assert me.replay(run).text == ""


def test_stop_works_in_mid_answer_and_keeps_what_came(me: Talker) -> None:
    run = me.start("ok_four_seconds")
    with me.follow(run) as reader:
        reader.read_events(5)
        asked_at = time.monotonic()
        answer = me.stop(run)
        assert (answer.status, answer.json["id"]) == (202, run)
        told = reader.read_all()
    assert told.ending == STOPPED
    assert_upstream_closed_soon(me, run, asked_at)
    assert FORTY.startswith(told.text)
    assert me.replay(run).text == told.text
    assert me.look(run)["status"] == "stopped"


def test_stop_is_idempotent(me: Talker) -> None:
    run = me.start("ok_four_seconds")
    with me.follow(run) as reader:
        reader.read_events(2)
        answers = at_once(4, lambda _: me.stop(run))
        assert [answer.status for answer in answers] == [202] * 4
        assert reader.read_all().ending == STOPPED
    assert me.stop(run).json == {"id": run, "status": "stopped"}
    me.replay(run)


def test_stop_after_the_end_changes_nothing(me: Talker) -> None:
    run = me.start()
    before = me.read(run)
    assert me.stop(run).json == {"id": run, "status": "completed"}
    assert me.replay(run).text == TEXT
    assert me.read(run).body == before.body


@pytest.mark.slow
def test_stops_that_race_the_last_frame_leave_one_ending_each(me: Talker) -> None:
    random.seed(3)
    moments = [random.uniform(3.75, 4.2) for _ in range(RACES)]  # it ends after a little over four

    def race(number: int) -> str:
        run = me.start("ok_four_seconds")
        time.sleep(max(0, me.request(run).at + moments[number] - time.monotonic()))
        assert me.stop(run).status == 202
        assert eventually(lambda: me.is_settled(run))
        return me.replay(run).ending

    endings = at_once(RACES, race)
    assert set(endings) <= {"done", STOPPED}


def test_a_stop_after_the_finish_reason_finds_the_answer_whole(me: Talker) -> None:
    run = me.start("ok_finish_then_hang")
    with me.follow(run) as reader:
        reader.read_events(1)
        time.sleep(0.5)  # the reason comes right after the text; the answer ends a second later
        me.stop(run)
        assert reader.read_all().ending == "done"
    assert me.replay(run).text == TEXT


def test_stops_that_race_the_start_leave_one_ending_each(me: Talker) -> None:
    def race(number: int) -> str:
        run = me.start("ok_four_seconds")
        assert me.stop(run).status == 202
        assert eventually(lambda: me.is_settled(run))
        return me.replay(run).ending

    assert at_once(12, race) == [STOPPED] * 12


# Idempotency ----------------------------------------------------------------------------------


def test_requests_that_race_with_one_key_give_one_run(me: Talker) -> None:
    for _ in range(5):
        model, key = me.name("ok"), me.name("key")
        answers = at_once(6, lambda _: me.ask(model=model, idempotency_key=key))  # noqa: B023
        assert sorted(answer.status for answer in answers) == [200] * 5 + [201]
        (run,) = {answer.json["id"] for answer in answers}
        assert me.replay(run).text == TEXT
        assert len(me.upstream.requests_for(model)) == 1


def test_the_key_of_another_request_is_a_conflict(me: Talker) -> None:
    key = me.name("key")
    me.start(idempotency_key=key)
    answer = me.ask(idempotency_key=key, prompt="something else")
    assert (answer.status, answer.json["error"]["code"]) == (409, "conflict")


def test_a_key_is_its_owners(service: Service, me: Talker) -> None:
    key, model = me.name("key"), me.name("ok")
    mine = me.start(model=model, idempotency_key=key)
    assert another(service).start(model=model, idempotency_key=key) != mine


def test_a_key_joins_the_same_run_without_an_id(me: Talker) -> None:
    path = stream_path(me.name("ok_four_seconds"), key=me.name("key"))
    with me.open(path) as reader:
        run = reader.read_events(3)[0].id.split(":")[0]
    answer = me.get(path)
    assert (answer.ending, answer.text) == ("done", FORTY)
    assert answer.events[0].id == f"{run}:0"


# Ownership ------------------------------------------------------------------------------------


def test_the_run_of_another_is_not_found(service: Service, me: Talker) -> None:
    run = me.start("ok_four_seconds")
    stranger = another(service)
    with me.follow(run) as reader:
        event = reader.read_events(1)[0]
        for answer in (
            stranger.get(f"/chat/runs/{run}/"),
            stranger.read(run),
            stranger.read(run, last_id=event.id),
            stranger.get(stream_path("ok"), headers={"Last-Event-ID": event.id}),
            stranger.stop(run),
            read(service.server.port, f"/chat/runs/{run}/stream/"),
        ):
            assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")
        assert reader.read_events(5)[4:]  # and it goes on
    me.stop(run)


def test_the_conversation_of_another_is_not_found(service: Service, me: Talker) -> None:
    conversation = new_conversation(me)
    message = me.look(say(me, conversation))["message"]
    stranger = another(service)
    path = f"/chat/conversations/{conversation}/"
    for answer in (
        stranger.get(path),
        stranger.send("PATCH", path, {"title": "mine"}),
        stranger.send("DELETE", path),
        stranger.ask(conversation=conversation),
        stranger.ask(action="regenerate", message=message),
    ):
        assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")
    assert stranger.get("/chat/conversations/").json["results"][0]["id"] != conversation
    assert me.get(path).status == 200


def test_one_that_does_not_exist_reads_like_another_ones(service: Service, me: Talker) -> None:
    run = me.start()
    unknown = ("0" * 26, "x", "%F0%9F%8E%89", "a" * 300)
    bodies = {me.get(f"/chat/runs/{pk}/").body for pk in unknown}
    assert bodies == {another(service).get(f"/chat/runs/{run}/").body}


# Ids ------------------------------------------------------------------------------------------


MALFORMED = ["", "x", ":", "1", "{run}", "{run}:", "{run}:x", "{run}:-1", "{run}:1:1", "{run}:1e1"]


@pytest.mark.parametrize("id", [*MALFORMED, "{run}:9999999999", "{run}:٣", "{other}:1", "{run}:99"])
def test_an_id_that_is_wrong_is_refused_at_once(service: Service, me: Talker, id: str) -> None:
    run, other = me.start(), me.start()
    me.read(run)
    last_id = id.format(run=run, other=other).encode().decode("latin-1")
    answer = me.read(run, last_id=last_id)
    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid")


def test_a_wrong_id_never_starts_a_new_answer(service: Service, me: Talker) -> None:
    model = me.name("ok")
    run = me.start()
    me.read(run)
    for last_id in ("x", f"{'0' * 26}:1", f"{run}:99"):
        headers = {"Last-Event-ID": last_id}
        answers = (
            me.get(stream_path(model), headers=headers),
            me.post("/chat/stream/", {"prompt": "hi", "model": model}, headers=headers),
        )
        assert {answer.status for answer in answers} <= {400, 404}
    assert service.upstream.requests_for(model) == []


def test_a_post_that_is_sent_again_with_an_id_gets_the_rest(me: Talker) -> None:
    """As fetch-event-source does by itself."""
    data = {"prompt": "hi", "model": me.name("ok_slow")}
    whole = me.post("/chat/stream/", data)
    for place, event in enumerate(whole.events[:-1]):
        rest = me.post("/chat/stream/", data, headers={"Last-Event-ID": event.id})
        assert rest.events == whole.events[place + 1 :]
    last = me.post("/chat/stream/", data, headers={"Last-Event-ID": whole.events[-1].id})
    assert last.status == 204
    assert len(me.upstream.requests_for(data["model"])) == 1


def test_a_number_of_the_future_of_an_open_run_is_refused(me: Talker) -> None:
    run = me.start("hang_after_role")
    me.request(run)
    assert me.read(run, after=9).status == 400
    me.stop(run)


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "", "٣", "1" * 30])
def test_a_number_that_is_none_is_refused(me: Talker, after: str) -> None:
    run = me.start()
    answer = me.get(f"/chat/runs/{run}/stream/?after={quote(after)}")
    assert (answer.status, answer.json["error"]["field"]) == (400, "after")


# Readers that dawdle --------------------------------------------------------------------------


def test_a_reader_that_sleeps_costs_only_its_own_stream(me: Talker) -> None:
    run = me.start("ok_long")
    with me.follow(run, receive_buffer=4096, within=60) as sleeper:
        sleeper.read_until(b": open")
        answers = at_once(5, lambda _: me.read(run))
        assert {(answer.ending, answer.text) for answer in answers} == {("done", LONG)}
        assert me.look(run)["outcome"] == "completed"
        late = sleeper.read_all()
    assert (late.ending, late.text) == ("done", LONG)


def test_a_reader_that_sleeps_through_megabytes_catches_up_from_the_log(me: Talker) -> None:
    run = me.start("flood")
    with me.follow(run, receive_buffer=65536, within=60) as sleeper:
        sleeper.read_until(b": open")
        assert eventually(lambda: me.is_settled(run), within=40, every=0.2)
        answer = sleeper.read_all()
    assert answer.ending == "error:too_long"
    assert answer.body.count(b"#") == MAX_ANSWER_CHARS


# Limits ---------------------------------------------------------------------------------------


def test_too_many_open_runs_are_refused_and_following_is_not() -> None:
    with serve("uvicorn", options=UNHURRIED, settings={"MAX_OPEN_RUNS": 2}) as service:
        me = Talker(service.upstream, service.server.port)
        runs = [me.start("hang_after_role") for _ in range(2)]
        model = me.name("ok")
        answer = me.ask(model=model)
        assert (answer.status, answer.json["error"]["code"]) == (429, "busy")
        assert int(answer.headers["retry-after"]) > 0
        assert me.upstream.requests_for(model) == []
        readers = [me.follow(run) for run in runs for _ in range(20)]
        assert [reader.read_head().status for reader in readers] == [200] * 40
        assert another(service).ask().status == 201
        me.stop(runs[0])
        assert {reader.read_all().ending for reader in readers[:20]} == {STOPPED}
        assert me.ask().status == 201
        for reader in readers:
            reader.leave()


# Conversations --------------------------------------------------------------------------------


def new_conversation(me: Talker) -> str:
    return str(me.post("/chat/conversations/", {}).json["id"])


def say(me: Talker, conversation: str, prompt: str = "hi", behaviour: str = "ok") -> str:
    """Say something, and wait for the answer's end; return the run."""
    run = me.start(behaviour, conversation=conversation, prompt=prompt)
    me.read(run)
    return run


def act(me: Talker, action: str, message: str, behaviour: str = "ok", **data: Any) -> str:
    run = me.start(behaviour, action=action, message=message, **data)
    me.read(run)
    return run


def messages_of(me: Talker, conversation: str) -> list[dict[str, Any]]:
    return list(me.get(f"/chat/conversations/{conversation}/").json["messages"])


def told(me: Talker, run: str) -> list[tuple[str, str]]:
    """Return what the upstream was told: role and content."""
    return [(m["role"], m["content"]) for m in me.request(run).body["messages"]]


def test_a_conversation_is_told_to_the_model(me: Talker) -> None:
    conversation = new_conversation(me)
    say(me, conversation, "one")
    second = say(me, conversation, "two")
    assert told(me, second) == [("user", "one"), ("assistant", TEXT), ("user", "two")]
    roles = [(m["role"], m["content"]) for m in messages_of(me, conversation)]
    assert roles == [*told(me, second), ("assistant", TEXT)]


def test_a_conversation_has_one_open_run_and_says_which(me: Talker) -> None:
    conversation = new_conversation(me)
    run = me.start("ok_four_seconds", conversation=conversation)
    answer = me.ask(conversation=conversation)
    assert (answer.status, answer.json["error"]["code"]) == (409, "conflict")
    assert answer.json["error"]["run"] == run
    assert answer.json["error"]["stream_url"] == f"/chat/runs/{run}/stream/"
    assert me.get(f"/chat/conversations/{conversation}/").json["open_run"] == run
    me.stop(run)
    assert me.read(run).ending == STOPPED
    assert me.get(f"/chat/conversations/{conversation}/").json["open_run"] is None
    assert me.ask(conversation=conversation).status == 201


def test_prompts_that_race_in_one_conversation_start_one_run(me: Talker) -> None:
    conversation = new_conversation(me)
    answers = at_once(6, lambda _: me.ask("ok_four_seconds", conversation=conversation))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 5
    (run,) = (answer.json["id"] for answer in answers if answer.status == 201)
    assert {a.json["error"]["run"] for a in answers if a.status == 409} == {run}
    me.stop(run)
    assert [m["role"] for m in messages_of(me, conversation)] == ["user", "assistant"]


def test_regenerate_keeps_the_earlier_answer_as_a_sibling(me: Talker) -> None:
    conversation = new_conversation(me)
    first = me.look(say(me, conversation, "one"))["message"]
    again = act(me, "regenerate", first, "ok_html")
    assert told(me, again) == [("user", "one")]
    second = me.look(again)["message"]
    shown = messages_of(me, conversation)
    assert [m["id"] for m in shown][1:] == [second]
    assert shown[1]["siblings"] == [first, second]
    me.send("PATCH", f"/chat/conversations/{conversation}/", {"leaf": first})
    assert [m["content"] for m in messages_of(me, conversation)] == ["one", TEXT]


def test_edit_keeps_what_was_said_before_as_a_sibling(me: Talker) -> None:
    conversation = new_conversation(me)
    say(me, conversation, "one")
    say(me, conversation, "two")
    before = messages_of(me, conversation)
    run = act(me, "edit", before[2]["id"], prompt="three")
    assert told(me, run) == [("user", "one"), ("assistant", TEXT), ("user", "three")]
    shown = messages_of(me, conversation)
    assert [m["content"] for m in shown] == ["one", TEXT, "three", TEXT]
    assert shown[2]["siblings"] == [before[2]["id"], shown[2]["id"]]


def test_continue_goes_on_in_the_same_message(me: Talker) -> None:
    conversation = new_conversation(me)
    first = say(me, conversation, "one", "finish_length")
    message = messages_of(me, conversation)[1]
    assert message["run"]["outcome"] == "truncated"
    second = act(me, "continue", message["id"])
    asked = told(me, second)
    assert asked[:2] == [("user", "one"), ("assistant", message["content"])]
    assert asked[2][0] == "user"
    assert "Continue" in asked[2][1]
    shown = messages_of(me, conversation)
    assert [m["content"] for m in shown] == ["one", message["content"] + TEXT]
    assert shown[1]["id"] == message["id"]
    assert shown[1]["run"]["id"] == second
    assert me.look(first)["text"] == message["content"]


def test_a_stopped_answer_can_be_continued(me: Talker) -> None:
    conversation = new_conversation(me)
    run = me.start("ok_four_seconds", conversation=conversation)
    with me.follow(run) as reader:
        reader.read_events(4)
        me.stop(run)
        part = reader.read_all().text
    message = messages_of(me, conversation)[1]
    assert message["content"] == part
    act(me, "continue", message["id"])
    assert messages_of(me, conversation)[1]["content"] == part + TEXT


def test_the_oldest_messages_are_left_out_when_a_history_grows_too_long(service: Service) -> None:
    limits = {**SETTINGS, "MAX_PROMPT_CHARS": 500, "MAX_HISTORY_CHARS": 1000}
    with serve(service.server.name, options=UNHURRIED, settings=limits) as small:
        me = Talker(small.upstream, small.server.port)
        conversation = new_conversation(me)
        for number in range(4):
            run = say(me, conversation, str(number) * 400)
        asked = told(me, run)
    assert [content[:1] for _, content in asked] == ["2", TEXT[0], "3"]


def test_a_conversation_that_is_deleted_stops_its_run(me: Talker) -> None:
    conversation = new_conversation(me)
    run = me.start("ok_four_seconds", conversation=conversation)
    with me.follow(run) as reader:
        reader.read_events(2)
        asked_at = time.monotonic()
        assert me.send("DELETE", f"/chat/conversations/{conversation}/").status == 204
        assert reader.read_all().ending in (STOPPED, "error:expired")
    assert_upstream_closed_soon(me, run, asked_at)
    assert me.get(f"/chat/runs/{run}/").status == 404


# Two processes on one database ----------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Talker, list[Server]]]:
    """A visitor of two uvicorn processes that share a database."""
    database = tmp_path_factory.mktemp("shared") / "db.sqlite3"
    with ExitStack() as stack:
        first = stack.enter_context(serve("uvicorn", **shared(database)))
        site = Site(first.upstream.url, **shared(database))
        second = stack.enter_context(Server("uvicorn", site))
        yield (
            Talker(first.upstream, first.server.port, second.port),
            [first.server, second],
        )


def shared(database: Path) -> dict[str, Any]:
    return {
        "options": UNHURRIED,
        "settings": SETTINGS,
        "environ": {"TESTSITE_DB": str(database)},
    }


def test_a_run_is_followed_from_another_process(pair: tuple[Talker, list[Server]]) -> None:
    me, _ = pair
    run = me.start("ok_four_seconds", server=0)
    answers = at_once(6, lambda number: me.read(run, server=number % 2))
    assert {(answer.ending, answer.text) for answer in answers} == {("done", FORTY)}
    assert len(me.requests(run)) == 1
    assert me.replay(run, server=1).body == me.replay(run, server=0).body


def test_a_run_is_stopped_from_another_process(pair: tuple[Talker, list[Server]]) -> None:
    me, _ = pair
    run = me.start("hang_mid_stream", server=0)
    with me.follow(run, server=1) as reader:
        reader.read_events(1)
        asked_at = time.monotonic()
        assert me.stop(run, server=1).status == 202
        assert reader.read_all().ending == STOPPED
    assert_upstream_closed_soon(me, run, asked_at)
    assert me.replay(run, server=1).body == me.replay(run, server=0).body


def test_a_key_gives_one_run_on_two_processes(pair: tuple[Talker, list[Server]]) -> None:
    me, _ = pair
    model, key = me.name("ok"), me.name("key")
    answers = at_once(6, lambda n: me.ask(server=n % 2, model=model, idempotency_key=key))
    assert sorted(answer.status for answer in answers) == [200] * 5 + [201]
    (run,) = {answer.json["id"] for answer in answers}
    assert me.read(run, server=1).text == TEXT
    assert len(me.upstream.requests_for(model)) == 1


def test_an_answer_that_is_cut_on_one_process_is_resumed_on_another(
    pair: tuple[Talker, list[Server]],
) -> None:
    me, _ = pair
    run = me.start("ok_four_seconds")
    events, after = [], 0
    while not (events and "done" in events[-1].json):
        server = len(events) % 2
        events.append(first_event(lambda: me.follow(run, after=after, server=server)))  # noqa: B023
        after = seq_of(events[-1])
    assert text_of(events) == FORTY
    assert len(me.requests(run)) == 1


def test_nothing_of_all_this_left_a_trace_in_the_log(
    service: Service, pair: tuple[Talker, list[Server]]
) -> None:
    for server in (service.server, *pair[1]):
        for trace in ("Traceback", "never retrieved", "database is locked", "RuntimeWarning"):
            assert trace not in server.log, server.log[-3000:]
