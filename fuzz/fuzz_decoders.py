"""Coverage-guided fuzzing of the decoders: whatever comes in, only the errors of the tree come out.

    pip install atheris && python fuzz/fuzz_decoders.py -runs=1000000

The input's first byte chooses framing, coding and protocol; the rest is what the connection gives, cut where a
byte says so. Beyond the errors, it is checked that any cut gives the text, and the raw answer, that the whole input
gives.
"""

from __future__ import annotations

import sys
from typing import Any

import atheris

with atheris.instrument_imports():
    from chatanywhere._accumulator import Accumulator
    from chatanywhere._call import Reading
    from chatanywhere._errors import ChatAnywhereError
    from chatanywhere._http.body import Body
    from chatanywhere._protocols import find_protocol

LIMIT = 1 << 20
FRAMINGS = ({}, {"transfer-encoding": "chunked"}, {"content-length": "40"})
CODINGS = ({}, {}, {"content-encoding": "gzip"}, {"content-encoding": "deflate"})
DECODERS = (
    ("web", "text/plain"),
    ("web", "text/html"),
    ("openai", "text/event-stream"),
    ("openai", "application/json"),
)


def read(choice: int, pieces: list[bytes]) -> tuple[Any, ...]:
    """Read an answer that comes in these pieces; return what it is, its raw form, and whether it is whole."""
    headers = {**FRAMINGS[choice % 3], **CODINGS[choice // 3 % 4]}
    protocol, content_type = DECODERS[choice // 12 % 4]
    reading = Reading(Body(headers, limit=LIMIT), find_protocol(protocol).chat.decoder(content_type))
    answer = Accumulator()
    for piece in [*pieces, b""]:
        for event in reading.feed(piece):
            if event is not None:
                answer.add(event)
        if reading.complete or reading.error:
            break
    assert reading.complete or isinstance(reading.error, ChatAnywhereError)
    assert len(answer.text) <= LIMIT
    completion = answer.completion(None, reading.chunks)
    return completion, completion.raw, reading.complete


def test_one_input(data: bytes) -> None:
    """Read the input whole and cut in two."""
    if len(data) < 3:
        return
    choice, wire = data[0], data[2:]
    cut = data[1] % len(wire)
    whole = read(choice, [wire])
    parts = read(choice, [piece for piece in (wire[:cut], wire[cut:]) if piece])
    assert whole == parts, (whole, parts)


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
