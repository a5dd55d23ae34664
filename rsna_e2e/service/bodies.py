"""Bodies of requests straight to files, as they come: one file, or the parts of a form. Nothing of them is held."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header

from rsna_e2e.service.problems import ProblemError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_PIECE_BYTES = 1 << 20
FORMS = (b"multipart/form-data", b"multipart/related")


async def save_body(stream: AsyncIterator[bytes], content_type: str, folder: Path, *, most_files: int) -> list[Path]:
    """Write a body into an empty folder, a form's parts each into a file of its own, under names that are ours.

    Parts without a byte, as browsers send them for fields left empty, are left out. Raises ProblemError for a form that
    cannot be read or has too many parts.
    """
    kind, options = parse_options_header(content_type)
    if kind not in FORMS:
        path = folder / secrets.token_hex(8)
        with path.open("xb") as file:
            async for piece in _pieces(stream):
                await asyncio.to_thread(file.write, piece)
        return [path] if path.stat().st_size else []
    parts = _Parts(folder, most_files)
    try:
        parser = MultipartParser(options.get(b"boundary", b""), parts.callbacks)
        async for piece in _pieces(stream):
            await asyncio.to_thread(parser.write, piece)
        parser.finalize()
    except MultipartParseError:
        raise ProblemError(400, "bad_form", detail="The form cannot be read") from None
    finally:
        parts.close()
    if not parts.is_whole:
        raise ProblemError(400, "bad_form", detail="The form ends before its last boundary")
    return [path for path in parts.paths if path.stat().st_size]


async def _pieces(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield a body in pieces that are worth a thread's while: a disk that is slow is waited for outside of the loop."""
    piece = bytearray()
    async for chunk in stream:
        piece += chunk
        if len(piece) >= _PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


class _Parts:
    """Files of a form's parts; each opens when its part begins."""

    def __init__(self, folder: Path, most_files: int) -> None:
        self.paths: list[Path] = []
        self.is_whole = False
        self._folder, self._most_files = folder, most_files
        self._file: BinaryIO | None = None
        self.callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin,
            "on_part_data": self._write,
            "on_part_end": self.close,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.paths) >= self._most_files:
            raise ProblemError(413, "too_many_files", detail=f"At most {self._most_files} files are taken at once")
        self.paths.append(self._folder / secrets.token_hex(8))
        self._file = self.paths[-1].open("xb")

    def _write(self, data: bytes, start: int, end: int) -> None:
        assert self._file is not None, "the parser begins parts before it gives their data"
        self._file.write(data[start:end])

    def close(self) -> None:
        """Close the file of the part that came last."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _end(self) -> None:
        self.is_whole = True
