"""Rows in another order: the same whichever way they are read, against gathering everything at once."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optimizer.merging.checkpoint.source import StoredTensor
from optimizer.merging.vocabulary.orders import Ruling, arrange
from optimizer.merging.vocabulary.rows import VocabularyRows

MODELS, WIDTH = 3, 4


@st.composite
def pools(draw: Any) -> tuple[list[Tensor], list[Tensor], int | None, list[Ruling], int]:
    """Tables of three models, where each token's row lies in each (−1: nowhere), a base, rules, padding."""
    count = draw(st.integers(1, 12))
    tables = [torch.randn(draw(st.integers(1, 14)), WIDTH) for _ in range(MODELS)]
    own = []
    for table in tables:
        rows = draw(st.permutations(range(-1, len(table))))
        places = [rows[i] if i < len(rows) else -1 for i in range(count)]
        own.append(torch.tensor(draw(st.sampled_from([places, sorted(places)]))))
    picks = st.none() | st.integers(0, MODELS - 1).flatmap(
        lambda model: st.tuples(st.just(model), st.integers(0, len(tables[model]) - 1))
    )
    rows_ruled = draw(st.lists(st.integers(0, count - 1), unique=True, max_size=3))
    rulings = [Ruling(row, draw(picks), draw(st.booleans())) for row in rows_ruled]
    base = draw(st.none() | st.integers(0, MODELS - 1))
    return tables, own, base, rulings, draw(st.integers(0, 5))


def expected(
    tables: list[Tensor], own: list[Tensor], base: int | None, rulings: list[Ruling], padding: int, model: int
) -> Tensor:
    """The rule, a row at a time."""
    rules = {ruling.row: ruling for ruling in rulings}
    found = []
    for row in range(len(own[0])):
        place = int(own[model][row])
        rule = rules.get(row)
        owners = [m for m in range(MODELS) if own[m][row] >= 0]
        if place >= 0 and not (rule and rule.force):
            found.append(tables[model][place])
        elif rule:
            found.append(torch.zeros(WIDTH) if rule.pick is None else tables[rule.pick[0]][rule.pick[1]])
        elif base in owners:
            found.append(tables[base][own[base][row]])
        elif owners:
            found.append(torch.stack([tables[m][own[m][row]] for m in owners]).double().mean(0).float())
        else:
            found.append(torch.zeros(WIDTH))
    rows = torch.stack(found)
    return torch.cat([rows, rows.double().mean(0, keepdim=True).float().expand(padding, -1)])


@settings(max_examples=200, deadline=None)
@given(pools(), st.integers(1, 20))
def test_rows_are_those_of_the_rule_however_they_are_read(
    pool: tuple[list[Tensor], list[Tensor], int | None, list[Ruling], int], height: int
) -> None:
    tables, own, base, rulings, padding = pool
    size = len(own[0]) + padding
    for model, order in enumerate(arrange(own, base, rulings)):
        wanted = expected(*pool, model)
        rows = VocabularyRows({at: StoredTensor(table) for at, table in enumerate(tables)}, order, size)
        assert rows.shape == (size, WIDTH)
        parts = [rows.rows(begin, min(begin + height, size)) for begin in range(0, size, height)]
        torch.testing.assert_close(torch.cat(parts), wanted, rtol=1e-6, atol=1e-7)
        kept = (own[model] >= 0).nonzero().flatten()
        kept = kept[[int(row) not in [r.row for r in rulings if r.force] for row in kept]]
        assert torch.equal(rows.rows(0, size)[kept], tables[model][own[model][kept]])


def test_consecutive_rows_are_not_copied() -> None:
    table = torch.randn(10, WIDTH)
    own = [torch.tensor([4, 5, 6, 7, 0, 1])]
    rows = VocabularyRows({0: StoredTensor(table)}, arrange(own, None, [])[0], 6)
    assert rows.rows(1, 4).data_ptr() == table[5].data_ptr()
    assert torch.equal(rows.rows(2, 6), table[[6, 7, 0, 1]])
    assert rows.rows(3, 3).shape == (0, WIDTH)


def test_the_dtype_holds_every_source() -> None:
    halves = {0: StoredTensor(torch.ones(2, 1, dtype=torch.bfloat16)), 1: StoredTensor(torch.ones(2, 1).half())}
    own = [torch.tensor([0, -1]), torch.tensor([-1, 1])]
    for model, order in enumerate(arrange(own, None, [])):
        rows = VocabularyRows(halves, order, 2)
        assert rows.dtype == torch.float32
        assert rows.rows(0, 2).dtype == torch.float32, model
    alone = VocabularyRows(halves, arrange([own[0], own[0]], None, [Ruling(1, None, False)])[0], 2)
    assert alone.dtype == torch.bfloat16
    assert alone.rows(0, 2).tolist() == [[1], [0]]
