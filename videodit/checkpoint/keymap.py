"""Tables of tensor names: what another layout calls a weight, what we call it, and how its values are arranged.

A row's names are patterns: `{}` stands for a number and `*` for a last part such as `weight`. A table is read in both
directions, and a translation is complete or it is an error that names every key that does not fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from einops import rearrange
from torch import Tensor

from videodit.errors import InputError

Change = Callable[[Tensor], Tensor]
_OURS = " (ours)"
SHOWN = 5  # names of each kind in a message


@dataclass(frozen=True)
class Form:
    """How a tensor's values are arranged: from theirs to ours, and back."""

    ours: Change
    theirs: Change


SAME = Form(lambda x: x, lambda x: x)
FIRST_OF_ONE = Form(lambda x: x.squeeze(0), lambda x: x.unsqueeze(0))  # (1,...) <-> (...)


def trailing_ones(count: int) -> Form:
    """(C,1,1) with `count` ones <-> (C,)."""
    return Form(lambda x: x.reshape(-1), lambda x: x.reshape(-1, *[1] * count))


def kernel(patch: Sequence[int]) -> Form:
    """The kernel (N,C,pt,ph,pw) of a convolution that steps by its size <-> the matrix of a linear (N,C*pt*ph*pw)."""
    sizes = {"i": patch[0], "j": patch[1], "k": patch[2]}
    return Form(lambda x: x.flatten(1), lambda x: rearrange(x, "n (c i j k) -> n c i j k", **sizes))


def channels_last(channels: int) -> Form:
    """Rows (p*C,...) of a token's values with the channels last <-> rows (C*p,...) with the channels first."""
    return Form(
        lambda x: rearrange(x, "(p c) ... -> (c p) ...", c=channels),
        lambda x: rearrange(x, "(c p) ... -> (p c) ...", c=channels),
    )


@dataclass(frozen=True)
class Row:
    """Names of the same weights in two layouts. `optional`: a second name of weights that another row has as well."""

    theirs: str
    ours: str
    form: Form = SAME
    optional: bool = False


Table = Sequence[Row]
Source = tuple[str, Change]  # a name of theirs, and what makes its values ours


def match(names: Iterable[str], table: Table, wanted: Collection[str], *, source: object) -> dict[str, Source]:
    """Names of theirs -> for each name that we want, where it comes from.

    Raises InputError that lists, after `source`, the names that no row knows, that two rows know, that become one and
    the same name, and the wanted ones that are missing.
    """
    patterns = [(_pattern(row.theirs), row) for row in table]
    found: dict[str, Source] = {}
    origin: dict[str, str] = {}
    second: set[str] = set()
    wrong: dict[str, list[str]] = {"unknown": [], "matched by two rows": [], "the same tensor twice": []}
    for name in sorted(names):
        hits = [(row, hit) for pattern, row in patterns if (hit := pattern.fullmatch(name))]
        if len(hits) != 1:
            wrong["matched by two rows" if hits else "unknown"].append(name)
            continue
        row, hit = hits[0]
        ours = _fill(row.ours, hit.groups())
        if ours in found and not row.optional and ours not in second:
            wrong["the same tensor twice"].append(f"{origin[ours]} and {name}")
        elif ours not in found or not row.optional:
            found[ours], origin[ours] = (name, row.form.ours), name
            (second.add if row.optional else second.discard)(ours)
    wrong["unknown"] += [origin[name] for name in found if name not in wanted]
    wrong["missing"] = [_theirs(name, table) for name in sorted(set(wanted) - found.keys())]
    if problems := [f"{kind}: {_some(keys)}" for kind, keys in wrong.items() if keys]:
        raise InputError(f"{source}: {'; '.join(problems)}")
    return found


def translate(
    tensors: Mapping[str, Tensor], table: Table, wanted: Collection[str], *, source: object
) -> dict[str, Tensor]:
    """Tensors under their names -> the same under ours: exactly the wanted ones, or an InputError."""
    sources = match(tensors, table, wanted, source=source)
    return {name: change(tensors[theirs]) for name, (theirs, change) in sources.items()}


def reverse(table: Table) -> Table:
    """The table that leads from our names to theirs, without the second names."""
    return [
        replace(row, theirs=row.ours, ours=row.theirs, form=Form(row.form.theirs, row.form.ours))
        for row in table
        if not row.optional
    ]


def names_of(ours: Iterable[str], table: Table) -> dict[str, str]:
    """Their name -> our name, for all of ours; InputError for one that no row knows."""
    named = {_theirs(name, table): name for name in ours}
    if unknown := [name for name in named if name.endswith(_OURS)]:
        raise InputError(f"no row of the table knows {_some([named[name] for name in unknown])}")
    return named


def places(ours: Iterable[str], table: Table) -> dict[str, tuple[str, Form]]:
    """Their name -> our name and the form of its values, for those of ours that a row knows."""
    rows = [(_pattern(row.ours), row) for row in table if not row.optional]
    found = {}
    for name in ours:
        for pattern, row in rows:
            if hit := pattern.fullmatch(name):
                found[_fill(row.theirs, hit.groups())] = name, row.form
                break
    return found


def single(table: Table, name: str) -> Form:
    """How the values of the tensor with this name (in the table's left column) change."""
    return next(row.form for row in table if _pattern(row.theirs).fullmatch(name))


def prefixed(table: Table, theirs: str, ours: str = "") -> Table:
    """The table for names that stand below these prefixes."""
    return [replace(row, theirs=theirs + row.theirs, ours=ours + row.ours) for row in table]


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\{\}", r"(\d+)").replace(r"\*", r"([^.]+)"))


def _fill(name: str, values: Sequence[str]) -> str:
    rest = iter(values)
    return re.sub(r"\{\}|\*", lambda _: next(rest), name)


def _theirs(name: str, table: Table) -> str:
    """What their layout calls one of our names, for a message."""
    for row in table:
        if not row.optional and (hit := _pattern(row.ours).fullmatch(name)):
            return _fill(row.theirs, hit.groups())
    return name + _OURS


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
