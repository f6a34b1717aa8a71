"""A base with a LoRA adapter on top, read as if it were one checkpoint: W + scale·B·A, row by row, never whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optimizer.merging.checkpoint.adapter import Adapter, Patch
from optimizer.merging.checkpoint.header import TensorInfo, language_config
from optimizer.merging.checkpoint.source import DTYPES, Checkpoint, MappedFiles, Reader, StoredTensor, TensorSource
from optimizer.merging.layout import without_tied_head
from optimizer.merging.methods.base import arithmetic_dtype, matrix

#: numbers that are made at a time. Products of matrices may round differently for another number of rows, so they
#: are always made of the same rows, whichever rows are asked for
TILE = 1 << 15


def open_folders(base: Path, adapter: Path | None) -> Reader:
    """The checkpoint in `base`, with the adapter in the folder `adapter` on top.

    Raises:
        CheckpointError: see `Checkpoint`, `Adapter.read` and `Adapter.apply`.
    """
    checkpoint = Checkpoint(base)
    return checkpoint if adapter is None else AdaptedCheckpoint(checkpoint, Adapter.read(adapter))


class AdaptedCheckpoint:
    """A checkpoint with an adapter applied, tensor by tensor, as it is read; rounded once, to the base's dtypes.

    `folder` is where the tokenizer's files are: the adapter's folder if it brings a tokenizer, else the base's.

    Raises:
        CheckpointError: the adapter does not fit.
    """

    def __init__(self, base: Checkpoint, adapter: Adapter) -> None:
        self._base = base
        self._files = MappedFiles()
        config, infos, self._patches = adapter.apply(base.infos, base.config)
        self.folder = adapter.tokenizer_folder(base.folder)
        self.config: Mapping[str, Any] = config
        self.infos: dict[str, TensorInfo] = without_tied_head(infos, language_config(config))

    def tensor(self, name: str) -> TensorSource:
        """The tensor, to be read by rows."""
        own = self._base.tensor(name)
        patch = self._patches.get(name)
        return own if patch is None else AdaptedTensor(own, self.infos[name], patch, self._files)


class AdaptedTensor:
    """A tensor W of a base with its patch applied."""

    def __init__(self, own: TensorSource, info: TensorInfo, patch: Patch, files: MappedFiles) -> None:
        self.shape = info.shape
        self.dtype = DTYPES[info.dtype]
        self._own = own
        self._patch = patch
        rows, self._columns = matrix(self.shape)
        self._tile = max(1, TILE // max(1, self._columns))
        self._rows = rows
        self._whole, self._down, self._up, self._magnitude, self._shift = (
            None if part is None else files.read(part)
            for part in (patch.whole, patch.down, patch.up, patch.magnitude, patch.shift)
        )

    def rows(self, begin: int, end: int) -> Tensor:
        """Rows `begin` … `end` of the result."""
        out = torch.empty(end - begin, self._columns, dtype=self.dtype)
        for first in range(begin - begin % self._tile, end, self._tile):
            last = min(first + self._tile, self._rows)
            low, high = max(first, begin), min(last, end)
            out[low - begin : high - begin] = self._made(first, last)[low - first : high - first]
        return out

    def prefetch(self) -> None:
        """Have the disk read the base's tensor soon; the adapter's parts are small."""
        if isinstance(self._own, StoredTensor):
            self._own.prefetch()

    def _made(self, first: int, last: int) -> Tensor:
        """Rows `first` … `last` [rows, columns], in the dtype of the arithmetic."""
        whole = self._whole
        rows = self._own.rows(first, last) if whole is None else whole.view(-1, self._columns)[first:last]
        wide = arithmetic_dtype(rows)
        rows = rows.to(wide)
        if self._shift is not None:
            return rows + self._shift.to(wide) * self._patch.scale
        if self._down is None or self._up is None:
            return rows
        if self._patch.transposed:
            delta = self._down[:, first:last].to(wide).T @ self._up.to(wide).T
        else:
            delta = self._up[first:last].to(wide) @ self._down.to(wide)
        rows = rows + delta * self._patch.scale
        if self._magnitude is None:
            return rows
        lengths: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        return rows * (self._magnitude[first:last, None].to(wide) / lengths)
