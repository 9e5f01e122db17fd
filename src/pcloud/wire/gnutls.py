"""TLS through libgnutls by ctypes: sessions over non-blocking sockets, with a pre-shared key or X.509.

Why not `ssl`: OpenSSL limits a pre-shared key to 512 bytes, and Debian's Pacemaker key has 4096.
Owns: the library's types and constants. Concurrency: a `Session` belongs to one thread at a time; `Credentials` may serve
any number of sessions and must outlive their handshakes (sessions keep a reference until then).
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ssize_t, c_ubyte, c_uint, c_void_p

LIBRARY = "libgnutls.so.30"
IDENTITY = b"lrmd"
"""The pre-shared key's identity in the Pacemaker Remote protocol."""

PRIORITY_PSK = b"NORMAL:+DHE-PSK:+PSK"
PRIORITY_X509 = b"NORMAL"

_SERVER, _CLIENT = 1, 2
_FLAGS = (1 << 3) | (1 << 6) | (1 << 10)  # non-blocking, no SIGPIPE, no session tickets
_CRD_CERTIFICATE, _CRD_PSK = 1, 4
_KEY_RAW = 0
_PEM = 1
_REQUIRE = 2
_SHUT_WR = 1
_E_AGAIN, _E_INTERRUPTED, _E_PREMATURE, _E_REHANDSHAKE = -28, -52, -110, -37
_E_FATAL_ALERT, _E_WARNING_ALERT = -12, -16
_MAX_RECORD = 16384


class _Datum(ctypes.Structure):
    _fields_ = [("data", POINTER(c_ubyte)), ("size", c_uint)]


class TlsError(Exception):
    """The TLS layer failed; `number` is GnuTLS's (negative), or 0 where the library did not fail by itself."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


class TlsClosed(TlsError):
    """The peer ended the connection; `clean` tells whether it said so (TLS close-notify)."""

    def __init__(self, *, clean: bool) -> None:
        super().__init__("the peer closed the connection" + ("" if clean else " without notice"))
        self.clean = clean


_KeyFunction = ctypes.CFUNCTYPE(c_int, c_void_p, c_char_p, POINTER(_Datum))


class _Library:
    """The functions that we use, typed; loaded at first use."""

    __slots__ = ("fast", "lib", "malloc", "priorities")

    def __init__(self) -> None:
        try:
            lib = ctypes.CDLL(LIBRARY)
            # Calls that never wait keep the interpreter's lock: cheaper, and none takes longer than some microseconds.
            fast = ctypes.PyDLL(LIBRARY)
        except OSError as error:
            raise TlsError(f"{LIBRARY} is not installed (Debian package libgnutls30): {error}") from error
        for name in ("gnutls_record_send", "gnutls_record_recv"):
            function = getattr(fast, name)
            function.argtypes = [c_void_p, c_void_p, c_size_t]
            function.restype = c_ssize_t
        fast.gnutls_record_check_pending.argtypes = [c_void_p]
        fast.gnutls_record_check_pending.restype = c_size_t
        lib.gnutls_init.argtypes = [POINTER(c_void_p), c_uint]
        lib.gnutls_deinit.argtypes = [c_void_p]
        lib.gnutls_handshake.argtypes = [c_void_p]
        lib.gnutls_bye.argtypes = [c_void_p, c_int]
        lib.gnutls_transport_set_int2.argtypes = [c_void_p, c_int, c_int]
        lib.gnutls_record_get_direction.argtypes = [c_void_p]
        lib.gnutls_credentials_set.argtypes = [c_void_p, c_int, c_void_p]
        lib.gnutls_credentials_clear.argtypes = [c_void_p]
        lib.gnutls_priority_init.argtypes = [POINTER(c_void_p), c_char_p, POINTER(c_char_p)]
        lib.gnutls_priority_set.argtypes = [c_void_p, c_void_p]
        lib.gnutls_strerror.argtypes = [c_int]
        lib.gnutls_strerror.restype = c_char_p
        lib.gnutls_session_get_desc.argtypes = [c_void_p]
        lib.gnutls_session_get_desc.restype = c_void_p
        lib.gnutls_session_set_verify_cert.argtypes = [c_void_p, c_char_p, c_uint]
        lib.gnutls_session_set_verify_cert.restype = None
        lib.gnutls_certificate_server_set_request.argtypes = [c_void_p, c_int]
        lib.gnutls_alert_get.argtypes = [c_void_p]
        for name in ("psk_allocate_client_credentials", "psk_allocate_server_credentials"):
            getattr(lib, "gnutls_" + name).argtypes = [POINTER(c_void_p)]
        lib.gnutls_psk_set_client_credentials.argtypes = [c_void_p, c_char_p, POINTER(_Datum), c_int]
        lib.gnutls_psk_set_server_credentials_function.argtypes = [c_void_p, _KeyFunction]
        lib.gnutls_psk_set_server_credentials_function.restype = None
        lib.gnutls_certificate_allocate_credentials.argtypes = [POINTER(c_void_p)]
        for name in ("psk_free_client_credentials", "psk_free_server_credentials", "certificate_free_credentials"):
            function = getattr(lib, "gnutls_" + name)
            function.argtypes = [c_void_p]
            function.restype = None
        for name in ("trust_file", "crl_file"):
            getattr(lib, "gnutls_certificate_set_x509_" + name).argtypes = [c_void_p, c_char_p, c_int]
        lib.gnutls_certificate_set_x509_key_file.argtypes = [c_void_p, c_char_p, c_char_p, c_int]
        self.lib, self.fast = lib, fast
        self.malloc = ctypes.CFUNCTYPE(c_void_p, c_size_t)(c_void_p.in_dll(lib, "gnutls_malloc").value or 0)
        self.priorities: dict[bytes, c_void_p] = {}

    def priority(self, text: bytes) -> c_void_p:
        """Return the parsed form of a priority string; one for all sessions."""
        priority = self.priorities.get(text)
        if priority is None:
            priority = c_void_p()
            check(self.lib.gnutls_priority_init(byref(priority), text, None), "priority string")
            self.priorities[text] = priority
        return priority


_loaded: list[_Library] = []


def library() -> _Library:
    """Return the library, loading it at the first call; TlsError when it is not installed."""
    if not _loaded:
        _loaded.append(_Library())
    return _loaded[0]


def check(code: int, what: str) -> int:
    """Return a non-negative result as it is; raise TlsError for a negative one."""
    if code < 0:
        text = library().lib.gnutls_strerror(code)
        raise TlsError(f"{what}: {text.decode('ascii', 'replace')}", code)
    return code


class Credentials:
    """What one side proves itself with. Make it with one of the class methods."""

    __slots__ = ("_free", "_keep", "handle", "kind", "priority", "server")

    def __init__(self, kind: int, allocate: str, free: str, *, server: bool, priority: bytes) -> None:
        lib = library().lib
        self.handle = c_void_p()
        self.kind = kind
        self.server = server
        self.priority = priority
        self._free = getattr(lib, free)
        self._keep: object = None
        check(getattr(lib, allocate)(byref(self.handle)), "credentials")

    def __del__(self) -> None:
        if self.handle:
            self._free(self.handle)
            self.handle = c_void_p()

    @classmethod
    def psk_client(cls, key: bytes, identity: bytes = IDENTITY) -> Credentials:
        """Return a client's credentials: a pre-shared key of 1 to 65535 bytes."""
        if not 0 < len(key) < 65536:
            raise TlsError(f"a pre-shared key of {len(key)} bytes is not usable")
        made = cls(
            _CRD_PSK,
            "gnutls_psk_allocate_client_credentials",
            "gnutls_psk_free_client_credentials",
            server=False,
            priority=PRIORITY_PSK,
        )
        data = (c_ubyte * len(key)).from_buffer_copy(key)
        datum = _Datum(data, len(key))
        code = library().lib.gnutls_psk_set_client_credentials(made.handle, identity, byref(datum), _KEY_RAW)
        ctypes.memset(data, 0, len(key))
        check(code, "pre-shared key")
        return made

    @classmethod
    def psk_server(cls, find_key: object, identity: bytes = IDENTITY) -> Credentials:
        """Return a server's credentials. `find_key()` returns the key's bytes, or b"" when there is none (yet); it is
        called for each handshake, so that a changed key counts at once."""
        if not callable(find_key):
            raise TypeError("find_key must be callable")
        made = cls(
            _CRD_PSK,
            "gnutls_psk_allocate_server_credentials",
            "gnutls_psk_free_server_credentials",
            server=True,
            priority=PRIORITY_PSK,
        )
        malloc = library().malloc

        def answer(_session: int, name: bytes, datum: ctypes._Pointer[_Datum]) -> int:
            key = find_key() if name == identity else b""
            if not key:
                return -1
            memory = malloc(len(key))
            if not memory:
                return -1
            ctypes.memmove(memory, key, len(key))
            datum.contents.data = ctypes.cast(memory, POINTER(c_ubyte))
            datum.contents.size = len(key)
            return 0

        function = _KeyFunction(answer)
        made._keep = function
        library().lib.gnutls_psk_set_server_credentials_function(made.handle, function)
        return made

    @classmethod
    def x509(cls, *, server: bool, ca: str, certificate: str, key: str, crl: str = "") -> Credentials:
        """Return X.509 credentials from PEM files, as newer Pacemaker takes them: both sides prove themselves."""
        made = cls(
            _CRD_CERTIFICATE,
            "gnutls_certificate_allocate_credentials",
            "gnutls_certificate_free_credentials",
            server=server,
            priority=PRIORITY_X509,
        )
        lib = library().lib
        if check(lib.gnutls_certificate_set_x509_trust_file(made.handle, ca.encode(), _PEM), ca) < 1:
            raise TlsError(f"{ca} holds no certificate")
        if crl:
            check(lib.gnutls_certificate_set_x509_crl_file(made.handle, crl.encode(), _PEM), crl)
        check(
            lib.gnutls_certificate_set_x509_key_file(made.handle, certificate.encode(), key.encode(), _PEM),
            certificate,
        )
        return made


class Session:
    """One TLS connection over a non-blocking socket that the caller owns.

    `handshake`, `send` and `receive` never wait: they say what to wait for. After an error the session is of no more use.
    """

    __slots__ = ("_credentials", "_half_sent", "_handle")

    def __init__(self, credentials: Credentials, fileno: int) -> None:
        lib = library().lib
        self._handle = c_void_p()
        self._credentials: Credentials | None = credentials
        self._half_sent = False
        role = _SERVER if credentials.server else _CLIENT
        check(lib.gnutls_init(byref(self._handle), role | _FLAGS), "session")
        check(lib.gnutls_priority_set(self._handle, library().priority(credentials.priority)), "priority")
        check(lib.gnutls_credentials_set(self._handle, credentials.kind, credentials.handle), "credentials")
        if credentials.kind == _CRD_CERTIFICATE:
            if credentials.server:
                lib.gnutls_certificate_server_set_request(self._handle, _REQUIRE)
            lib.gnutls_session_set_verify_cert(self._handle, None, 0)
        lib.gnutls_transport_set_int2(self._handle, fileno, fileno)

    def __del__(self) -> None:
        self.free()

    def free(self) -> None:
        """Release the session's memory; may be called twice. Does not close the socket."""
        if self._handle:
            library().lib.gnutls_deinit(self._handle)
            self._handle = c_void_p()
        self._credentials = None

    def handshake(self) -> str:
        """Go on with the handshake. Return "" when it is complete, else "read" or "write": what to wait for."""
        lib = library().lib
        while True:
            code = lib.gnutls_handshake(self._handle)
            if code == 0:
                if self._credentials is not None and self._credentials.kind == _CRD_PSK:
                    # The key is used in the handshake only; letting go of it saves its size in every connection.
                    lib.gnutls_credentials_clear(self._handle)
                self._credentials = None
                return ""
            if code in (_E_INTERRUPTED, _E_WARNING_ALERT):
                continue
            if code == _E_AGAIN:
                return "write" if lib.gnutls_record_get_direction(self._handle) else "read"
            if code == _E_PREMATURE:
                raise TlsClosed(clean=False)
            check(code, "TLS handshake")

    def send(self, data: bytes) -> int:
        """Send the beginning of `data` as one TLS record; return how many bytes were taken, 0 when the socket is full.

        After 0 call again with the *same* data once the socket is writable.
        """
        fast = library().fast
        while True:
            if self._half_sent:
                code = fast.gnutls_record_send(self._handle, None, 0)
            else:
                code = fast.gnutls_record_send(self._handle, data, min(len(data), _MAX_RECORD))
            if code >= 0:
                self._half_sent = False
                return int(code)
            self._half_sent = True
            if code == _E_AGAIN:
                return 0
            if code != _E_INTERRUPTED:
                self._half_sent = False
                check(code, "sending")

    def receive_into(self, buffer: ctypes.Array[ctypes.c_char]) -> int:
        """Receive one record's data (or its rest) into `buffer`; return its length, 0 when there is none for now.

        Raises TlsClosed at the end of the connection.
        """
        fast = library().fast
        while True:
            code = fast.gnutls_record_recv(self._handle, buffer, len(buffer))
            if code > 0:
                return int(code)
            if code == _E_AGAIN:
                return 0
            if code == 0:
                raise TlsClosed(clean=True)
            if code == _E_PREMATURE:
                raise TlsClosed(clean=False)
            if code == _E_REHANDSHAKE:
                raise TlsError("the peer asked for a new handshake", code)
            if code not in (_E_INTERRUPTED, _E_WARNING_ALERT):
                check(int(code), "receiving")

    @property
    def pending(self) -> bool:
        """Whether received data waits inside the session, which the socket's readiness does not tell."""
        return bool(library().fast.gnutls_record_check_pending(self._handle))

    def say_bye(self) -> None:
        """Tell the peer that we close (best effort, never waits)."""
        if self._handle:
            library().lib.gnutls_bye(self._handle, _SHUT_WR)

    @property
    def description(self) -> str:
        """What was negotiated, such as `(TLS1.3)-(PSK)-(AES-256-GCM)`."""
        lib = library().lib
        pointer = lib.gnutls_session_get_desc(self._handle)
        if not pointer:
            return ""
        text = ctypes.cast(pointer, c_char_p).value or b""
        free = ctypes.CFUNCTYPE(None, c_void_p)(c_void_p.in_dll(lib, "gnutls_free").value or 0)
        free(pointer)
        return text.decode("ascii", "replace")


def buffer(size: int = _MAX_RECORD) -> ctypes.Array[ctypes.c_char]:
    """Return a buffer to receive into; one serves all the sessions of a loop."""
    return ctypes.create_string_buffer(size)
