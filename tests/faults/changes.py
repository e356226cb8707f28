"""Changes of a file by chance: of its bytes, as JSON, as JSON lines, as safetensors. Hypothesis draws them."""

from __future__ import annotations

import json
import struct
from typing import Any

from hypothesis import strategies as st

WEIRD = (
    *(None, True, False, 0, -1, 1, 2, 7, 2**31, 2**63, -(2**63), 10**30, 10**400, 1e308, -1e308, 0.5, 1e-320),
    *(float("nan"), float("inf"), "", "x", "\x1b[31mred\x07", "a\nb", "\ud800", "\u202e", "${oc.env:HOME}", "../../x"),
    *("/etc/passwd", "http://127.0.0.1:9/x", "nan", [], [0], [[]], [-1, -1], ["x"], {}, {"x": 1}, "9" * 5000, [1] * 50),
)
BROKEN = (
    *(b"", b"null", b"[]", b"3", b'"x"', b"NaN", b"\0" * 100, b"1" * 100_000, b"[" * 200_000, b"\xff\xfe", b"{"),
    *(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b'{"a": 1, "a": 2}', b"\xef\xbb\xbf{}"),
)
DTYPES = ("F16", "BF16", "F64", "I64", "I32", "U32", "I8", "BOOL", "F8_E4M3", "F8_E8M0", "F4", "C64", "X9", 5, None)
SHAPES = ([], [-1], [2**63], [2**62, 4], [0], [1] * 70, "x", None, [1.5])
JSON = ("videodit", "lora_adapter_metadata")  # what a header may have as text: ours, diffusers'
OFFSETS = ([-1, 4], [0, 2**63], [4, 0], [0, 0], [0], "x", None, [2**64 - 1, 3])


def changed_bytes(data: st.DataObject, raw: bytes) -> bytes:
    """The bytes with a part cut off, flipped, put in or taken out."""
    place = data.draw(st.integers(0, max(0, len(raw) - 1)))
    how = data.draw(st.sampled_from(("cut", "flip", "put", "take")))
    if how == "cut":
        return raw[:place]
    if how == "flip":
        return raw[:place] + bytes([raw[place] ^ data.draw(st.integers(1, 255))]) + raw[place + 1 :] if raw else raw
    if how == "put":
        new = data.draw(st.sampled_from((b"\xff" * 8, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80")))
        return raw[:place] + new + raw[place:]
    return raw[:place] + raw[place + data.draw(st.integers(1, 1000)) :]


def changed_value(data: st.DataObject, value: Any) -> Any:
    """A JSON value with one of its parts exchanged, left out or added."""
    value = json.loads(json.dumps(value))
    places = list(_places(value))
    path = data.draw(st.sampled_from(places))
    if not path:
        return data.draw(st.sampled_from(WEIRD))
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    how = data.draw(st.sampled_from(("exchange", "exchange", "exchange", "leave out", "add")))
    if how == "leave out":
        del inside[path[-1]]
    elif how == "add" and isinstance(inside, dict):
        inside[data.draw(st.sampled_from(("x", "base", "_target_", "\x1b[2J")))] = data.draw(st.sampled_from(WEIRD))
    else:
        inside[path[-1]] = data.draw(st.sampled_from(WEIRD))
    return value


def changed_json(data: st.DataObject, raw: bytes) -> bytes:
    """JSON changed as a value, or as text."""
    how = data.draw(st.integers(0, 9))
    if how == 0:
        return data.draw(st.sampled_from(BROKEN))
    if how == 1:
        return changed_bytes(data, raw)
    value = json.loads(raw)
    for _ in range(data.draw(st.sampled_from((1, 1, 1, 3)))):
        value = changed_value(data, value)
    return json.dumps(value).encode()


def changed_line(data: st.DataObject, raw: bytes) -> bytes:
    """JSON lines, of which one is changed."""
    lines = raw.splitlines()
    place = data.draw(st.integers(0, len(lines) - 1))
    lines[place] = changed_json(data, lines[place])
    return b"\n".join(lines) + b"\n"


def changed_safetensors(data: st.DataObject, raw: bytes) -> bytes:
    """A safetensors file, changed in its header, in the JSON within it, or in its bytes."""
    length = struct.unpack("<Q", raw[:8])[0]
    head, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    how = data.draw(st.sampled_from(("bytes", "length", "row", "row", "names", "ours", "ours", "metadata")))
    if how == "bytes":
        return changed_bytes(data, raw)
    if how == "length":
        lengths = (0, 1, length - 1, length + 1, length + len(body) + 1, 100_000_001, 2**31, 2**63, 2**64 - 1)
        return struct.pack("<Q", data.draw(st.sampled_from(lengths))) + raw[8:]
    names = sorted(name for name in head if name != "__metadata__")
    row = data.draw(st.sampled_from(names))
    if how == "row":
        key, values = data.draw(st.sampled_from((("dtype", DTYPES), ("shape", SHAPES), ("data_offsets", OFFSETS))))
        head[row][key] = data.draw(st.sampled_from(values))
    elif how == "names":
        other = data.draw(st.sampled_from(("x\ny", "\x1b[31mx", "a" * 5000, "", "blocks. .x", "../x")))
        head[other] = head.pop(row) if data.draw(st.booleans()) else data.draw(st.sampled_from(WEIRD))
    elif how == "ours" and (texts := [key for key in JSON if key in head.get("__metadata__", {})]):
        text = changed_json(data, head["__metadata__"][texts[0]].encode())
        head["__metadata__"][texts[0]] = text.decode("utf-8", "replace")
    else:
        head["__metadata__"] = data.draw(st.sampled_from((*WEIRD, {"videodit": "null"}, {"videodit": "[" * 10_000})))
    packed = json.dumps(head).encode()
    return struct.pack("<Q", len(packed)) + packed + body


def _places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*path, key))
    elif isinstance(value, list):
        for place in range(min(len(value), 8)):
            yield from _places(value[place], (*path, place))
