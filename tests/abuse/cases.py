"""What hostile peers do, and what the relay must make of it. Each case's name says it.

A case is given the running relay. Beside it a healthy peer is served all the time, or the case fails.
"""

import asyncio
import contextlib
import os
import random
import signal
import socket
import struct
import time

from peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    NO_CLOSE,
    NO_CODE,
    PING,
    PONG,
    TEXT,
    Connection,
    Peer,
    Unexpected,
    close_frame,
    code_of,
    deflate,
    frame,
    http,
    request,
)

KIB, MIB = 1024, 1024 * 1024

# The relay's defaults, and those of config.toml.
HEADER_BYTES = 16 * KIB
HEADERS = 64
HANDSHAKE_SECONDS = 2
MESSAGE_BYTES = MIB
FRAGMENTS = 131_072
SHUTDOWN_SECONDS = 10

NORMAL, PROTOCOL, INVALID, POLICY, TOO_BIG, RESTART, TRY_AGAIN = 1000, 1002, 1007, 1008, 1009, 1012, 1013

CASES = []


def case(function=None, *, settings=None, healthy=True):
    """`settings` that differ mean a relay of the case's own."""

    def add(function):
        CASES.append((function, settings or {}, healthy))
        return function

    return add(function) if function else add


def equal(seen, wanted, what):
    if seen != wanted:
        raise Unexpected(f"{what}: wanted {wanted}, got {seen}")


def within(seen, most, what):
    if seen > most:
        raise Unexpected(f"{what}: at most {most:,}, got {seen:,}")


@contextlib.contextmanager
def memory_grows_by_at_most(relay, most):
    before = relay.memory()
    yield
    within(relay.memory() - before, most, "bytes that the relay's memory grew by")


async def many(count, at_once, make):
    """Awaits `make(number)` for each number, some at one time."""
    gate = asyncio.Semaphore(at_once)

    async def one(number):
        async with gate:
            await make(number)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))


async def closes(relay, name, seconds=10):
    """The code that `on_close` was told for the peer of that name."""
    deadline = time.monotonic() + seconds
    while not (codes := relay.closes().get(name)):
        if time.monotonic() > deadline:
            raise Unexpected(f"on_close did not run for {name} within {seconds} s")
        await asyncio.sleep(0.05)
    equal(len(codes), 1, f"times that on_close ran for {name}")
    return codes[0]


async def refused(relay, data, status, what):
    try:
        statuses, said = await http(relay.port, data)
    except Unexpected as error:
        raise Unexpected(f"{what}: {error}") from None
    if statuses != [status]:
        raise Unexpected(f"{what}: wanted the status {status} and nothing else, got {said[:400]!r}")
    return said


# ── the handshake ──


@case
async def a_head_over_header_bytes_is_refused_with_431(relay):
    for size in [17 * KIB, MIB]:
        await refused(relay, request(relay.port, X_Big="a" * size), 431, f"one header of {size:,} bytes")
    await refused(relay, request(relay.port, "/" + "a" * 17 * KIB), 431, "a path of 17 KiB")
    await refused(relay, b"a" * MIB, 431, "a megabyte without an end of line")


@case
async def a_65th_header_is_refused_with_431(relay):
    more = {f"X-{number}": "a" for number in range(HEADERS - 5)}
    async with await Connection.to(relay.port) as connection:
        await connection.send(request(relay.port, **more))
        await connection.more()
        equal(bytes(connection.read[:12]), b"HTTP/1.1 101", "the answer to a request with 64 headers")
    await refused(relay, request(relay.port, **more, X_One_More="a"), 431, "65 headers")


@case
async def a_thousand_oversized_heads_leave_no_memory_behind(relay):
    heads = [
        request(relay.port, X_Big="a" * 17 * KIB),
        request(relay.port, **{f"X-{number}": "a" for number in range(65)}),
        request(relay.port, X_Big="a" * MIB),
    ]

    async def one(number):
        await refused(relay, heads[number % len(heads)], 431, "an oversized head")

    await many(100, 20, one)
    with memory_grows_by_at_most(relay, 2 * MIB):
        await many(1000, 20, one)


@case
async def what_is_not_http_is_hung_up_on(relay):
    noise = random.Random(1)
    garbage = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise.randbytes(500),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0" * 1000,
        b"\r\n" * 1000,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x81\x85\0\0\0\0hello",
        *(noise.randbytes(noise.randrange(1, 2000)) for _ in range(200)),
    ]

    async def one(number):
        data = garbage[number]
        statuses, said = await http(relay.port, data, HANDSHAKE_SECONDS + 3)
        if any(not 400 <= status < 600 for status in statuses) or len(statuses) > 1:
            raise Unexpected(f"{data[:40]!r} was answered with {said[:300]!r}")

    await many(len(garbage), 100, one)


@case
async def a_request_that_a_proxy_could_read_otherwise_is_refused_with_400(relay):
    host = f"Host: 127.0.0.1:{relay.port}".encode()
    smuggled = b"GET /smuggled HTTP/1.1\r\n" + host + b"\r\n\r\n"
    chunked = b"0\r\n\r\n" + smuggled
    heads = {
        "a length and chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        "chunks and a length": b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        "chunks that are not the last coding": b"Transfer-Encoding: chunked, identity",
        "chunks twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "an unknown coding": b"Transfer-Encoding: xchunked",
        "a space before the colon": b"Transfer-Encoding : chunked",
        "a vertical tab before the coding": b"Transfer-Encoding:\x0bchunked",
        "a folded header": b"X: a\r\n Transfer-Encoding: chunked",
        "a coding on a folded line": b"Transfer-Encoding:\r\n chunked",
        "two lengths": b"Content-Length: 5\r\nContent-Length: 6",
        "a list of lengths": b"Content-Length: 5, 6",
        "a signed length": b"Content-Length: +5",
        "a negative length": b"Content-Length: -1",
        "a length with a space": b"Content-Length: 5 5",
        "a length in hexadecimal": b"Content-Length: 0x5",
        "a length that overflows": b"Content-Length: 18446744073709551621",
        "an empty length": b"Content-Length: ",
        "a bare line feed": b"X: a\nTransfer-Encoding: chunked",
        "a bare carriage return": b"X: a\rTransfer-Encoding: chunked",
        "a zero byte in a value": b"X: a\0b",
        "a zero byte in a name": b"X\0Y: a",
        "an empty name": b": a",
        "a line without a colon": b"Transfer-Encoding",
        "a space before a name": b" X: a",
        "a second host": b"Host: elsewhere.example",
    }
    for what, head in heads.items():
        await refused(relay, b"POST /echo HTTP/1.1\r\n" + host + b"\r\n" + head + b"\r\n\r\n" + chunked, 400, what)
    for what, whole in {
        "no host": b"GET /echo HTTP/1.1\r\n\r\n",
        "only bare line feeds": b"GET /echo HTTP/1.1\n" + host + b"\n\n",
        "a space too many in the first line": b"GET  /echo HTTP/1.1\r\n" + host + b"\r\n\r\n",
        "a word too many in the first line": b"GET /echo HTTP/1.1 HTTP/1.1\r\n" + host + b"\r\n\r\n",
        "a space before the first header": b"GET /echo HTTP/1.1\r\n " + host + b"\r\n\r\n",
        "chunks in HTTP/1.0": b"POST /echo HTTP/1.0\r\n" + host + b"\r\nTransfer-Encoding: chunked\r\n\r\n",
    }.items():
        await refused(relay, whole + smuggled, 400, what)


@case
async def a_handshake_with_a_body_is_refused_with_400(relay):
    smuggled = request(relay.port, "/echo?name=smuggled")
    for head in [{"Content-Length": str(len(smuggled))}, {"Transfer-Encoding": "chunked"}]:
        await refused(relay, request(relay.port, **head) + smuggled, 400, f"a handshake with {head}")


@case
async def a_handshake_that_is_not_rfc_6455_is_refused(relay):
    port = relay.port
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    for status, what, head in [
        (400, "no key", request(port, leave_out=["Sec-WebSocket-Key"])),
        (400, "an empty key", request(port, Sec_WebSocket_Key="")),
        (400, "a key of 15 bytes", request(port, Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25j")),
        (400, "a key that is not base64", request(port, Sec_WebSocket_Key="!" * 24)),
        (400, "two keys", request(port).replace(b"\r\n\r\n", f"\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())),
        (400, "no Connection: Upgrade", request(port, Connection="keep-alive, close")),
        (400, "HTTP/1.0", request(port, Connection="Upgrade, close").replace(b"HTTP/1.1", b"HTTP/1.0")),
        (405, "POST", request(port, Connection="Upgrade, close").replace(b"GET ", b"POST ", 1)),
        (426, "an old version", request(port, Connection="Upgrade, close", Sec_WebSocket_Version="8")),
        (426, "no version", request(port, Connection="Upgrade, close", leave_out=["Sec-WebSocket-Version"])),
        (426, "no Upgrade", request(port, Connection="close", leave_out=["Upgrade"])),
        (404, "a path of no app", request(port, "/nobody", Connection="Upgrade, close")),
    ]:
        if b"close" not in head:
            head = head.replace(b"Connection: Upgrade", b"Connection: Upgrade, close")
        said = await refused(relay, head, status, what)
        if "version" in what and b"sec-websocket-version: 13" not in said.lower():
            raise Unexpected(f"{what}: the answer does not say that 13 is spoken: {said!r}")


@case
async def a_page_of_another_origin_is_refused_with_403(relay):
    own = f"127.0.0.1:{relay.port}"
    for origin in [
        "http://evil.example",
        f"https://{own}",
        f"http://{own}.evil.example",
        f"http://evil.example:{relay.port}",
        f"http://{own}@evil.example",
        f"http://evil.example#{own}",
        f"http://127.0.0.1:{relay.port + 1}",
        "http://127.0.0.1",
        f"http://localhost:{relay.port}",
        f"http://{own}/",
        f"http://{own}, http://evil.example",
        "null",
        "",
    ]:
        head = request(relay.port, Connection="Upgrade, close", Origin=origin)
        await refused(relay, head, 403, f"the origin {origin!r}")
    async with await Connection.to(relay.port) as connection:
        await connection.send(request(relay.port, Origin=f"http://{own}"))
        await connection.more()
        equal(bytes(connection.read[:12]), b"HTTP/1.1 101", "the answer to a page of the relay's own")


@case
async def two_thousand_dripped_handshakes_are_hung_up_on_in_time(relay):
    late = HANDSHAKE_SECONDS + 1

    async def drip(number):
        head = request(relay.port)
        async with await Connection.to(relay.port) as connection:
            began = time.monotonic()

            async def send():
                with contextlib.suppress(ConnectionError):
                    for byte in head:
                        await connection.send(bytes([byte]))
                        await asyncio.sleep(0.5)

            sender = asyncio.create_task(send())
            try:
                said = await connection.everything(late + 5)
            finally:
                sender.cancel()
            if said.startswith(b"HTTP/1.1 101"):
                raise Unexpected(f"a handshake that took {time.monotonic() - began:.1f} s was taken")
            slowest.append(time.monotonic() - began)

    slowest = []
    await many(2000, 2000, drip)
    # This side has 2,000 sockets to look after as well.
    within(max(slowest), late + 0.5, "seconds until the last one was hung up on")


# ── frames ──


async def closed_with(relay, data, code, what, **options):
    async with await Peer.open(relay, **options) as peer:
        async with peer.sending(data):
            try:
                equal(await peer.closed(), code, "the close code")
            except Unexpected as error:
                raise Unexpected(f"{what}: {error}") from None


@case
async def a_frame_that_breaks_rfc_6455_is_closed_with_1002(relay):
    for what, data in {
        "an unmasked frame": frame(TEXT, b"hello", masked=False),
        "an unmasked close": frame(CLOSE, masked=False),
        **{f"reserved bits {bits:03b}": frame(TEXT, b"hello", reserved=bits) for bits in range(1, 8)},
        **{f"opcode {code}": frame(code, b"hello") for code in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]},
        "a ping in fragments": frame(PING, b"hello", fin=False),
        "a ping of 126 bytes": frame(PING, b"a" * 126),
        "a close of 126 bytes": frame(CLOSE, struct.pack("!H", NORMAL) + b"a" * 124),
        "a continuation of nothing": frame(CONTINUATION, b"hello"),
        "a message within a message": frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
        "a length that is not the shortest": frame(TEXT, b"hello", length_bytes=2),
        "a long length that is not the shortest": frame(TEXT, b"a" * 200, length_bytes=8),
        "a length with its highest bit set": frame(BINARY, declared=1 << 63),
        "a close of one byte": frame(CLOSE, b"\x03"),
        **{f"the close code {code}": close_frame(code) for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000]},
    }.items():
        await closed_with(relay, data, PROTOCOL, what)


@case
async def what_is_not_utf_8_is_closed_with_1007(relay):
    for bad in [
        b"\xff",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
        b"ok so far \xf0\x9f\x8c",
    ]:
        await closed_with(relay, frame(TEXT, bad), INVALID, f"{bad!r}")
        for cut in range(len(bad) + 1):
            halves = frame(TEXT, bad[:cut], fin=False) + frame(PING) + frame(CONTINUATION, bad[cut:])
            await closed_with(relay, halves, INVALID, f"{bad!r} cut at {cut}")
    await closed_with(relay, close_frame(NORMAL, b"\xff"), INVALID, "a reason that is not UTF-8")


@case
async def utf_8_cut_within_a_character_is_taken(relay):
    text = "κόσμε 🌙".encode()
    async with await Peer.open(relay) as peer:
        for cut in range(len(text) + 1):
            await peer.send(frame(TEXT, text[:cut], fin=False) + frame(CONTINUATION, text[cut:]))
            equal(await peer.message(), text, f"the echo of a text cut at {cut}")


@case
async def a_message_of_exactly_the_limit_comes_back_and_one_byte_more_is_closed_with_1009(relay):
    data = os.urandom(MESSAGE_BYTES)
    async with await Peer.open(relay) as peer:
        await peer.send(frame(BINARY, data))
        equal(await peer.message() == data, True, "whether a message of the limit's size came back")
    await closed_with(relay, frame(BINARY, data + b"a"), TOO_BIG, "a message of one byte more")
    halves = frame(BINARY, data[:-1], fin=False) + frame(CONTINUATION, b"aa")
    await closed_with(relay, halves, TOO_BIG, "two fragments of one byte more together")


@case
async def a_compressed_message_comes_back_compressed_if_it_is_long_and_text(relay):
    text = b'{"type":"moved","x":1,"y":2}' * 100
    async with await Peer.open(relay, deflates=True) as peer:
        for opcode, data, comes_compressed in [(TEXT, text, True), (TEXT, b"short", False), (BINARY, text, False)]:
            for whole in [
                frame(opcode, deflate(data), reserved=4),
                frame(opcode, deflate(data)[:5], reserved=4, fin=False) + frame(CONTINUATION, deflate(data)[5:]),
                frame(opcode, data),
            ]:
                await peer.send(whole)
                found = await peer.frame()
                equal((found.opcode, found.payload == data), (opcode, True), "whether the echo is what was sent")
                equal(found.deflated, comes_compressed, "whether the echo is compressed")


@case
async def a_compressed_message_that_would_be_too_long_is_closed_with_1009_and_costs_no_memory(relay):
    bomb = deflate(b"\0" * 900 * MIB)
    within(len(bomb), MESSAGE_BYTES, "bytes of the bomb")
    just = deflate(b"a" * (MESSAGE_BYTES + 1))
    for what, data in {"900 MiB of zeros": bomb, "a message of one byte more": just}.items():
        await closed_with(relay, frame(TEXT, data, reserved=4), TOO_BIG, what, deflates=True)
        with memory_grows_by_at_most(relay, 4 * MIB):
            await many(50, 5, lambda _: closed_with(relay, frame(TEXT, data, reserved=4), TOO_BIG, what, deflates=True))
    halves = frame(TEXT, bomb[:1000], reserved=4, fin=False) + frame(CONTINUATION, bomb[1000:])
    await closed_with(relay, halves, TOO_BIG, "a bomb in two fragments", deflates=True)
    async with await Peer.open(relay, deflates=True) as peer:
        await peer.send(frame(TEXT, deflate(b"a" * MESSAGE_BYTES), reserved=4))
        equal(len(await peer.message()), MESSAGE_BYTES, "the length of a message of just the limit")


@case
async def what_cannot_be_inflated_is_closed_with_1007(relay):
    noise = random.Random(2)
    for what, data in {"an unknown kind of block": b"\x07", "a length that is wrong": b"\x01\x05\0\0\0"}.items():
        await closed_with(relay, frame(TEXT, data, reserved=4), INVALID, what, deflates=True)
    await closed_with(relay, frame(TEXT, deflate(b"\xff"), reserved=4), INVALID, "not UTF-8", deflates=True)
    for opcode, fin in [(CONTINUATION, True), (PING, True), (CLOSE, True)]:
        before = frame(TEXT, b"", reserved=4, fin=False) if opcode == CONTINUATION else b""
        marked = before + frame(opcode, b"\0", reserved=4)
        await closed_with(relay, marked, PROTOCOL, f"opcode {opcode} marked as compressed", deflates=True)
    for _ in range(200):
        data = bytearray(deflate(b"the same words, again and again " * 50))
        for _ in range(3):
            data[noise.randrange(len(data))] = noise.randrange(256)
        async with await Peer.open(relay, deflates=True) as peer:
            await peer.send(frame(TEXT, bytes(data), reserved=4))
            found = await peer.frame()
            if found.opcode == CLOSE:
                equal(code_of(found) in (INVALID, TOO_BIG), True, f"whether {code_of(found)} is 1007 or 1009")


@case
async def a_length_that_is_only_declared_costs_no_memory(relay):
    async def one(number):
        declared = [(1 << 63) - 1, 1 << 32, MESSAGE_BYTES + 1, 1 << 31][number % 4]
        await closed_with(relay, frame(BINARY, declared=declared), TOO_BIG, f"a frame of {declared:,} bytes")

    await many(100, 20, one)
    with memory_grows_by_at_most(relay, 4 * MIB):
        await many(400, 20, one)


@case
async def declared_messages_within_the_limit_cost_what_was_sent_of_them(relay):
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(await Peer.open(relay)) for _ in range(200)]
        with memory_grows_by_at_most(relay, 16 * MIB):
            for peer in peers:
                await peer.send(frame(BINARY, b"a" * 1000, declared=MESSAGE_BYTES))
            # What was sent before on the same connection has been read when a later peer has been served.
            async with await Peer.open(relay) as last:
                await last.send(frame(TEXT, b"here"))
                equal(await last.message(), b"here", "the echo")


@case
async def a_million_empty_fragments_are_closed_with_1009(relay):
    empty = b"\x00\x80\0\0\0\0"
    for what, pieces in {"empty fragments": empty, "fragments and pings": empty + b"\x89\x80\0\0\0\0"}.items():
        with memory_grows_by_at_most(relay, 8 * MIB):
            await closed_with(relay, frame(TEXT, fin=False) + pieces * 1_000_000, TOO_BIG, f"a million {what}")


@case
async def as_many_fragments_as_the_limit_are_one_message(relay):
    fragments = frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"a", fin=False) * (FRAGMENTS - 2)
    async with await Peer.open(relay) as peer, peer.sending(fragments + frame(CONTINUATION, b"a")):
        equal(len(await peer.message()), FRAGMENTS, "the length of the echo")


@case(settings={"limits.message_timeout": "2s"})
async def a_message_that_never_ends_is_closed_in_time(relay):
    whole = frame(BINARY, b"a" * 10_000)
    fragment = frame(CONTINUATION, b"a", fin=False)

    async def drip(pieces):
        async with await Peer.open(relay) as peer:
            began = time.monotonic()

            async def send():
                with contextlib.suppress(ConnectionError):
                    for piece in pieces:
                        await peer.send(piece)
                        await asyncio.sleep(0.05)

            sender = asyncio.create_task(send())
            try:
                code = await peer.closed(10)
            finally:
                sender.cancel()
            took = time.monotonic() - began
            if not 1.9 <= took <= 4:
                raise Unexpected(f"closed after {took:.1f} s, with limits.message_timeout at 2 s")
            if code not in (POLICY, TOO_BIG, PROTOCOL):
                raise Unexpected(f"closed with {code}")

    async with asyncio.TaskGroup() as group:
        group.create_task(drip(whole[at : at + 1] for at in range(len(whole))))
        group.create_task(drip([frame(TEXT, b"a", fin=False), *[fragment] * 1000]))
        # Pings are not what the deadline waits for.
        group.create_task(drip([frame(TEXT, b"a", fin=False), *[frame(PING)] * 1000]))
        # Half a header.
        group.create_task(drip([frame(TEXT, b"a")[:1]]))


# ── connections ──


@case
async def a_peer_that_vanishes_is_told_to_on_close_once_with_1006(relay):
    gone = []

    async def vanish(number):
        peer = await Peer.open(relay)
        gone.append(peer.name)
        await peer.send([b"", frame(TEXT, b"hello"), frame(TEXT, b"half of it", declared=20)][number % 3])
        peer.reset()

    await many(300, 50, vanish)
    for name in gone:
        equal(await closes(relay, name), NO_CLOSE, f"the code that on_close was told for {name}")


@case(settings={"limits.ping_interval": "1s", "limits.pong_timeout": "1s"})
async def a_peer_that_answers_no_ping_is_let_go_with_1006(relay):
    async with await Peer.open(relay) as silent, await Peer.open(relay) as answering:
        began = time.monotonic()

        async def answer():
            with contextlib.suppress(ConnectionError):
                while found := await answering.frame():
                    if found.opcode == PING:
                        await answering.send(frame(PONG, found.payload))

        answers = asyncio.create_task(answer())
        try:
            equal(await closes(relay, silent.name), NO_CLOSE, "the code that on_close was told")
            within(time.monotonic() - began, 4, "seconds until the silent peer was let go")
            # Several intervals and timeouts later.
            await asyncio.sleep(max(0, began + 5 - time.monotonic()))
            equal(relay.closes().get(answering.name), None, "an ending of the peer that answers its pings")
        finally:
            answers.cancel()


@case
async def a_peer_that_never_reads_costs_no_more_than_its_outbox(relay):
    big = frame(BINARY, os.urandom(256 * KIB)) * 64
    with memory_grows_by_at_most(relay, 24 * MIB):
        async with await Peer.open(relay, receive_buffer=4096) as peer, peer.sending(big):
            code = await closes(relay, peer.name, 20)
    equal(code, TRY_AGAIN, "the code that on_close was told")


@case
async def fifty_peers_that_never_read_are_bounded_together(relay):
    small = frame(TEXT, b"a" * 100) * 200_000
    async with contextlib.AsyncExitStack() as stack:
        with memory_grows_by_at_most(relay, 50 * 3 * MIB):
            peers = []
            for _ in range(50):
                peers.append(await stack.enter_async_context(await Peer.open(relay, receive_buffer=4096)))
                await stack.enter_async_context(peers[-1].sending(small))
            for peer in peers:
                equal(await closes(relay, peer.name, 60), TRY_AGAIN, "the code that on_close was told")


@case
async def a_hundred_thousand_pings_are_answered(relay):
    pings = b"".join(frame(PING, str(number).encode()) for number in range(100_000))
    with memory_grows_by_at_most(relay, 16 * MIB):
        async with await Peer.open(relay) as peer, peer.sending(pings + frame(TEXT, b"after them")):
            last = None
            async with asyncio.timeout(60):
                while (found := await peer.frame(30)) and found.opcode != TEXT:
                    equal(found.opcode, PONG, "the opcode of an answer to a ping")
                    if last is not None and int(found.payload) <= last:
                        raise Unexpected(f"the pong {found.payload!r} came after {last}")
                    last = int(found.payload)
            equal(last, 99_999, "the last ping that was answered")
            equal(found and found.payload, b"after them", "the echo after the pings")


@case
async def pings_from_a_peer_that_never_reads_cost_no_memory(relay):
    pings = frame(PING, b"a" * 125) * 400_000
    with memory_grows_by_at_most(relay, 24 * MIB):
        async with await Peer.open(relay, receive_buffer=4096) as peer, peer.sending(pings):
            # Either the relay stops reading or it ends the connection; both are bounded.
            for _ in range(50):
                await asyncio.sleep(0.1)
                if relay.closes().get(peer.name):
                    break


@case
async def nothing_is_heard_after_a_close_frame(relay):
    async with await Peer.open(relay) as peer:
        await peer.send(frame(TEXT, b"before") + close_frame(4001, b"bye") + frame(TEXT, b"after") * 1000)
        heard = []
        while found := await peer.frame():
            heard.append((found.opcode, found.payload))
        equal([opcode for opcode, _ in heard], [TEXT, CLOSE], "the frames that came back")
        equal(heard[0][1], b"before", "the echo")
        equal(int.from_bytes(heard[1][1][:2], "big"), 4001, "the code of the answering close")
        equal(await closes(relay, peer.name), 4001, "the code that on_close was told")


@case
async def a_close_without_a_code_is_told_as_1005(relay):
    async with await Peer.open(relay) as peer:
        await peer.send(frame(CLOSE))
        equal(await peer.closed(), NO_CODE, "the code of the answering close")
        equal(await closes(relay, peer.name), NO_CODE, "the code that on_close was told")


@case
async def a_half_closed_connection_is_ended_and_what_it_sent_is_answered(relay):
    async with await Peer.open(relay) as peer:
        await peer.send(frame(TEXT, b"the last"))
        peer.sock.shutdown(socket.SHUT_WR)
        equal(await peer.message(), b"the last", "the echo")
        equal(await closes(relay, peer.name), NO_CLOSE, "the code that on_close was told")
        await peer.everything()


@case
async def a_close_that_is_never_answered_is_cut_off(relay):
    async with await Peer.open(relay) as peer:
        await peer.send(frame(TEXT, masked=False))
        equal(await peer.closed(), PROTOCOL, "the close code")
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            # limits.close_timeout is 5 s; it is not for this peer to extend.
            while time.monotonic() - began < 15:
                await peer.send(frame(TEXT, b"still here"))
                await asyncio.sleep(0.1)
        within(time.monotonic() - began, 8, "seconds until the connection was cut off")


@case
async def connections_that_come_and_go_leave_no_memory_behind(relay):
    async def one(number):
        async with await Peer.open(relay) as peer:
            await peer.send(frame(TEXT, b"a" * 1000))
            await peer.message()
            if number % 2:
                peer.reset()
            else:
                await peer.send(close_frame(NORMAL))
                equal(await peer.closed(), NORMAL, "the code of the answering close")

    await many(500, 50, one)
    with memory_grows_by_at_most(relay, 4 * MIB):
        await many(2000, 50, one)


# ── the end ──


@case(settings={"server.shutdown": f"{SHUTDOWN_SECONDS}s"}, healthy=False)
async def sigterm_under_load_closes_everybody_with_1012_and_ends_with_0(relay):
    codes, echoed = [], [0]

    async def chatter(peer):
        try:
            for number in range(1_000_000):
                await peer.send(frame(TEXT, b"hello"))
                found = await peer.frame(SHUTDOWN_SECONDS + 5)
                if found is None or found.opcode == CLOSE:
                    break
                echoed[0] += 1
        except ConnectionError as error:
            raise Unexpected(f"{peer.name} was cut off without a close frame ({error})") from error
        codes.append(code_of(found) if found else NO_CLOSE)
        with contextlib.suppress(ConnectionError):
            await peer.send(found and close_frame(code_of(found)) or b"")

    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(await Peer.open(relay)) for _ in range(200)]
        tasks = [asyncio.create_task(chatter(peer)) for peer in peers]
        while echoed[0] < 5_000:
            await asyncio.sleep(0.05)
        began = time.monotonic()
        relay.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*tasks)
        # Ending is the process's own business from here on.
        while relay.process.poll() is None:
            within(time.monotonic() - began, SHUTDOWN_SECONDS + 2, "seconds until the relay ended")
            await asyncio.sleep(0.05)
    equal(sorted(set(codes)), [RESTART], "the close codes of the peers")
    equal(relay.process.returncode, 0, "the relay's exit status")
    for peer in peers:
        equal(await closes(relay, peer.name, 1), RESTART, f"the code that on_close was told for {peer.name}")


@case(settings={"server.shutdown": f"{SHUTDOWN_SECONDS}s", "limits.close_timeout": "30s"}, healthy=False)
async def peers_that_ignore_the_end_do_not_hold_it_up(relay):
    async with contextlib.AsyncExitStack() as stack:
        for number in range(20):
            peer = await stack.enter_async_context(await Peer.open(relay, receive_buffer=4096))
            if number % 2:
                await peer.send(frame(BINARY, b"a" * 100_000, declared=200_000))
        # Handshakes that have begun do not hold it up either.
        for _ in range(20):
            connection = await stack.enter_async_context(await Connection.to(relay.port))
            await connection.send(b"GET /echo HT")
        began = time.monotonic()
        relay.process.send_signal(signal.SIGTERM)
        while relay.process.poll() is None:
            within(time.monotonic() - began, SHUTDOWN_SECONDS + 2, "seconds until the relay ended")
            await asyncio.sleep(0.05)
    equal(relay.process.returncode, 0, "the relay's exit status")
