"""Frames: what is written is read, however it is cut; what is wrong is refused with its code and bounded memory."""

import bz2
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcloud.wire.frame import HEADER, MAGIC, MAX_FRAME, Decoder, FrameError, encode

payloads = st.binary(max_size=200).map(lambda data: data.replace(b"\0", b"x"))


def compressed(payload: bytes, announced: int | None = None) -> bytes:
    body = bz2.compress(payload + b"\0")
    plain = len(payload) + 1 if announced is None else announced
    return HEADER.pack(MAGIC, 1, 7, 0, HEADER.size + len(body), HEADER.size, len(body), plain) + body


@given(st.lists(st.tuples(payloads, st.booleans()), max_size=6), st.data())
def test_any_cut_of_the_stream_gives_the_same_payloads(frames, data):
    stream = b"".join(compressed(p) if packed else b"".join(encode(p)) for p, packed in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    decoder, got, before = Decoder(), [], 0
    for cut in [*cuts, len(stream)]:
        got += decoder.feed(stream[before:cut])
        before = cut
    assert got == [payload for payload, _ in frames]
    assert not decoder.incomplete


@given(st.binary(max_size=400))
def test_garbage_is_refused_or_waits_but_never_breaks(data):
    decoder = Decoder()
    try:
        for at in range(0, len(data), 7):
            decoder.feed(data[at : at + 7])
    except FrameError as error:
        assert error.code in ("BAD_MAGIC", "BAD_HEADER", "TOO_LARGE", "BAD_PAYLOAD")


@given(st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4), st.binary(max_size=100))
def test_headers_with_any_sizes_are_checked(sizes, rest):
    decoder = Decoder(limit=1000)
    try:
        for payload in decoder.feed(struct.pack("=IIQQIIII", MAGIC, 1, 0, 0, *sizes) + rest):
            assert len(payload) < 1000
    except FrameError as error:
        assert error.code in ("BAD_MAGIC", "BAD_HEADER", "TOO_LARGE", "BAD_PAYLOAD")


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ((0xDEADBEEF, 1, 0, 0, 45, 40, 0, 5), "BAD_MAGIC"),
        ((MAGIC, 0, 0, 0, 45, 40, 0, 5), "BAD_HEADER"),
        ((MAGIC, 1, 0, 0, 45, 44, 0, 5), "BAD_HEADER"),
        ((MAGIC, 1, 0, 0, 46, 40, 0, 5), "BAD_HEADER"),
        ((MAGIC, 1, 0, 0, 40, 40, 0, 0), "BAD_HEADER"),
        ((MAGIC, 1, 0, 0, 45, 40, 5, 0), "BAD_HEADER"),
        ((MAGIC, 1, 0, 0, 0xFFFFFFFF, 40, 0, 0xFFFFFFFF - 40), "TOO_LARGE"),
        ((MAGIC, 1, 0, 0, 140, 40, 100, 0xFFFFFF00), "TOO_LARGE"),
    ],
)
def test_bad_headers(header, code):
    with pytest.raises(FrameError) as raised:
        Decoder().feed(struct.pack("=IIQQIIII", *header))
    assert raised.value.code == code


def test_an_announced_size_costs_no_memory():
    header = struct.pack("=IIQQIIII", MAGIC, 1, 0, 0, MAX_FRAME, 40, 0, MAX_FRAME - 40)
    tracemalloc.start()
    decoders = [Decoder() for _ in range(50)]
    for decoder in decoders:
        decoder.feed(header + b"x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000


def test_a_compressed_bomb_makes_no_more_than_it_announced():
    bomb = bz2.compress(b"x" * 50_000_000)
    header = HEADER.pack(MAGIC, 1, 0, 0, HEADER.size + len(bomb), HEADER.size, len(bomb), 100)
    tracemalloc.start()
    with pytest.raises(FrameError) as raised:
        Decoder().feed(header + bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert raised.value.code == "BAD_PAYLOAD"
    assert peak < 10_000_000


@pytest.mark.parametrize("frame", [compressed(b"abc", 3), compressed(b"abc", 5), compressed(b"abc")[:-3] + b"xyz"])
def test_damaged_compressed_payloads(frame):
    with pytest.raises(FrameError) as raised:
        Decoder().feed(frame)
    assert raised.value.code == "BAD_PAYLOAD"


def test_a_payload_is_one_text():
    for body in (b"abc", b"a\0c\0"):
        header = HEADER.pack(MAGIC, 1, 0, 0, HEADER.size + len(body), HEADER.size, 0, len(body))
        with pytest.raises(FrameError) as raised:
            Decoder().feed(header + body)
        assert raised.value.code == "BAD_PAYLOAD"


def test_a_peer_of_the_other_endianness_is_understood():
    header = struct.pack(">IIQQIIII" if struct.pack("=H", 1)[0] else "<IIQQIIII", MAGIC, 1, 0, 0, 44, 40, 0, 4)
    assert Decoder().feed(header + b"<a>\0") == [b"<a>"]


def test_an_idle_decoder_holds_nothing():
    decoder = Decoder()
    decoder.feed(b"".join(encode(b"<a/>")))
    assert decoder._buffer is None


def test_what_is_too_large_is_not_sent():
    with pytest.raises(FrameError):
        encode(b"x" * MAX_FRAME)
