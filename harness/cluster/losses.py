"""Why a worker was lost, in one line of Ray's paragraphs, and of the system's errors on its machine."""

import errno
import re

_MEMORY = re.compile(
    r"Memory on the node \(IP: (?P<ip>[^,]+),.*?was (?:running was )?(?P<used>[\d.]+GB)[a-z ]*/ (?P<limit>[\d.]+GB)",
    re.DOTALL,
)
_DISK = (errno.ENOSPC, errno.EDQUOT)
_SKIPPED = ("class_name:", "actor_id:", "pid:", "namespace:", "ip:", "The actor died")


def takes_the_worker(cause: BaseException | None) -> bool:
    """Whether what a worker raised is its machine's: a full disk, no memory. Another worker may do the same work."""
    if isinstance(cause, OSError):
        return cause.errno in _DISK
    if isinstance(cause, MemoryError) or "can't allocate memory" in str(cause):
        return True
    return _kind(cause) in ("OutOfDiskError", "OutOfMemoryError", "ObjectStoreFullError")


def reason(error: BaseException, host: str = "") -> str:
    """One line. host: where the worker ran, if that is known."""
    kind, text = _kind(error), str(error)
    on = f" on {host}" if host else ""
    if isinstance(error, OSError) and error.errno in _DISK:
        return f"the disk{on} is full: {error.strerror}" + (f": {error.filename}" if error.filename else "")
    if kind == "OutOfDiskError":
        return f"the disk{on} is full: Ray's object store and the disk that it spills to have no room left"
    if kind == "ObjectStoreFullError":
        return f"Ray's object store{on} is full"
    if kind == "OutOfMemoryError":
        if found := _MEMORY.search(text):
            return (
                f"out of memory on {host or found['ip']}: {found['used']} of {found['limit']} were used, "
                "and Ray ended the worker"
            )
        return f"out of memory{on}: {last_words(error)}"
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return f"out of memory{on}" + (f": {last_words(error)}" if text else "")
    if "unexpectedly exits" in text:
        return f"its process{on} was killed or crashed; where memory ran out, the machine's own log says so"
    return last_words(error)


def last_words(error: BaseException) -> str:
    """What is worth a line of a long message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(_SKIPPED)] or lines or [type(error).__name__]
    text = kept[-1] if "Error" in kept[-1].split(":")[0] else kept[0]
    return text.partition(" Some common causes")[0].rpartition("Worker exit detail: ")[2][:300]


def _kind(error: BaseException | None) -> str:
    return type(error).__name__
