"""The process that runs the model: an OpenAI-compatible server on a free loopback port.

A process of its own, because loading holds the interpreter's lock, a forked process hangs in it,
its destructor can take half a minute, and a machine that lacks an instruction dies of it.

The protocol, for ``supervisor``: one line of JSON arrives on stdin, ``{"model": path, "alias":
name, "key": secret, "threads": n}``; one line of JSON leaves on stdout, ``{"url": "http://…/v1"}``,
once the model answers. The end of stdin is the order to end, so a parent that was killed takes the
child with it. llama.cpp's own chatter goes to stderr.

Run by its path, with nothing but xllamacpp to import.
"""

import json
import os
import signal
import sys
from typing import Any

LOAD_TIMEOUT = 120  # seconds
CONTEXT = 8192  # tokens, shared by:
CHATS_AT_ONCE = 4


def main() -> None:
    """Serve until stdin ends."""
    settings = json.loads(sys.stdin.readline())
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the library prints is no part of the protocol
    set_alarm(LOAD_TIMEOUT)
    server = serve(settings)
    set_alarm(0)
    print(json.dumps({"url": f"{server.listening_address}/v1"}), file=answer, flush=True)
    while sys.stdin.read(1):
        pass
    os._exit(0)  # the server's destructor may take half a minute


def set_alarm(seconds: int) -> None:
    """Let the system end us in ``seconds``, 0 for never: a hung load can not notice stdin's end."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


def serve(settings: dict[str, Any]) -> Any:
    """Load the model and return its running server."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.port = 0
    params.api_keys = [settings["key"]]
    put(params, "model_alias", settings["alias"])
    put(params, "n_ctx", CONTEXT)
    put(params, "n_parallel", CHATS_AT_ONCE)
    put(params, "cache_ram_mib", 64)  # the default keeps up to 8 GB of old prompts
    put(params, "sse_ping_interval", 1)
    put(params, "verbosity", 1)
    put(params, "ui", False)
    put(params, "endpoint_slots", False)  # it shows other people's prompts
    put(params, "offline", True)
    for name in ("cpuparams", "cpuparams_batch"):
        put(getattr(params, name, None), "n_threads", settings["threads"])
    # So small a model needs the penalties: without them it repeats itself for ever.
    sampling = {"temp": 0.3, "top_p": 0.9, "penalty_freq": 0.6, "penalty_present": 0.3}
    for name, value in sampling.items():
        put(params.sampling, name, value)
    return xllamacpp.Server(params)


def put(target: Any, name: str, value: object) -> None:
    """Set ``target.name`` if there is such a field: names drift between releases."""
    if hasattr(target, name):
        setattr(target, name, value)


if __name__ == "__main__":
    main()
