"""What the code of a client saw of a case, in a few words: a cell of the tables in the docs.

Pure. Every word follows from what was seen; a text is compared with what the model said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.acceptance.cases import Case

__all__ = [
    "AGAIN_AND_AGAIN",
    "ANOTHER",
    "of_ag_ui",
    "of_ai_sdk",
    "of_htmx",
    "of_native",
    "of_openai",
]

Seen = Mapping[str, Any]
ANOTHER = "ANOTHER TEXT"  # than what the model said: a fault
AGAIN_AND_AGAIN = 3  # errors, after which the code gave up


def text_of(case: Case, text: str, *, is_html: bool = False) -> str:
    if not text:
        return "no text"
    if text == case.text:
        return "all text" if case.is_whole else "text so far"
    if is_html and text == _as_html(case.text):
        return "all text, with `\\n` for `\\r\\n` and `\\r`, U+FFFD for NUL"
    if case.breaks_off and case.text.startswith(text):
        return "text so far"
    return f"{ANOTHER} ({len(text)} characters)"


def _as_html(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")


def of_openai(case: Case, attempts: Sequence[Seen]) -> str:
    return ". Again, with the same `Idempotency-Key`: ".join(
        f"{text_of(case, seen['text'])}; {_openai_end(seen)}" for seen in attempts
    )


def _openai_end(seen: Seen) -> str:
    if name := seen.get("raised"):
        status = f", `status` {seen['status']}" if seen.get("status") else ""
        code = f", `code` `{seen['code']}`" if seen.get("code") else ""
        return f"raises `{name}`{status}{code}"
    reason = seen["finish_reason"]
    return f"`finish_reason` `{reason}`" if reason else "no `finish_reason`, raises nothing"


def of_ai_sdk(case: Case, attempts: Sequence[Seen]) -> str:
    return ". Resumed: ".join(
        f"{text_of(case, seen['text'])}; {_ai_sdk_end(seen)}" for seen in attempts
    )


def _ai_sdk_end(seen: Seen) -> str:
    if seen["status"] == "error":
        return f"`status` `error`, “{seen['error']}”"
    reason = seen.get("finishReason")
    about = f"`finishReason` `{reason}`" if reason else "no `finishReason`"
    return f"`status` `{seen['status']}`, {about}"


def of_ag_ui(case: Case, attempts: Sequence[Seen]) -> str:
    return ". Again, with the same `runId`: ".join(
        f"{text_of(case, ''.join(seen['deltas']))}; {_ag_ui_end(seen)}" for seen in attempts
    )


def _ag_ui_end(seen: Seen) -> str:
    said = []
    if finished := seen.get("finished"):
        reason = finished.get("result", {}).get("finishReason")
        about = f"`result.finishReason` `{reason}`" if reason else f"`{finished['outcome']}`"
        said += [f"`onRunFinishedEvent`, {about}"]
    if error := seen.get("error"):
        said += [f"`onRunErrorEvent`, `code` `{error['code']}`"]
    if "failed" in seen:
        said += ["`onRunFailed`"]
    said = said or ["no callback"]
    if rejected := seen.get("rejected"):
        payload = rejected.get("payload") or {"error": {}}
        code = payload["error"].get("code")
        known = f", `status` {rejected['status']}, `{code}`" if code else ""
        return ", ".join([*said, f"`runAgent` rejects{known}"])
    return ", ".join([*said, "`runAgent` resolves"])


def of_htmx(case: Case, attempts: Sequence[Seen]) -> str:
    (seen,) = attempts
    said = ["`chatstream-note`"] if seen["note"] else []
    if seen["span"]:
        said += [f"`chatstream-error` `{seen['span']}`"]
    said += [f"`chat-error` `{code}`" for code in seen["chat_errors"]]
    if seen["errors"] >= AGAIN_AND_AGAIN:
        said += [f"`{seen['error_event']}` again and again"]
    elif seen["errors"]:
        said += [f"`{seen['error_event']}`"]
    said += [f"`done` `{outcome}`" for outcome in seen["done"]] or ["no `done`"]
    return f"{text_of(case, seen['text'], is_html=True)}; {', '.join(said)}"


def of_native(case: Case, attempts: Sequence[Seen]) -> str:
    return ". Again, with `Last-Event-ID`: ".join(
        f"{text_of(case, seen['text'])}; {_native_end(seen)}" for seen in attempts
    )


def _native_end(seen: Seen) -> str:
    return ", ".join([*_native_errors(seen), *_native_last(seen)])


def _native_errors(seen: Seen) -> list[str]:
    errors = seen.get("errors", [])
    if len(errors) >= AGAIN_AND_AGAIN:
        return ["`onerror` again and again"]
    return [_native_error(error) for error in errors]


def _native_error(error: Seen) -> str:
    state = error.get("readyState")
    about = f", `readyState` {state}" if state is not None else ""
    return f"`onerror`{about}" + (f", `code` {error['status']}" if error.get("status") else "")


def _native_last(seen: Seen) -> list[str]:
    if end := seen.get("end"):
        last = "`done`" if "done" in end else f"`error` `{end['error']['code']}`"
        return [f"`finish` `{seen['outcome']}`" if seen.get("outcome") else "no `finish`", last]
    if seen.get("status"):
        return [f"status {seen['status']}, `{seen['code']}`"]
    if seen.get("raised"):
        return ["until it throws" if seen.get("errors") else f"raises `{seen['raised']}`"]
    return ["no last frame"] if not seen.get("errors") else []
