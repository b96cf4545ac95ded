"""ONNX files by hand, in the encoding of protocol buffers: also those that no library would write."""

from __future__ import annotations

import struct


def varint(value: int) -> bytes:
    found = []
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value & (1 << 64) - 1)


def held(field: int, content: bytes | str) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(content)) + content


def entry(key: str, value: str) -> bytes:
    return held(1, key) + held(2, value)


def tensor(
    name: str, values: tuple[float, ...] = (1.0, 2.0), *, dims: tuple[int, ...] | None = None, external: dict | None = None
) -> bytes:
    shape = b"".join(number(1, size) for size in (dims if dims is not None else (len(values),)))
    content = shape + number(2, 1) + held(8, name)
    if external is None:
        return content + held(9, struct.pack(f"<{len(values)}f", *values))
    return content + b"".join(held(13, entry(*pair)) for pair in external.items()) + number(14, 1)


def value(name: str) -> bytes:
    return held(1, name) + held(2, held(1, number(1, 1) + held(2, held(1, number(1, 2)))))


def node(operator: str, inputs: tuple[str, ...], outputs: tuple[str, ...], *attributes: bytes, domain: str = "") -> bytes:
    ends = b"".join(held(1, name) for name in inputs) + b"".join(held(2, name) for name in outputs)
    return ends + held(4, operator) + b"".join(held(5, one) for one in attributes) + (held(7, domain) if domain else b"")


def graph(*nodes: bytes, initializers: tuple[bytes, ...] = (), more: bytes = b"") -> bytes:
    content = b"".join(held(1, one) for one in nodes) + held(2, "main") + b"".join(held(5, one) for one in initializers)
    return content + held(11, value("x")) + held(12, value("y")) + more


def model(content: bytes, *, opset: int = 20, domain: str = "", more: bytes = b"") -> bytes:
    sets = held(8, (held(1, domain) if domain else b"") + number(2, opset))
    return number(1, 10) + held(7, content) + sets + more


def adding(*initializers: bytes, **given: object) -> bytes:
    """A network that adds the tensor `w` to its input."""
    return model(graph(node("Add", ("x", "w"), ("y",)), initializers=initializers or (tensor("w"),)), **given)  # type: ignore[arg-type]
