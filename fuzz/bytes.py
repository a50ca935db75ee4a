"""Changes of bytes, whatever they mean: flipped bits, cuts, splices, repeated blocks, texts that break parsers."""

from __future__ import annotations

from random import Random

LONGEST = 4 * 2**20
"""Bytes of an input; longer ones test the limits of files, which have tests of their own."""
FRAGMENTS = (
    b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3\x28", b"\xed\xa0\x80", b"\r\n", b"\r", b"\x1b[2J", b"\x85",
    b"\xe2\x80\xa8", b"[" * 3000, b"{" * 3000, b'{"a":' * 3000, b"- " * 3000, b"9" * 10_000, b"-" + b"9" * 400,
    b"1e999999", b"NaN", b"Infinity", b"-Infinity", b"null", b"!!bool x", b"!!null x",
    b"!!python/object/apply:os.abort []",
    b"&a [*a]", b"a: &a [*a, *a]\n", b"<<: *a\n", b"? [a]\n: b\n", b"!!binary '='", b"!!timestamp 2001-99-99",
    b"2001-99-99", b"0x" + b"f" * 300, b"1:" * 200 + b"1", b"%YAML 9.9\n---\n", b"\n---\n", b"...\n", b"\t", b"'", b'"',
    b'"""', b",", b";" * 300, b"\\u0000", b"\\ud800", b"../", b"/../../../etc/passwd",
)  # fmt: skip
BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + k, 98 + k, b",".join([b"*%c" % (97 + k)] * 9)) for k in range(9)
)
"""The YAML that names ten thousand million values in 400 bytes."""


def changed(data: bytes, rng: Random) -> bytes:
    """Bytes with one to four changes."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = _change(data, rng)[:LONGEST]
    return data


def _change(data: bytes, rng: Random) -> bytes:
    if not data:
        return rng.randbytes(rng.choice((1, 8, 100)))
    at = rng.randrange(len(data))
    # Where a file says what it holds, at its beginning and end, a change means most.
    if rng.random() < 0.4:
        at = min(at, rng.randrange(64)) if rng.random() < 0.7 else max(0, len(data) - 1 - rng.randrange(64))
    until = min(len(data), at + rng.choice((1, 2, 4, 8, 64, 1000)))
    choice = rng.randrange(12)
    if choice < 3:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if choice == 3:
        return data[:at]
    if choice == 4:
        return data[:at] + rng.choice((b"\0", b"\xff")) * (until - at) + data[until:]
    if choice == 5:
        return data[:at] + data[at:until] * rng.choice((2, 3, 500)) + data[until:]
    if choice == 6:
        return data[:at] + data[until:]
    if choice == 7:
        other = rng.randrange(len(data))
        return data[:at] + data[other : other + until - at] + data[until:]
    if choice == 8:
        return data[:at] + rng.randbytes(until - at) + data[until:]
    if choice == 9:
        number = rng.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1))
        width = rng.choice((2, 4, 8))
        order = rng.choice(("little", "big"))
        return data[:at] + (number % 256**width).to_bytes(width, order) + data[at + width :]
    if choice == 10 and rng.random() < 0.1:
        return BOMB + data
    fragment = rng.choice(FRAGMENTS)
    return data[:at] + fragment + (data[at:] if rng.random() < 0.5 else data[at + len(fragment) :])
