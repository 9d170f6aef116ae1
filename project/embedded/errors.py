"""The one way in which the embedded model fails, told to the person at the terminal."""

__all__ = ["ModelUnavailable"]

HINT = """\
The demo can use another model instead. Set one of these and start again:
  OPENAI_API_KEY=…                          OpenAI itself
  CHATSTREAM_BASE_URL=http://…/v1           any OpenAI-compatible server,
    with CHATSTREAM_API_KEY=… and CHATSTREAM_MODEL=… if it wants them"""


class ModelUnavailable(Exception):
    """The embedded model cannot be had here; the message says why and what to do instead."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The embedded model is not available: {reason}\n{HINT}")
