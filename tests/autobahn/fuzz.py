"""The converted suite's fuzzing peer, against one server: `fuzz.py URL CASES RESULTS`.

Runs in the suite's own virtualenv. CASES is a JSON list of patterns, RESULTS the file that gets what
was seen of each case.
"""

import json
import sys

from twisted.internet import reactor

from autobahntestsuite import fuzzing
from autobahntestsuite.latin1 import octets, text

LOGGED = 200


def shown(data, maxlen=LOGGED, replace=True):
    whole = octets(data)
    return whole[:LOGGED].decode("utf-8", "backslashreplace") + (" ..." if len(whole) > LOGGED else "")


def shown_as_hex(data, maxlen=LOGGED):
    whole = octets(data)
    return whole[:LOGGED].hex() + (" ..." if len(whole) > LOGGED else "")


fuzzing.asciiLogData = shown
fuzzing.binLogData = shown_as_hex


class Fuzzer(fuzzing.FuzzingClientProtocol):
    """Bytes on the network's side, text (one character a byte) on the cases' side."""

    def sendFrame(self, opcode, payload=b"", fin=True, rsv=0, mask=None, payload_len=None, chopsize=None, sync=False):
        payload = octets(payload)
        if payload_len is not None:
            # Repeated here, because autobahn divides with Python 2's `/`.
            payload = (payload * (payload_len // len(payload) + 1))[:payload_len]
        super().sendFrame(opcode, payload, fin, rsv, mask, None, chopsize, sync)

    def sendMessage(self, payload, *args, **options):
        super().sendMessage(octets(payload), *args, **options)

    def sendMessageFrameData(self, payload, *args, **options):
        return super().sendMessageFrameData(octets(payload), *args, **options)

    def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False):
        super().sendCloseFrame(code, octets(reasonUtf8) if reasonUtf8 is not None else None, isReply)

    def onMessage(self, msg, binary):
        # The compression cases read their data as bytes and compare bytes.
        super().onMessage(msg if hasattr(self.Case, "TESTDATA") else text(msg), binary)

    def onPing(self, payload):
        super().onPing(text(payload))

    def onPong(self, payload):
        super().onPong(text(payload))


class FuzzerFactory(fuzzing.FuzzingClientFactory):
    def buildProtocol(self, addr):
        peer = Fuzzer()
        peer.factory = self
        peer.caseAgent = self.agent
        peer.case = self.currentCaseIndex
        peer.Case = fuzzing.Cases[self.currentCaseIndex - 1]
        peer.runCase = peer.Case(peer)
        return peer

    def createReports(self):
        """Called by the suite when the last case has ended."""
        results = {case: agents["relay"] for case, agents in self.cases.items()}
        with open(self.spec["results"], "w", encoding="utf-8") as file:
            json.dump({"cases": self.specCases, "results": results}, file, default=repr)


def main(url, cases, results):
    # The suite connects when the factory is made, and stops the reactor itself.
    FuzzerFactory({"servers": [{"agent": "relay", "url": url}], "cases": json.loads(cases), "results": results})
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
