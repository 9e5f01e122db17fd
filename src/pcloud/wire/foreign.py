"""Functions of C libraries: the C half of `ctypes` with the few types that we need, under the same names.

The public module defines some fifty types and imports `types`, which costs each guest 0.2 MB. Owns: those types, and what
the public module does in Python to load a library and to make a type of functions.
"""

from __future__ import annotations

from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_PYTHONAPI,
    FUNCFLAG_USE_ERRNO,
    POINTER,
    Array,
    Structure,
    byref,
    dlopen,
    get_errno,
)

__all__ = ["POINTER", "Array", "Structure", "byref", "get_errno"]
__all__ += ["c_char", "c_char_p", "c_int", "c_size_t", "c_ssize_t", "c_ubyte", "c_uint", "c_void_p"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import (
        CDLL,
        c_char,
        c_char_p,
        c_int,
        c_size_t,
        c_ssize_t,
        c_ubyte,
        c_uint,
        c_void_p,
    )
    from ctypes import _CFunctionType as CFuncPtr
    from typing import Any
else:
    from _ctypes import CFuncPtr, _SimpleCData

    CDLL = object

    def _simple(name: str, code: str) -> type:
        """Return a type that holds one C value; `code` is that of the `struct` module, `z` and `P` are pointers."""
        return type(name, (_SimpleCData,), {"_type_": code, "__module__": __name__})

    c_int, c_uint = _simple("c_int", "i"), _simple("c_uint", "I")
    c_size_t, c_ssize_t = _simple("c_size_t", "L"), _simple("c_ssize_t", "l")
    c_char, c_ubyte = _simple("c_char", "c"), _simple("c_ubyte", "B")
    c_char_p, c_void_p = _simple("c_char_p", "z"), _simple("c_void_p", "P")


def function(result: type | None, *arguments: type) -> type[CFuncPtr]:
    """Return the type of functions with those types."""
    return type("Function", (CFuncPtr,), {"_argtypes_": arguments, "_restype_": result, "_flags_": FUNCFLAG_CDECL})


class Library(CDLL):
    """A shared library. Its functions are its attributes and return `int` unless told otherwise."""

    def __init__(self, name: str | None, *, errno: bool = False, keep_lock: bool = False) -> None:
        """Load it; None is what the process has loaded already. `errno`: `get_errno` tells that of the last call.
        `keep_lock`: calls keep the interpreter's lock, which is cheaper and right where none waits. OSError."""
        flags = FUNCFLAG_CDECL | (FUNCFLAG_PYTHONAPI if keep_lock else 0) | (FUNCFLAG_USE_ERRNO if errno else 0)
        self._handle = dlopen(name, 0)  # type: ignore[arg-type]
        self._function = type("Function", (CFuncPtr,), {"_restype_": c_int, "_flags_": flags})

    def __getattr__(self, name: str) -> Any:
        found = self._function((name, self))
        setattr(self, name, found)
        return found
