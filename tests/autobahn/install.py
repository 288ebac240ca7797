"""Sets up the virtualenv that the suite runs in, with the converted suite beside it."""

import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent

# The build tools first, and no isolated builds: those would take whatever is newest on the day.
TOOLS = ["setuptools==65.5.0", "wheel==0.45.1"]


def install(folder):
    """The virtualenv's python and the folder of the converted suite; made anew when anything of it has changed."""
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "venv" / "bin" / "python"
    suite = folder / "suite"
    stamp = folder / "installed"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != fingerprint():
            stamp.unlink(missing_ok=True)
            for part in [folder / "venv", suite]:
                shutil.rmtree(part, ignore_errors=True)
            make(python, suite)
            stamp.write_text(fingerprint())
    return python, suite


def make(python, suite):
    print("installing the Autobahn test suite", flush=True)
    try:
        command(sys.executable, "-m", "venv", python.parent.parent)
    except subprocess.CalledProcessError:
        sys.exit("tests/autobahn: cannot make a virtualenv; on Debian: apt-get install python3-venv")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command(*pip, *TOOLS)
    command(*pip, "--no-build-isolation", "--requirement", HERE / "requirements.txt")
    command(python, HERE / "convert.py", suite)


def command(*args):
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([str(arg) for arg in args], check=True, stdin=subprocess.DEVNULL, env=environment)


def fingerprint():
    digest = hashlib.sha256(sys.version.encode())
    for name in ["convert.py", "install.py", "latin1.py", "requirements.txt"]:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()
