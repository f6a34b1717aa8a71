"""How models are called in recipes and on the command line, and where they lie. Imports no torch."""

import re
from dataclasses import dataclass
from typing import Self

from optimizer.errors import RecipeError

_PART = r"([^@+]+)(?:@([^@+]+))?"
_WHOLE = re.compile(rf"{_PART}(?:\+{_PART})?")


@dataclass(frozen=True)
class ModelReference:
    """A model: a folder or a repository of the Hugging Face Hub, at a revision, perhaps with a LoRA adapter on top.

    As text: `path[@revision][+lora[@revision]]`. A path that holds `@` or `+` cannot be written so.
    """

    path: str
    revision: str | None = None
    lora: "ModelReference | None" = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reference in a text.

        Raises:
            RecipeError: not of that form.
        """
        found = _WHOLE.fullmatch(text.strip())
        if found is None:
            raise RecipeError(
                f"model {text!r} found, expected path[@revision][+lora[@revision]]",
                mend="rename or link a folder whose name holds @ or +",
            )
        path, revision, lora, lora_revision = found.groups()
        return cls(path, revision, None if lora is None else cls(lora, lora_revision))

    def __str__(self) -> str:
        own = self.path if self.revision is None else f"{self.path}@{self.revision}"
        return own if self.lora is None else f"{own}+{self.lora}"
