"""Tars as a stranger may have made them: plain members only, nothing decompressed, no header that fills memory."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, Any

from videodit.errors import InputError
from videodit.untrusted import KIB, MOST

ABOUT_THE_NEXT = {
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
}


class Member(tarfile.TarInfo):
    """A member whose headers are bounded. One with holes is known by `issparse`, and where they are is not read."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        """Read what follows a header: the method that tarfile lets subclasses replace."""
        if self.type in ABOUT_THE_NEXT and self.size > MOST.member:
            raise InputError(f"a header of more than {MOST.member // KIB} KiB")
        found = super()._proc_member(tar)
        if self.size < 0 or found.size < 0:  # reading would go round in circles
            raise InputError("a member of a size below 0")
        return found

    def _proc_gnusparse_00(self, next: tarfile.TarInfo, *_: Any) -> None:
        next.sparse = []

    _proc_gnusparse_01 = _proc_gnusparse_10 = _proc_gnusparse_00


def members(file: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """The files in an uncompressed tar with what they hold, None for one with holes: bytes may stand for gigabytes.

    Links, devices and folders are none. Any exception may come out of a broken tar.
    """
    with tarfile.open(fileobj=file, mode="r:", tarinfo=Member) as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # it would remember all of them
            if member.isreg():
                yield member, None if member.issparse() else tar.extractfile(member)
