"""The vocabulary of endings: complete, and in our words only."""

import re

import pytest

from chatstream.core.outcomes import (
    ERRORS,
    REFUSALS,
    Outcome,
    RunError,
    error_data,
    outcome_of_code,
)
from chatstream.core.upstream import code_of_error, code_of_status


@pytest.mark.parametrize("code", ERRORS)
def test_every_error_code_has_an_outcome_that_is_no_success(code):
    assert not outcome_of_code(code).is_success


def test_three_outcomes_are_their_own_code():
    for outcome in (Outcome.FILTERED, Outcome.STOPPED, Outcome.INTERRUPTED):
        assert outcome_of_code(str(outcome)) is outcome
    assert outcome_of_code("upstream_quota") is Outcome.FAILED


def test_completed_and_truncated_are_the_successes():
    assert {outcome for outcome in Outcome if outcome.is_success} == {
        Outcome.COMPLETED,
        Outcome.TRUNCATED,
    }


@pytest.mark.parametrize("code", ERRORS)
def test_a_message_for_users_is_a_plain_sentence(code):
    assert re.fullmatch(r"[A-Z][A-Za-z ,'.]+\.", ERRORS[code].message)


def test_error_data_says_when_to_come_back_only_if_known():
    assert error_data("upstream_quota") == {
        "code": "upstream_quota",
        "message": ERRORS["upstream_quota"].message,
        "retryable": False,
    }
    assert error_data("upstream_rate_limited", retry_after=0)["retry_after"] == 0


def test_an_unknown_code_is_a_bug():
    with pytest.raises(AssertionError):
        RunError("no_such_code")


def test_refusals_have_client_error_statuses_but_for_the_store():
    assert {code for code, status in REFUSALS.items() if status >= 500} == {"storage"}
    assert all(400 <= status <= 503 for status in REFUSALS.values())


@pytest.mark.parametrize("status", [*range(200, 211), *range(300, 309), *range(400, 600), 600, 999])
def test_every_status_has_a_known_code(status):
    assert code_of_status(status) in ERRORS


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (200, "upstream_malformed"),
        (204, "upstream_malformed"),
        (302, "upstream_rejected"),
        (400, "upstream_rejected"),
        (401, "upstream_auth"),
        (403, "upstream_auth"),
        (404, "upstream_rejected"),
        (408, "upstream_timeout"),
        (409, "upstream_unavailable"),
        (413, "upstream_too_large"),
        (422, "upstream_rejected"),
        (429, "upstream_rate_limited"),
        (500, "upstream_unavailable"),
        (503, "upstream_unavailable"),
        (504, "upstream_timeout"),
    ],
)
def test_what_a_status_means(status, code):
    assert code_of_status(status) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": "insufficient_quota", "type": "rate_limit"}, "upstream_quota"),
        ({"code": "context_length_exceeded"}, "upstream_too_large"),
        ({"code": "content_filter"}, "filtered"),
        ({"code": "rate_limit_exceeded"}, "upstream_rate_limited"),
        ({"type": "overloaded_error"}, "upstream_unavailable"),
        ({"code": 429}, "upstream_rate_limited"),
        ({"code": 503, "type": "whatever"}, "upstream_unavailable"),
        ({"code": 200}, "upstream_error"),
        ({"code": True, "type": []}, "upstream_error"),
        ({"message": "insufficient_quota"}, "upstream_error"),
        ({}, "upstream_error"),
        ("insufficient_quota", "upstream_error"),
        (None, "upstream_error"),
        (["rate_limit"], "upstream_error"),
    ],
)
def test_what_an_error_object_means_is_told_by_code_and_type_never_by_its_words(error, code):
    assert code_of_error(error, "upstream_error") == code
