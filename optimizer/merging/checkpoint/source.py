"""Lazy reading of a checkpoint: tensors are views of memory-mapped files, read from disk when they are touched."""

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from optimizer.merging.checkpoint.files import reading
from optimizer.merging.checkpoint.header import (
    TensorInfo,
    language_config,
    read_config,
    read_headers,
    refuse_quantised,
)
from optimizer.merging.layout import without_tied_head
from optimizer.merging.methods.base import matrix

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "U16": torch.uint16, "I16": torch.int16, "F16": torch.float16,
    "BF16": torch.bfloat16, "U32": torch.uint32, "I32": torch.int32, "F32": torch.float32, "U64": torch.uint64,
    "I64": torch.int64, "F64": torch.float64,
}  # fmt: skip
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class TensorSource(Protocol):
    """A tensor that is read by rows (see `matrix` in methods/base.py), each time anew."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def rows(self, begin: int, end: int) -> Tensor:
        """Rows `begin` … `end`, [end - begin, columns], on the CPU. Never write into it; any thread may call."""


class Reader(Protocol):
    """A checkpoint, or something that looks like one: a folder with a LoRA adapter on top, for one."""

    @property
    def folder(self) -> Path: ...

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def infos(self) -> Mapping[str, TensorInfo]: ...

    def tensor(self, name: str) -> TensorSource: ...


class StoredTensor:
    """A tensor that lies in a file as it is, at `place` = (map of the file, position) if anywhere."""

    def __init__(self, whole: Tensor, place: tuple[mmap.mmap, int] | None = None) -> None:
        self.shape = tuple(whole.shape)
        self.dtype = whole.dtype
        self._matrix = whole.reshape(matrix(self.shape))
        self._place = place

    def rows(self, begin: int, end: int) -> Tensor:
        return self._matrix[begin:end]

    def prefetch(self) -> None:
        """Have the disk read the tensor into the page cache, soon; reading page by page would wait for each."""
        if self._place is not None and self._matrix.numel():
            file, position = self._place
            aligned = position - position % mmap.PAGESIZE
            file.madvise(mmap.MADV_WILLNEED, aligned, position + self._matrix.nbytes - aligned)


class MappedFiles:
    """Safetensors files, mapped when a tensor of theirs is first read."""

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}

    def read(self, info: TensorInfo) -> Tensor:
        """The tensor, on the CPU, in the file's dtype. A view of the mapped file: never write to it.

        Raises:
            CheckpointError: the file can no longer be read.
        """
        dtype = DTYPES[info.dtype]
        if info.numel == 0:
            return torch.empty(info.shape, dtype=dtype)
        flat = torch.frombuffer(self._map(info.file), dtype=dtype, count=info.numel, offset=info.begin)
        return flat.view(info.shape)

    def tensor(self, info: TensorInfo) -> StoredTensor:
        """The tensor, to be read by rows."""
        return StoredTensor(self.read(info), (self._map(info.file), info.begin) if info.numel else None)

    def _map(self, file: Path) -> mmap.mmap:
        if file not in self._maps:
            with reading(file), file.open("rb") as stream:
                # private copy-on-write: torch warns about read-only memory, and a stray write never reaches the disk
                self._maps[file] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._maps[file]


class Checkpoint:
    """A checkpoint folder: `.config`, `.infos` (headers by tensor name), and `.read`.

    Opening reads and checks the headers only.

    Raises:
        CheckpointError: see `read_headers`, `read_config` and `refuse_quantised`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_config(folder)
        self.infos: dict[str, TensorInfo] = without_tied_head(read_headers(folder), language_config(self.config))
        refuse_quantised(folder, self.config, self.infos)
        self._files = MappedFiles()

    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU, in the file's dtype. A view of the mapped file: never write to it."""
        return self._files.read(self.infos[name])

    def tensor(self, name: str) -> TensorSource:
        """The tensor, to be read by rows."""
        return self._files.tensor(self.infos[name])
