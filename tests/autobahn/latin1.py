"""Stands in, inside the converted suite, for the modules that in Python 2 took its byte strings.

After the conversion a byte string is text whose characters are the byte values. Here that text
meets code that wants bytes.
"""

import binascii

from autobahn.websocket import utf8validator


def octets(data):
    return data.encode("latin-1") if isinstance(data, str) else data


def text(data):
    return data.decode("latin-1") if isinstance(data, bytes) else data


def b2a_hex(data):
    return binascii.b2a_hex(octets(data)).decode("ascii")


class Utf8Validator(utf8validator.Utf8Validator):
    def validate(self, data):
        return super().validate(octets(data))
