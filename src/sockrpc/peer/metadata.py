"""Metadata: a few keys and values beside a payload, in a Hello or an Open (PROTOCOL.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sockrpc.errors import UsageError

__all__ = ["MAX_ENTRIES", "MAX_METADATA_BYTES", "NO_METADATA", "Metadata", "decode", "encode_metadata"]

MAX_METADATA_BYTES = 16 * 1024
MAX_ENTRIES = 64
MAX_KEY_BYTES = 255
MAX_VALUE_BYTES = 65_535
KEY_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")


class Metadata(Mapping[str, bytes]):
    """Values of bytes by their keys, which a peer has sent beside its payload."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, bytes]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> bytes:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        # Values may be secret, and a repr ends up in logs.
        return f"<Metadata of {', '.join(self._values) or 'nothing'}>"

    def text(self, key: str, default: str | None = None) -> str | None:
        """Return a value as text, or the default if the key is not there.

        Raises:
            UnicodeDecodeError: The value is not UTF-8.
        """
        value = self._values.get(key)
        return default if value is None else value.decode()


NO_METADATA = Metadata({})


def encode_metadata(values: Mapping[str, str | bytes]) -> bytes:
    """Return metadata in its form on the wire.

    Raises:
        UsageError: A key or a value cannot be sent, or together they are too large.
    """
    parts = []
    entries: Iterable[tuple[object, object]] = values.items()
    for key, value in entries:
        if not isinstance(key, str) or not key or not KEY_CHARACTERS.issuperset(key):
            raise UsageError(f"a key of metadata has characters of a-z 0-9 - _ . only, not {key!r}")
        if not isinstance(value, str | bytes):
            raise UsageError(f"a value of metadata is str or bytes, not {type(value).__name__}")
        name = key.encode()
        data = value.encode() if isinstance(value, str) else value
        if len(name) > MAX_KEY_BYTES or len(data) > MAX_VALUE_BYTES:
            raise UsageError(f"the key or the value of {key[:80]!r} is too long for metadata")
        parts += [bytes((len(name),)), name, len(data).to_bytes(2, "big"), data]
    encoded = b"".join(parts)
    if len(encoded) > MAX_METADATA_BYTES or len(values) > MAX_ENTRIES:
        raise UsageError(
            f"metadata has at most {MAX_METADATA_BYTES} bytes and {MAX_ENTRIES} entries, "
            f"not {len(encoded)} and {len(values)}"
        )
    return encoded


def decode(data: bytes) -> Metadata | None:
    """Parse metadata; None if it is malformed."""
    values: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        key = data[at + 1 : end].decode("latin-1")
        start = end + 2
        size = int.from_bytes(data[end:start], "big")
        at = start + size
        if (
            at > len(data)
            or start > len(data)
            or not key
            or not KEY_CHARACTERS.issuperset(key)
            or key in values
        ):
            return None
        values[key] = data[start:at]
    return Metadata(values)
