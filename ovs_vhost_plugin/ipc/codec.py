# SPDX-License-Identifier: Apache-2.0
"""Dataclasses as JSON objects and back: each field's type has the field's bounds.

    class Started:
        base: Annotated[int, Count(1 << 32)]

`decode` takes the declared fields, each of its type and within its bounds, and raises
`MessageError` for anything else: the peer may have been taken over by a guest. A peer of another
release may have other fields: a field that is not declared is not looked at, and a missing field
has its default, if it has one. A field's type is `bool`, another dataclass, one of these or None,
or `Annotated` with a `Codec` or with `Most`.
"""

from __future__ import annotations

import base64
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

M = TypeVar("M")

_TEXT_MAX = 240


class MessageError(ValueError):
    """An object is not a valid message; the text names the message and the field."""


class UnknownKindError(MessageError):
    """An object is a message of a kind that is not declared here, perhaps of another release."""


class Codec(ABC):
    """The JSON form of a type's values."""

    @abstractmethod
    def encode(self, value: Any) -> Any:
        """`value` in JSON."""

    @abstractmethod
    def decode(self, value: object) -> Any:
        """Check and convert a value from `encode` or from a peer. Raises MessageError."""


class _AsItIs(Codec):
    """A value that is the same in JSON."""

    def encode(self, value: Any) -> Any:
        return value


# -- the kinds of fields --------------------------------------------------------------------------


@dataclass(frozen=True)
class Count(_AsItIs):
    """A whole number from `least` to `most`."""

    most: int
    least: int = 0

    def decode(self, value: object) -> int:
        """Check the number; a bool, which Python counts as a number, is refused."""
        if not isinstance(value, int) or isinstance(value, bool):
            raise MessageError("no count")
        if not self.least <= value <= self.most:
            raise MessageError(f"no count from {self.least} to {self.most}")
        return value


@dataclass(frozen=True)
class Seconds(_AsItIs):
    """A time of CLOCK_MONOTONIC."""

    def decode(self, value: object) -> float:
        """Check the time; a time later than any clock's becomes 2**53."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise MessageError("no time")
        if not value >= 0:  # also a NaN
            raise MessageError("no time from 0 on")
        return float(min(value, 1 << 53))


@dataclass(frozen=True)
class Text(_AsItIs):
    """Text of at most `most` characters, which fully matches `pattern`, if given."""

    most: int
    pattern: str = ""

    def decode(self, value: object) -> str:
        """Check the text."""
        if not isinstance(value, str) or len(value) > self.most:
            raise MessageError(f"no text of at most {self.most} characters")
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise MessageError("not spelled as it has to be")
        return value


@dataclass(frozen=True)
class Line(_AsItIs):
    """Text for people, made fit to print by `printable`."""

    most: int = _TEXT_MAX

    def decode(self, value: object) -> str:
        """Check the text and make it printable."""
        if not isinstance(value, str):
            raise MessageError("no text")
        return printable(value, self.most)


class Hex(Codec):
    """Bytes in hexadecimal digits, of at most `most` bytes."""

    def __init__(self, most: int) -> None:
        self._most = most

    def encode(self, value: bytes) -> str:
        """The digits."""
        return value.hex()

    def decode(self, value: object) -> bytes:
        """Check and read the digits."""
        if not isinstance(value, str) or len(value) > 2 * self._most:
            raise MessageError(f"no digits of at most {self._most} bytes")
        try:
            return bytes.fromhex(value)
        except ValueError as error:
            raise MessageError("no hexadecimal digits") from error


class Base64(Codec):
    """Bytes in base64, as many as fit into a packet."""

    def encode(self, value: bytes) -> str:
        """The letters."""
        return base64.b64encode(value).decode()

    def decode(self, value: object) -> bytes:
        """Check and read the letters."""
        if not isinstance(value, str):
            raise MessageError("no base64")
        try:
            return base64.b64decode(value, validate=True)
        except ValueError as error:
            raise MessageError("no base64") from error


@dataclass(frozen=True)
class Most:
    """The most elements of a tuple, or entries of a dict with lines of 40 characters as keys."""

    count: int


class _Flag(_AsItIs):
    def decode(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise MessageError("neither true nor false")
        return value


@dataclass(frozen=True)
class _Maybe(Codec):
    inner: Codec

    def encode(self, value: Any) -> Any:
        return None if value is None else self.inner.encode(value)

    def decode(self, value: object) -> Any:
        return None if value is None else self.inner.decode(value)


@dataclass(frozen=True)
class _Tuple(Codec):
    element: Codec
    most: int

    def encode(self, value: tuple[Any, ...]) -> list[Any]:
        return [self.element.encode(one) for one in value]

    def decode(self, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > self.most:
            raise MessageError(f"no list of at most {self.most}")
        return tuple(self.element.decode(one) for one in value)


@dataclass(frozen=True)
class _Table(Codec):
    element: Codec
    most: int

    def encode(self, value: dict[str, Any]) -> dict[str, Any]:
        return {key: self.element.encode(one) for key, one in value.items()}

    def decode(self, value: object) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > self.most:
            raise MessageError(f"no table of at most {self.most}")
        return {printable(key, 40): self.element.decode(one) for key, one in value.items()}


@dataclass(frozen=True)
class _Struct(Codec):
    make: Callable[..., Any]
    fields: dict[str, Codec]
    needed: frozenset[str]

    def encode(self, value: Any) -> dict[str, Any]:
        return {name: codec.encode(getattr(value, name)) for name, codec in self.fields.items()}

    def decode(self, value: object) -> Any:
        if not isinstance(value, dict):
            raise MessageError("no object")
        if missing := self.needed - value.keys():
            raise MessageError(f"without its fields {', '.join(sorted(missing))}")
        return self.make(
            **{name: self._field(name, value[name]) for name in self.fields if name in value}
        )

    def _field(self, name: str, value: object) -> Any:
        try:
            return self.fields[name].decode(value)
        except MessageError as error:
            raise MessageError(f"{name}: {error}") from None


def codec_of(kind: Any) -> Codec:
    """The codec of a field's type or a dataclass. Raises TypeError if it has no bounds."""
    return _codec_of(kind)


@cache
def _codec_of(kind: Any) -> Codec:
    if get_origin(kind) is Annotated:
        inner, bounds, *_ = get_args(kind)
        if isinstance(bounds, Codec):
            return bounds
        if isinstance(bounds, Most):
            of = get_args(inner)
            if get_origin(inner) is tuple:
                return _Tuple(codec_of(of[0]), bounds.count)
            if get_origin(inner) is dict:
                return _Table(codec_of(of[1]), bounds.count)
    elif kind is bool:
        return _Flag()
    elif get_origin(kind) in (Union, UnionType) and get_args(kind)[1:] == (type(None),):
        return _Maybe(codec_of(get_args(kind)[0]))
    elif isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        codecs = {one.name: codec_of(hints[one.name]) for one in fields(kind)}
        return _Struct(kind, codecs, frozenset(_needed(kind)))
    raise TypeError(f"{kind}: declare its bounds")


def _needed(kind: Any) -> Iterator[str]:
    """The fields of a dataclass that have no default."""
    for one in fields(kind):
        if one.default is MISSING and one.default_factory is MISSING:
            yield one.name


# -- messages -------------------------------------------------------------------------------------


class Messages(Generic[M]):
    """The messages of one direction: JSON objects whose entry `key` names the message."""

    def __init__(self, key: str, kinds: Any) -> None:
        """`kinds`: the message's dataclass or the union of all, each with a name in `WIRE_NAME`."""
        self._key = key
        self._kinds: dict[str, type[M]] = {
            kind.WIRE_NAME: kind for kind in get_args(kinds) or (kinds,)
        }
        for kind in self._kinds.values():
            codec_of(kind)  # so that a field without bounds fails on import

    @property
    def kinds(self) -> tuple[type[M], ...]:
        """All messages."""
        return tuple(self._kinds.values())

    def encode(self, message: M) -> dict[str, Any]:
        """`message` as a JSON object."""
        name = message.WIRE_NAME  # type: ignore[attr-defined]
        return {self._key: name, **codec_of(type(message)).encode(message)}

    def kind_of(self, said: dict[str, Any]) -> type[M]:
        """The message that an object claims to be. Raises UnknownKindError, or MessageError."""
        name = said.get(self._key)
        if not isinstance(name, str):
            raise MessageError(f"no {self._key}")
        if name not in self._kinds:
            raise UnknownKindError(f"no such {self._key}: {printable(name, 40)}")
        return self._kinds[name]

    def decode(self, said: dict[str, Any]) -> M:
        """The message in an object. Raises MessageError."""
        kind = self.kind_of(said)
        values = {name: value for name, value in said.items() if name != self._key}
        try:
            message: M = codec_of(kind).decode(values)
        except MessageError as error:
            raise MessageError(f"{said[self._key]}: {error}") from None
        return message


def printable(text: str, limit: int = _TEXT_MAX) -> str:
    """`text` in printable ASCII, cut to `limit` characters: fit for logs, the database, terminals.

    '[' stays, so a table's printer must not take it for markup.
    """
    return "".join(c if " " <= c <= "~" else "?" for c in text[:limit])
