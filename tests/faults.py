"""The table: how the answer must end for everything that an upstream may do.

Pure data. ``ROWS`` holds one row for each behaviour of ``tests.behaviours`` and for each base_url
that leads nowhere. ``done`` and ``fails`` name the endings that are right; where the design leaves
none open, that is one. The text is what the upstream sent before the ending, exactly, unless the
row says ``prefix``: then a part of it from its start will do, since the fault may overtake it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.behaviours import (
    FURTHER,
    HTML_TEXT,
    INJECTION,
    LONG,
    PARTIAL,
    REFUSAL,
    SURROGATES,
    TEXT,
    TOKENS,
)

__all__ = ["MAX_ANSWER_CHARS", "OPTIONS", "ROWS", "TIMEOUTS", "Row"]

# The servers under test run with these (seconds), so that no row takes long.
TIMEOUTS = {
    "connect_timeout": 2,
    "first_token_timeout": 3,
    "token_timeout": 2.5,
    "run_timeout": 8,
}
# Options of single providers; each has also the above, a base_url and the key.
OPTIONS: dict[str, dict[str, float | int]] = {
    "patient": {"first_token_timeout": 8, "token_timeout": 8, "run_timeout": 12},
    "narrow": {"max_event_bytes": 262_144},
}
MAX_ANSWER_CHARS = 2_000_000


@dataclass(frozen=True)
class Row:
    """One behaviour, which is also the model that is asked for, and what is right after it.

    ``endings``: ``done`` or ``error:<code>``. ``requests``: the most that may reach the upstream.
    ``closes``: the upstream connection is closed within a second and carries no further request
    (False where the answer ended well, or a whole HTTP response leaves the choice).
    ``retry_after``: its bounds in seconds, in the error frame; None if there must be none.
    """

    name: str
    endings: frozenset[str]
    text: str = ""
    is_prefix: bool = False
    requests: int = 1
    closes: bool = False
    provider: str = "default"
    retry_after: tuple[int, int] | None = None
    within: float = 20  # seconds, generous

    @property
    def is_listed(self) -> bool:
        """Whether the row is one of the ninety; the others we thought of ourselves."""
        return self.name not in FURTHER and self.name not in OUR_URLS

    def has_text(self, text: str, ending: str) -> bool:
        if self.is_prefix or (ending != "done" and "done" in self.endings):
            return self.text.startswith(text)
        return text == self.text


def done(name: str, text: str = TEXT, **more: object) -> Row:
    return replace(Row(name, frozenset({"done"}), text), **more)  # type: ignore[arg-type]


def fails(name: str, *codes: str, text: str = "", **more: object) -> Row:
    """Codes of ours; ``done`` among them means that success is right too."""
    endings = frozenset("done" if code == "done" else f"error:{code}" for code in codes)
    return replace(Row(name, endings, text), **more)  # type: ignore[arg-type]


def breaks(name: str, *codes: str, text: str = PARTIAL, **more: object) -> Row:
    """``fails`` after some tokens; the connection must be closed."""
    return fails(name, *codes, text=text, **{"closes": True, **more})


# Rows whose behaviour is the base_url itself, and not the upstream's.
OUR_URLS = {"tls_expected", "ok_before_body"}

TIMEOUT = "upstream_timeout"
BROKEN = ("upstream_incomplete", "upstream_malformed")
UNREADABLE = ("upstream_malformed", "upstream_unreachable", "upstream_incomplete")
COUNT = "".join(f"{n} " for n in range(5000))

LISTED = [
    # ok
    done("ok"),
    done("ok_slow"),
    done("ok_long", LONG),
    done("ok_slow_first", provider="patient"),
    done("ok_usage"),
    done("ok_eof_delimited"),
    done("ok_content_length"),
    done("ok_crlf"),
    done("ok_cr"),
    done("ok_no_space"),
    done("ok_comments"),
    done("ok_event_id_retry"),
    done("ok_id_then_comment"),
    done("ok_empty_data"),
    done("ok_multiline_data"),
    done("ok_bom"),
    done("ok_one_byte"),
    done("ok_split_utf8"),
    done("ok_split_crlf"),
    done("ok_gzip"),
    done("ok_empty_choices"),
    done("ok_null_content"),
    done("ok_null_delta"),
    done("ok_n2"),
    done("ok_reasoning"),
    done("ok_unknown_fields"),
    done("ok_no_finish_reason"),
    done("ok_no_done"),
    done("ok_empty_answer", ""),
    done("ok_data_after_done"),
    done("ok_dup_done"),
    done("ok_done_then_hang", closes=True),
    # A 429 or 503 is an answer, and what was answered is not asked again behind the user's back.
    fails("ok_429_then_ok", "upstream_rate_limited", retry_after=(1, 1)),
    fails("ok_503_then_ok", "upstream_unavailable"),
    done("ok_injection", INJECTION),
    done("ok_html", HTML_TEXT),
    # Over MAX_ANSWER_CHARS; ok_big_chunk is the large one that fits.
    fails(
        "ok_huge_chunk",
        "too_long",
        text="x" * MAX_ANSWER_CHARS,
        is_prefix=True,
        provider="patient",
    ),
    # flag
    done("finish_length", PARTIAL),
    fails("finish_content_filter", "filtered", text=PARTIAL),
    done("finish_tool_calls", ""),
    done("finish_refusal", REFUSAL),
    # http
    fails("http_400", "upstream_rejected"),
    fails("http_400_context", "upstream_too_large"),
    fails("http_400_content_filter", "filtered", "upstream_rejected"),
    fails("http_403", "upstream_auth"),
    fails("http_404", "upstream_rejected"),
    fails("http_408", TIMEOUT),
    fails("http_422", "upstream_rejected"),
    fails("http_429", "upstream_rate_limited"),
    fails("http_429_retry_after", "upstream_rate_limited", retry_after=(45, 45)),
    fails("http_429_quota", "upstream_quota"),
    fails("http_500", "upstream_unavailable"),
    fails("http_502_html", "upstream_unavailable"),
    fails("http_503_html", "upstream_unavailable", retry_after=(0, 45)),
    fails("http_504", TIMEOUT),
    fails("http_200_json_error", "upstream_malformed"),
    fails("http_200_html", "upstream_malformed"),
    fails("http_204", "upstream_malformed"),
    fails("http_401_key_echo", "upstream_auth"),
    # cut; without a byte of the response, one more try is allowed
    fails("fin_before_headers", "upstream_unreachable", requests=2, closes=True),
    fails("rst_before_headers", "upstream_unreachable", requests=2, closes=True),
    breaks("rst_mid_stream", "upstream_incomplete"),
    breaks("rst_mid_chunk", "upstream_incomplete"),
    breaks("fin_mid_stream", "upstream_incomplete"),
    breaks("fin_mid_chunk", "upstream_incomplete"),
    fails("end_no_finish", "upstream_incomplete", text=PARTIAL),
    breaks("end_no_finish_eof", "upstream_incomplete"),
    breaks("short_content_length", "upstream_incomplete"),
    fails("empty_200", "upstream_incomplete"),
    # hang
    breaks("hang_before_headers", TIMEOUT, text=""),
    breaks("hang_after_headers", TIMEOUT, text=""),
    breaks("hang_after_role", TIMEOUT, text=""),
    breaks("hang_mid_stream", TIMEOUT),
    breaks("hang_with_pings", TIMEOUT, text=""),
    breaks("endless", "too_long", TIMEOUT, text=COUNT, is_prefix=True),
    breaks("endless_fast", "too_long", TIMEOUT, text="y" * MAX_ANSWER_CHARS, is_prefix=True),
    # data
    breaks("bad_json", "upstream_malformed"),
    breaks("bad_json_first", "upstream_malformed", text=""),
    breaks("json_null", "upstream_malformed"),
    breaks("json_string", "upstream_malformed"),
    breaks("invalid_utf8", "upstream_malformed"),
    fails("not_sse", *BROKEN),
    breaks("error_object", "upstream_error"),
    breaks("error_object_first", "upstream_error", "upstream_rate_limited", text=""),
    breaks("error_event", "upstream_error"),
    breaks("error_finish_reason", "upstream_error", "upstream_unavailable"),
    # transport; nothing arrives anywhere
    fails("conn_refused", "upstream_unreachable", provider="conn_refused", requests=0),
    fails("dns_fail", "upstream_unreachable", provider="dns_fail", requests=0),
    fails("connect_timeout", TIMEOUT, provider="connect_timeout", requests=0),
    fails("tls_self_signed", "upstream_unreachable", provider="tls_self_signed", requests=0),
]

OURS = [
    # HTTP: statuses
    fails("http_307_loop", "upstream_rejected", "upstream_malformed", "upstream_unavailable"),
    fails("http_302_other_host", "upstream_rejected", "upstream_malformed", "upstream_unavailable"),
    fails("http_402", "upstream_quota", "upstream_rejected"),
    fails("http_405", "upstream_rejected"),
    fails("http_409", "upstream_unavailable"),
    fails("http_413", "upstream_too_large"),
    fails("http_418", "upstream_rejected"),
    fails("http_429_date", "upstream_rate_limited", retry_after=(1, 31)),
    fails("http_429_garbage", "upstream_rate_limited"),
    fails("http_429_huge", "upstream_rate_limited", retry_after=(0, 10**10)),
    fails("http_429_negative", "upstream_rate_limited", retry_after=(0, 0)),
    fails("http_429_nan", "upstream_rate_limited"),
    fails("http_500_string_body", "upstream_unavailable"),
    fails("http_500_list_body", "upstream_unavailable"),
    fails("http_520", "upstream_unavailable"),
    fails("http_529", "upstream_unavailable"),
    fails("http_600", "upstream_unavailable", "upstream_malformed", "upstream_rejected"),
    fails("http_200_completion", "upstream_malformed"),
    breaks("http_101", *UNREADABLE, "upstream_rejected", TIMEOUT, text=""),
    # The status is known: a body that does not come takes nothing from it.
    breaks("http_401_hang_body", "upstream_auth", text="", provider="patient"),
    breaks("http_500_endless_body", "upstream_unavailable", text="", provider="patient"),
    breaks("http_500_drip_body", "upstream_unavailable", text="", provider="patient"),
    fails("http_201", "done", "upstream_malformed", text=TEXT),
    # HTTP: legal forms
    done("ok_text_plain"),
    done("ok_no_content_type"),
    done("ok_content_type_case"),
    done("ok_http10"),
    done("ok_100_continue"),
    done("ok_early_hints"),
    done("ok_trailers"),
    done("ok_chunk_extensions"),
    done("ok_uppercase_hex"),
    done("ok_one_write"),
    done("ok_connection_close"),
    done("ok_identity"),
    done("ok_before_body", provider="before_body"),
    done("ok_fin_after"),
    # HTTP: codings
    fails("deflate", "done", "upstream_malformed", text=TEXT),
    fails("brotli", "done", "upstream_malformed", text=TEXT),
    fails("unknown_coding", "upstream_malformed"),
    fails("gzip_garbage", "upstream_malformed", "upstream_incomplete"),
    breaks("gzip_bomb", "too_long", "upstream_malformed", text=""),
    # HTTP: broken forms
    breaks("header_line_endless", *UNREADABLE, TIMEOUT, "too_long", text=""),
    fails("headers_thousands", "done", *UNREADABLE, "too_long", text=TEXT),
    breaks("headers_drip", TIMEOUT, text=""),
    breaks("flood_1xx", TIMEOUT, *UNREADABLE, text=""),
    breaks("status_garbage", *UNREADABLE, text=""),
    breaks("comments_before_headers", *UNREADABLE, TIMEOUT, text=""),
    breaks("content_length_negative", "done", *UNREADABLE, TIMEOUT, text=TEXT),
    breaks("content_length_garbage", "done", *UNREADABLE, TIMEOUT, text=TEXT),
    breaks("content_length_two", *UNREADABLE, text=TEXT, is_prefix=True),
    breaks("header_with_nul", "done", *UNREADABLE, text=TEXT),
    breaks("chunk_size_garbage", *BROKEN),
    breaks("chunk_size_negative", *BROKEN),
    breaks("chunk_size_huge", *BROKEN, TIMEOUT),
    breaks("chunk_unterminated", *BROKEN),
    breaks("tls_alert", *BROKEN, TIMEOUT),
    fails("tls_expected", *UNREADABLE, provider="tls_expected", requests=0),
    # events: legal forms
    done("ok_big_chunk", "z" * 1_000_000, provider="patient"),
    done("ok_many_in_one_write", LONG),
    done("ok_finish_in_first_chunk"),
    done("ok_finish_with_last_token"),
    done("ok_finish_then_rst"),
    done("ok_finish_then_fin_in_chunk"),
    done("ok_done_late_end"),
    done("ok_finish_then_hang", closes=True),
    done("ok_finish_then_pings", closes=True),
    done("ok_error_after_done"),
    done("ok_role_every_chunk"),
    done("ok_no_index"),
    done("ok_bare_choices"),
    done("ok_error_null"),
    done("ok_other_choice_first"),
    done("ok_choices_null"),
    done("ok_choices_absent"),
    done("ok_named_ping"),
    done("ok_usage_nulls"),
    done("ok_usage_null"),
    done("ok_leading_space_json"),
    done("ok_unknown_sse_fields"),
    done("ok_many_blank_lines"),
    done("ok_huge_comment"),
    done("ok_bom_later"),
    done("ok_surrogate_pair_split", SURROGATES),
    done("ok_nul", "a\0b\0"),
    done("ok_tool_calls_odd"),
    done("ok_function_call"),
    done("text_after_finish", TEXT + " more", is_prefix=True),
    # events: endings
    fails("finish_abort", "upstream_error", text=PARTIAL),
    fails("finish_error", "upstream_error", text=PARTIAL),
    done("finish_max_tokens", PARTIAL),
    fails("finish_empty_string", "upstream_incomplete", text=PARTIAL),
    fails("finish_number", *BROKEN, text=PARTIAL),
    fails("other_choice_only_finish", "upstream_incomplete", text=PARTIAL),
    fails("done_first", *BROKEN),
    fails("done_after_empty_choices", *BROKEN),
    fails("done_unterminated", "done", "upstream_incomplete", text=TEXT),
    fails("done_in_named_event", "done", "upstream_error", text=PARTIAL),
    fails("detail_only", *BROKEN, "upstream_error"),
    fails("detail_mid_stream", *BROKEN, "upstream_error", text=PARTIAL),
    fails("utf16", *BROKEN),
    # events: errors
    breaks("error_key_echo", "upstream_error", "upstream_auth"),
    breaks("error_string", "upstream_error"),
    breaks("error_message_object", "upstream_error"),
    breaks("error_message_number", "upstream_error"),
    breaks("error_list", "upstream_error", "upstream_malformed"),
    breaks("error_empty_object", "upstream_error", TIMEOUT),
    breaks("error_object_type", "upstream_error"),
    breaks("error_in_choice_chunk", "upstream_error", text=PARTIAL + "x", is_prefix=True),
    breaks("error_event_text", "upstream_error"),
    # Evidence of success is a stop reason and no error; only a transport's error is forgiven.
    breaks("error_after_finish", "upstream_error"),
    # events: not JSON, or not a chunk
    *(
        breaks(name, "upstream_malformed")
        for name in (
            "json_array",
            "json_number",
            "json_true",
            "json_trailing",
            "json_two_objects",
            "json_deep_broken",
            "json_raw_newline",
            "json_bad_escape",
            "utf8_overlong",
            "utf8_surrogate",
            "content_number",
            "content_object",
            "choices_object",
            "choices_string",
            "delta_string",
        )
    ),
    # Odd, yet somewhere between legal and not: whole, or refused; never something in between.
    *(
        breaks(name, "done", "upstream_malformed", text=TEXT, closes=False)
        for name in (
            "choice_null",
            "json_deep",
            "json_huge_integer",
            "json_nan",
            "usage_string",
        )
    ),
    breaks(
        "content_parts",
        "done",
        "upstream_malformed",
        text=PARTIAL + "part" + "".join(TOKENS[4:]),
        closes=False,
    ),
    # events: without an end
    breaks("event_20mb", "too_long", provider="narrow"),
    breaks("line_endless", "too_long", provider="narrow"),
    breaks("data_lines_endless", "too_long", provider="narrow"),
    breaks("comments_endless", TIMEOUT, "too_long"),
    breaks("empty_deltas_endless", TIMEOUT),
    breaks("drip_event", TIMEOUT),
    breaks("reasoning_then_hang", TIMEOUT, text=""),
]

ROWS = {row.name: row for row in [*LISTED, *OURS]}
assert len(ROWS) == len(LISTED) + len(OURS), "a name stands twice"
assert len(LISTED) == 90
