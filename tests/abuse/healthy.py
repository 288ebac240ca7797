"""A peer that behaves, in a process of its own: it measures how long the relay lets it wait.

`healthy.py PORT`. For each line on stdin it answers, as a line of JSON, what it has seen since the
last one. It ends with its stdin.
"""

import json
import socket
import sys
import threading
import time

PAUSE_SECONDS = 0.02
# One round trip in so many is a new connection with its handshake.
HANDSHAKE_EVERY = 5
GIVE_UP_SECONDS = 30

HANDSHAKE = (
    "GET /echo HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Healthy:
    def __init__(self, port):
        self.port = port
        self.lock = threading.Lock()
        self.rounds, self.slowest, self.error = 0, 0.0, None
        # When the round trip that is under way began.
        self.began = None

    def run(self):
        try:
            peer = self.connect()
            for count in range(sys.maxsize):
                with self.lock:
                    self.began = time.monotonic()
                if count % HANDSHAKE_EVERY == 0:
                    # Closed like a peer that behaves: both close frames, then the connection.
                    self.close(self.connect())
                self.echo(peer, f"round {count}".encode())
                with self.lock:
                    self.rounds += 1
                    self.slowest = max(self.slowest, time.monotonic() - self.began)
                    self.began = None
                time.sleep(PAUSE_SECONDS)
        except Exception as error:
            with self.lock:
                self.error = f"{type(error).__name__}: {error}"

    def connect(self):
        peer = socket.create_connection(("127.0.0.1", self.port), timeout=GIVE_UP_SECONDS)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.sendall(HANDSHAKE.format(port=self.port).encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += read(peer, 1)
        if not answer.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(f"a handshake was answered with {answer!r}")
        return peer

    def echo(self, peer, payload):
        peer.sendall(bytes([0x81, 0x80 | len(payload)]) + bytes(4) + payload)
        while True:
            first, length = read(peer, 2)
            got = read(peer, length)
            if first == 0x89:
                peer.sendall(bytes([0x8A, 0x80 | length]) + bytes(4) + got)
            elif (first, got) == (0x81, payload):
                return
            else:
                raise ConnectionError(f"an echo of {payload!r} came back as {first:#x} {got!r}")

    def close(self, peer):
        peer.sendall(b"\x88\x82" + bytes(4) + b"\x03\xe8")
        if read(peer, 4) != b"\x88\x02\x03\xe8":
            raise ConnectionError("a close with 1000 was not answered with the same")
        peer.close()

    def report(self):
        with self.lock:
            waiting = time.monotonic() - self.began if self.began else 0.0
            report = {"rounds": self.rounds, "slowest": max(self.slowest, waiting), "error": self.error}
            self.rounds, self.slowest = 0, 0.0
        return report


def read(peer, size):
    data = b""
    while len(data) < size:
        more = peer.recv(size - len(data))
        if not more:
            raise ConnectionError("the relay hung up")
        data += more
    return data


if __name__ == "__main__":
    healthy = Healthy(int(sys.argv[1]))
    threading.Thread(target=healthy.run, daemon=True).start()
    for _ in sys.stdin:
        print(json.dumps(healthy.report()), flush=True)
