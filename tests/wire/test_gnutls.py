"""TLS sessions of both sides over a socket pair: keys of any size, certificates, wrong keys, ends."""

import socket

import pytest

from pcloud.wire import gnutls
from tests.certificates import authority, credentials


def sessions(client: gnutls.Credentials, server: gnutls.Credentials):
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    return (left, gnutls.Session(client, left.fileno())), (right, gnutls.Session(server, right.fileno()))


def shake(one: gnutls.Session, other: gnutls.Session) -> None:
    done = [False, False]
    for _ in range(100):
        for index, session in enumerate((one, other)):
            if not done[index]:
                done[index] = session.handshake() == ""
        if all(done):
            return
    raise AssertionError("the handshake did not end")


def receive(session: gnutls.Session, buffer) -> bytes:
    size = session.receive_into(buffer)
    return buffer.raw[:size]


@pytest.mark.parametrize("size", [1, 32, 512, 513, 4096, 60_000])
def test_keys_of_any_size(size):
    key = bytes(range(256)) * 235
    key = key[:size]
    (a, one), (b, other) = sessions(gnutls.Credentials.psk_client(key), gnutls.Credentials.psk_server(lambda: key))
    with a, b:
        shake(one, other)
        assert "TLS1.3" in one.description
        buffer = gnutls.buffer()
        assert one.receive_into(buffer) == 0
        assert one.send(b"hello") == 5
        assert other.send(b"there") == 5
        assert receive(other, buffer) == b"hello"
        assert receive(one, buffer) == b"there"
        one.say_bye()
        with pytest.raises(gnutls.TlsClosed) as ended:
            other.receive_into(buffer)
        assert ended.value.clean
        a.close()


def test_a_wrong_key_a_missing_key_and_a_wrong_identity_are_refused():
    for client, server in (
        (gnutls.Credentials.psk_client(b"one"), gnutls.Credentials.psk_server(lambda: b"other")),
        (gnutls.Credentials.psk_client(b"one"), gnutls.Credentials.psk_server(lambda: b"")),
        (gnutls.Credentials.psk_client(b"one", b"root"), gnutls.Credentials.psk_server(lambda: b"one")),
    ):
        (a, one), (b, other) = sessions(client, server)
        with a, b, pytest.raises(gnutls.TlsError):
            shake(one, other)


def test_keys_that_can_not_be():
    for key in (b"", b"x" * 65536):
        with pytest.raises(gnutls.TlsError):
            gnutls.Credentials.psk_client(key)


def test_an_end_without_notice_is_told_apart():
    (a, one), (b, other) = sessions(gnutls.Credentials.psk_client(b"k"), gnutls.Credentials.psk_server(lambda: b"k"))
    with a, b:
        shake(one, other)
        a.close()
        with pytest.raises(gnutls.TlsClosed) as ended:
            other.receive_into(gnutls.buffer())
        assert not ended.value.clean


def test_a_full_socket_takes_the_rest_later():
    (a, one), (b, other) = sessions(gnutls.Credentials.psk_client(b"k"), gnutls.Credentials.psk_server(lambda: b"k"))
    with a, b:
        shake(one, other)
        buffer = gnutls.buffer()
        data = bytes(range(256)) * 16_000
        left, got = data, bytearray()
        while len(got) < len(data):
            while left:
                sent = one.send(left)
                if not sent:
                    break
                left = left[sent:]
            while True:
                part = receive(other, buffer)
                if not part:
                    break
                got += part
        assert bytes(got) == data


def test_certificates_of_both_sides(tmp_path):
    ours, others = authority(tmp_path / "ours", "good"), authority(tmp_path / "others", "bad")

    def credentials_of(who: str, *, server: bool) -> gnutls.Credentials:
        return credentials(ours if who == "good" else others, who, ca=ours, server=server)

    (a, one), (b, other) = sessions(credentials_of("good", server=False), credentials_of("good", server=True))
    with a, b:
        shake(one, other)
        buffer = gnutls.buffer()
        one.send(b"x")
        assert receive(other, buffer) == b"x"
    for client, server in (("bad", "good"), ("good", "bad")):
        (a, one), (b, other) = sessions(credentials_of(client, server=False), credentials_of(server, server=True))
        with a, b, pytest.raises(gnutls.TlsError):
            shake(one, other)
            other.receive_into(gnutls.buffer())  # in TLS 1.3 the client is done before it was believed
            one.receive_into(gnutls.buffer())
    with pytest.raises(gnutls.TlsError):
        gnutls.Credentials.x509(server=True, ca=str(tmp_path / "none"), certificate="x", key="y")
