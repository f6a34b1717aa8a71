"""Which tensors of a model have a row for every token: read off names and shapes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from optimizer.errors import PoolError
from optimizer.merging.checkpoint.header import TensorInfo, language_config
from optimizer.merging.checkpoint.source import Reader, TensorSource
from optimizer.merging.layout import Layout

#: embeddings of something else than tokens
_OTHER = re.compile(r"position|(^|\.)wpe|(^|[._])pos_emb|token_type|segment|patch|visual|vision|audio", re.IGNORECASE)


@dataclass(frozen=True)
class Embeddings:
    """The token embeddings and the head of a model, a bias of the head included.

    `names` are those tensors, `rows` how many tokens they have room for. `main` is the embedding, which also serves as
    the head where the model has none. A model of something else than text has none of these: no names, no rows.
    """

    reader: Reader
    names: frozenset[str]
    rows: int
    main: str

    @classmethod
    def of(cls, reader: Reader) -> "Embeddings":
        """Found by headers alone."""
        found = _vocabulary_tensors(reader.infos, language_config(reader.config).get("vocab_size"))
        embeddings = [name for name, group in found.items() if group == "embedding"]
        if not embeddings:
            return cls(reader, frozenset(), 0, "")
        rows = min(reader.infos[name].shape[0] for name in found)
        return cls(reader, frozenset(found), rows, embeddings[0])

    def tensor(self, name: str) -> TensorSource:
        """The tensor of that name, for a head that is not there the embedding.

        Raises:
            PoolError: there is neither.
        """
        if name in self.reader.infos:
            return self.reader.tensor(name)
        info = self.reader.infos[self.main]
        if Layout.of({name: info}).group_of.get(name) == "head":
            return self.reader.tensor(self.main)
        raise PoolError(
            f"tensor {name}: not in {self.reader.folder}, rows of it are wanted",
            mend="merge models of one architecture, or name another model for these tokens",
        )


def _vocabulary_tensors(infos: Mapping[str, TensorInfo], words: int | None) -> dict[str, str]:
    """Name → "embedding" or "head" of the tensors with a row for each of `words` tokens (None: for as many as the
    largest has)."""
    groups = Layout.of(infos).group_of
    found = {
        name: groups[name]
        for name, info in infos.items()
        if not _OTHER.search(name)
        and ((groups.get(name) in ("embedding", "head") and len(info.shape) == 2) or _head_bias(name, info, groups))
    }
    enough = words or max((infos[name].shape[0] for name in found), default=0)
    return {name: group for name, group in found.items() if infos[name].shape[0] >= enough}


def _head_bias(name: str, info: TensorInfo, groups: Mapping[str, str]) -> bool:
    return groups.get(name) == "head" and len(info.shape) == 1 and name.endswith("bias")
