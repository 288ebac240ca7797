"""The relay as a process of its own, for the suites that only know it from outside.

MOONWIRE names the binary; without it, it is the release build of this checkout.
"""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute()
BINARY = pathlib.Path(os.environ.get("MOONWIRE", TARGET / "release" / "moonwire")).absolute()

START_SECONDS = 15
STOP_SECONDS = 40


class Broken(Exception):
    """The relay could not be started, or was gone when it was needed."""


class Relay:
    """One running relay, on a free port of 127.0.0.1, with its log in a file."""

    def __init__(self, config, log, settings=None):
        """`settings` stand over the config: { "limits.message_timeout": "2s" }."""
        self.config = pathlib.Path(config)
        self.log = pathlib.Path(log)
        self.settings = settings or {}

    def __enter__(self):
        must_be_built()
        self.folder = tempfile.mkdtemp(prefix="moonwire-")
        self.port = free_port()
        settings = {
            "server.listen": f"127.0.0.1:{self.port}",
            "server.control": f"{self.folder}/control.sock",
            "log.format": "json",
            **self.settings,
        }
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MOONWIRE_")}
        for name, value in settings.items():
            environment["MOONWIRE_" + name.upper().replace(".", "__")] = value
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [BINARY, "-c", self.config],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self.wait_until_it_listens()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def wait_until_it_listens(self):
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.must_be_running()
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise Broken(f"the relay does not listen after {START_SECONDS} s\n{self.tail()}") from None
            time.sleep(0.02)

    def must_be_running(self):
        if self.process.poll() is not None:
            raise Broken(f"the relay has ended with {self.process.returncode}\n{self.tail()}")

    def memory(self):
        """Bytes of the process that are in memory now."""
        self.must_be_running()
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def tail(self, lines=40):
        text = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"  | {line[:400]}" for line in text[-lines:]) or "  | (its log is empty)"


def must_be_built():
    if not BINARY.exists():
        raise Broken(f"there is no relay at {BINARY}: run `cargo build --release`, or set MOONWIRE")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
