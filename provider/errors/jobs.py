"""Errors of files and jobs."""

from provider.errors.requests import RequestError


class ObjectNotFound(RequestError):
    """There is no file or job of that id, or it belongs to another key.

    Attributes:
        kind: `File` or `Batch`.
        object_id: as it was asked for.
    """

    def __init__(self, kind: str, object_id: str) -> None:
        super().__init__(f"No such {kind} object: {object_id[:100]}")
        self.kind, self.object_id = kind, object_id


class FileTooLarge(RequestError):
    """An uploaded file has more bytes than is allowed."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The file has more than {limit} bytes (jobs.max_file_bytes). Upload it in parts.")
        self.limit = limit


class StorageFull(RequestError):
    """There is no room for the bytes of files.

    Attributes:
        reason: what the disk says; empty where it is the quota that is used up.
        used: bytes of all files.
        limit: how many are allowed.
    """

    def __init__(self, *, reason: str = "", used: int = 0, limit: int = 0, more: int = 0) -> None:
        super().__init__(
            f"The disk for files cannot be written: {reason}. Delete files, or try again later."
            if reason
            else f"The files have {used} bytes and may have {limit} (jobs.max_bytes), which has no room for {more} "
            "more. Delete files that are no longer needed."
        )
        self.reason, self.used, self.limit = reason, used, limit

    @property
    def code(self) -> str:
        """For programs."""
        return "disk_full" if self.reason else "storage_limit"


class RangeNotSatisfiable(RequestError):
    """A range of a file begins behind its end.

    Attributes:
        size: of the file, in bytes.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"The range begins behind the end of the file, which has {size} bytes.")
        self.size = size


class JobsOff(RequestError):
    """No folder is configured for files and jobs."""

    def __init__(self) -> None:
        super().__init__(
            "Files and batches are switched off here. The operator can switch them on: "
            "`jobs: {folder: /a/local/folder}` in the configuration."
        )
