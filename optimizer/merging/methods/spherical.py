"""To be written."""

from optimizer.merging.methods.base import Method

ROWS: tuple[Method, ...] = ()
