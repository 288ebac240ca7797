"""A WebSocket peer that can break every rule: raw sockets, frames by hand, nothing answered by itself."""

import asyncio
import base64
import contextlib
import itertools
import os
import re
import socket
import struct
import zlib
from dataclasses import dataclass

from hashlib import sha1

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
# What `closed` gives when there was no close frame: what a browser would say.
NO_CODE, NO_CLOSE = 1005, 1006
SECONDS = 10
DEFLATES = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
# What ends each compressed message, and is not sent.
TAIL = b"\0\0\xff\xff"

names = (f"peer-{number}" for number in itertools.count(1))


class Unexpected(Exception):
    """The relay did something else than it should."""


def frame(opcode, payload=b"", *, fin=True, reserved=0, masked=True, declared=None, length_bytes=None):
    """`declared` is the length that the header tells, `length_bytes` (0, 2 or 8) in how many more bytes it does."""
    length = len(payload) if declared is None else declared
    if length_bytes is None:
        length_bytes = 0 if length < 126 else 2 if length < 1 << 16 else 8
    short = {0: length, 2: 126, 8: 127}[length_bytes]
    head = bytes([fin << 7 | reserved << 4 | opcode, masked << 7 | short])
    head += {0: b"", 2: struct.pack("!H", length & 0xFFFF), 8: struct.pack("!Q", length)}[length_bytes]
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + mask(payload, key)


def mask(payload, key):
    whole = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(whole, "big")).to_bytes(len(payload), "big")


def deflate(data):
    """As a compressed message has it."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def close_frame(code, reason=b""):
    return frame(CLOSE, struct.pack("!H", code) + reason)


def request(port, path="/echo", *, leave_out=(), **other):
    """A well-formed handshake; `other` headers (with _ for -) are added or take another's place."""
    headers = {
        "Host": f"127.0.0.1:{port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    }
    headers.update({name.replace("_", "-"): value for name, value in other.items()})
    lines = [f"{name}: {value}" for name, value in headers.items() if name not in leave_out]
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")


class Connection:
    """One TCP connection to the relay, with what has been read and not yet been used."""

    def __init__(self, sock):
        self.sock = sock
        self.read = bytearray()
        self.loop = asyncio.get_running_loop()

    @classmethod
    async def to(cls, port, receive_buffer=None):
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return cls(sock)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.sock.close()

    async def send(self, data):
        await self.loop.sock_sendall(self.sock, data)

    @contextlib.asynccontextmanager
    async def sending(self, data):
        """Sends beside what else is done. That the relay hangs up meanwhile is no mistake of this side."""

        async def send():
            with contextlib.suppress(ConnectionError):
                await self.send(data)

        task = asyncio.create_task(send())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def more(self):
        """Reads once; false at the end, however it came."""
        try:
            data = await self.loop.sock_recv(self.sock, 1 << 18)
        except ConnectionError:
            return False
        self.read += data
        return bool(data)

    async def everything(self, seconds=SECONDS):
        """All that comes until the relay hangs up."""
        try:
            async with asyncio.timeout(seconds):
                while await self.more():
                    pass
        except TimeoutError:
            said = bytes(self.read[:300])
            raise Unexpected(f"the relay has not hung up after {seconds} s; it said {said!r}") from None
        return bytes(self.read)

    def reset(self):
        """Gone, as when a machine loses its power and something else answers in its place."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


@dataclass
class Frame:
    opcode: int
    payload: bytes
    fin: bool
    deflated: bool


class Peer(Connection):
    """Past the handshake."""

    name = None
    # Compressed messages were agreed on, without context.
    deflates = False

    @classmethod
    async def open(cls, relay, deflates=False, **options):
        peer = await cls.to(relay.port, **options)
        peer.name = next(names)
        relay.opened.append(peer.name)
        offer = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"} if deflates else {}
        head = request(relay.port, f"/echo?name={peer.name}", **offer)
        await peer.send(head)
        async with asyncio.timeout(SECONDS):
            while b"\r\n\r\n" not in peer.read:
                if not await peer.more():
                    raise Unexpected(f"no answer to a handshake; only {bytes(peer.read)!r}")
        answer, _, rest = bytes(peer.read).partition(b"\r\n\r\n")
        peer.read = bytearray(rest)
        if not answer.startswith(b"HTTP/1.1 101 ") or accept_of(head) not in answer:
            raise Unexpected(f"a good handshake was answered with {answer!r}")
        peer.deflates = DEFLATES in answer
        if peer.deflates != deflates:
            raise Unexpected(f"compression was asked for or not, and the answer is {answer!r}")
        return peer

    async def frame(self, seconds=SECONDS):
        """The next frame; None when the relay has hung up."""
        async with asyncio.timeout(seconds):
            while True:
                if found := self.whole_frame():
                    return found
                if not await self.more():
                    return None

    def whole_frame(self):
        data = self.read
        if len(data) < 2:
            return None
        if data[1] & 0x80 or data[0] & (0x30 if self.deflates else 0x70):
            raise Unexpected(f"the relay sent a masked frame, or reserved bits: {bytes(data[:20])!r}")
        length, start = data[1] & 0x7F, 2
        if length > 125:
            start = 4 if length == 126 else 10
            if len(data) < start:
                return None
            length = int.from_bytes(data[2:start], "big")
        if len(data) < start + length:
            return None
        payload = bytes(data[start : start + length])
        deflated = bool(data[0] & 0x40)
        if deflated:
            payload = zlib.decompressobj(-15).decompress(payload + TAIL)
        found = Frame(data[0] & 0x0F, payload, bool(data[0] & 0x80), deflated)
        del data[: start + length]
        return found

    async def message(self):
        """The next text or binary message; pings are answered."""
        while found := await self.frame():
            if found.opcode == PING:
                await self.send(frame(PONG, found.payload))
            elif found.opcode in (TEXT, BINARY):
                return found.payload
            elif found.opcode == CLOSE:
                raise Unexpected(f"closed with {code_of(found)} instead of a message")
        raise Unexpected("the relay hung up instead of sending a message")

    async def closed(self, seconds=SECONDS):
        """The code of the relay's close frame, 1006 if it hung up without one; all before it is passed over."""
        try:
            while found := await self.frame(seconds):
                if found.opcode == CLOSE:
                    return code_of(found)
        except TimeoutError:
            raise Unexpected(f"the relay neither closed nor hung up within {seconds} s") from None
        return NO_CLOSE


def code_of(found):
    return int.from_bytes(found.payload[:2], "big") if found.payload else NO_CODE


def accept_of(head):
    key = re.search(rb"Sec-WebSocket-Key: (\S+)", head)[1]
    return base64.b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


async def http(port, data, seconds=SECONDS):
    """What the relay says to these bytes until it hangs up, and the status of each answer in it."""
    async with await Connection.to(port) as connection, connection.sending(data):
        said = await connection.everything(seconds)
    return [int(status) for status in re.findall(rb"^HTTP/1\.[01] (\d{3})", said, re.MULTILINE)], said
