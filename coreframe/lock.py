"""One writer a folder: a lock file that names its owner, and that nobody needs to clean up.

The system's own lock on the file (``flock``) decides, and it is gone with the process that held
it, however that ended. What the file says, process and machine, is for people, and for file systems
without such locks: there a lock counts while its process lives.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import platform
from pathlib import Path
from types import TracebackType

from coreframe.errors import CheckpointError
from coreframe.storage import alive, make_folder

NAME = ".lock"
_log = logging.getLogger(__name__)


class FolderLock:
    """Held while a run writes to a folder; raises CheckpointError if another one does."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._descriptor: int | None = None

    def __enter__(self) -> FolderLock:
        make_folder(self.path.parent)
        while self._descriptor is None:
            self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # first the name, so that nobody waits for it
                self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def _take(self) -> None:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise CheckpointError(self.path, None, f"cannot lock: {error.strerror}") from None
        try:
            locked = _locked(descriptor)
            owner = self._owner(descriptor)
            here = owner.get("host") == platform.node()
            process = owner.get("pid")
            lives = here and isinstance(process, int) and alive(process)
            if locked is False or (locked is None and owner and (lives or not here)):
                raise CheckpointError(
                    self.path.parent,
                    None,
                    f"process {process} on {owner.get('host')} writes here; choose another folder, "
                    f"or, if that run is over, delete {self.path}",
                )
            if not self._is_still_there(descriptor):
                return  # its owner has just left and taken the name along: once more
            if owner and not here:
                _log.warning(
                    "%s: taken over from process %s on %s", self.path.parent, process, owner["host"]
                )
            text = json.dumps({"pid": os.getpid(), "host": platform.node()})
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text.encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _is_still_there(self, descriptor: int) -> bool:
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            there = None
        own = os.fstat(descriptor)
        if there is None or (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino):
            os.close(descriptor)
            return False
        return True

    def _owner(self, descriptor: int) -> dict[str, object]:
        try:
            found = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
        except ValueError:
            found = {}
        return found if isinstance(found, dict) and "host" in found else {}


def _locked(descriptor: int) -> bool | None:
    """Return whether the lock is ours; None where the file system has no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True
