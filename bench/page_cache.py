"""Files out of memory, so that what is said to be read from disk is."""

import ctypes
import mmap
import os
from pathlib import Path


def drop(path: Path) -> None:
    """Let the kernel forget the file's pages. What others have mapped, and a file system in memory, it keeps."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # pages that are not written yet would stay
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def resident_share(path: Path) -> float:
    """The part of a file's pages that is in memory, by mincore(2); 0 to 1. Looking brings nothing in.

    Raises OSError where the kernel does not say.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        view = (ctypes.c_char * len(mapped)).from_buffer(mapped)
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(len(mapped)), pages)
        del view  # the map cannot be closed while it is looked at
    if failed:
        raise OSError(ctypes.get_errno(), "mincore", str(path))
    return sum(page & 1 for page in pages) / len(pages)
