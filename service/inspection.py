"""How an inspected pool looks in a terminal, and piped: the same words, without colours and at any width."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from optimizer.merging.inspection import Inspection, ModelFacts, Size

#: wide enough for anything that is piped: nothing is cut or wrapped
WIDE = 400


def show(pool: Inspection, console: Console) -> None:
    """Print the pool."""
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDE, highlight=False, color_system=None)
    for model in pool.models:
        console.print(Text(_plain(model.model), style="bold"))
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for key, value in _rows(model):
            table.add_row(f"  {key}", Text(_plain(value)))
        console.print(table)
        console.print(_parts(model))
        console.print()
    _show_differences(pool, console)


def _show_differences(pool: Inspection, console: Console) -> None:
    if len(pool.models) < 2:
        return
    if pool.fits:
        console.print(Text("these models can be merged", style="green"))
        return
    blocks = [(f"{name} differs from {pool.models[0].model}", lines) for name, lines in pool.differences.items()]
    if pool.templates:
        blocks.append(("chat templates differ", pool.templates))
    for title, lines in blocks:
        console.print(Text(_plain(title), style="yellow"))
        for line in lines:
            console.print(Text(f"  {_plain(line)}"))
    console.print(Text("these models cannot be merged as they are", style="red"))


def _rows(model: ModelFacts) -> Iterator[tuple[str, str]]:
    """What is said about a model beside its parts."""
    yield "architecture", f"{model.architecture} ({model.model_type}), {model.layers} layers"
    dtypes = (
        ", ".join(model.dtypes)
        if len(model.dtypes) == 1
        else ", ".join(f"{_count(numbers)} in {dtype}" for dtype, numbers in model.dtypes.items())
    )
    yield "parameters", f"{_count(model.size.numbers)}, {_bytes(model.size.bytes)}, {dtypes}"
    yield "head", "tied to the embedding" if model.tied else "its own"
    if (tokenizer := model.tokenizer) is not None:
        size = "" if tokenizer.size is None else f", {tokenizer.size:,} tokens, {tokenizer.added:,} of them added"
        yield "tokenizer", tokenizer.kind + size
    else:
        yield "tokenizer", "none"
    if (template := model.template) is not None:
        more = f" … {template.lines} lines" if template.lines > 1 else ""
        yield "chat template", f"{template.first_line}{more} (sha256 {template.sha256[:12]})"
    else:
        yield "chat template", "none"
    if (lora := model.lora) is not None:
        replaced = f", {lora.replaced} tensors replaced" if lora.replaced else ""
        yield "adapter", f"{lora.kind} of rank {lora.rank}, α {lora.alpha:g}, on {lora.modules} modules{replaced}"
        yield "trained on", lora.base or "unknown"
    yield "folder", model.folder
    if model.commit:
        yield "commit", model.commit
    if model.constants:
        yield "not merged", f"{model.constants} computed tensors, taken from the base"


def _parts(model: ModelFacts) -> Table:
    """Groups of the layout as rows, equal layers in one row: numbers and bytes, then the numbers of each component."""
    rows: dict[str, dict[str, Size]] = {}
    for group, size in model.groups.items():
        place, _, component = group.rpartition(".")
        rows.setdefault(place or component, {})[component if place else ""] = size
    columns = sorted({component for row in rows.values() for component in row if component})
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    table.add_column(no_wrap=True)
    for title in ("", "", *columns):
        table.add_column(title, justify="right", no_wrap=True)
    for name, row in _runs(rows):
        total = Size(sum(size.numbers for size in row.values()), sum(size.bytes for size in row.values()))
        cells = [_count(row[component].numbers) if component in row else "" for component in columns]
        table.add_row(Text(f"  {_plain(name)}"), _count(total.numbers), _bytes(total.bytes), *cells)
    return table


def _runs(rows: dict[str, dict[str, Size]]) -> Iterator[tuple[str, dict[str, Size]]]:
    """Consecutive layers of the same sizes as one row, "layers 0 … 23"; the sizes are those of each."""
    runs: list[tuple[str, str, dict[str, Size]]] = []
    for name, row in rows.items():
        stack, _, number = name.rpartition(".")
        if runs and number.isdigit() and runs[-1][2] == row and runs[-1][0].rpartition(".")[0] == stack:
            runs[-1] = (runs[-1][0], name, row)
        else:
            runs.append((name, name, row))
    for first, last, row in runs:
        stack, _, number = first.rpartition(".")
        if first == last:
            yield (f"{stack} {number}" if number.isdigit() else first), row
        else:
            yield f"{stack} {number} … {last.rpartition('.')[2]}, each", row


def _count(numbers: int) -> str:
    """`494.0 M`; exact below ten thousand."""
    for unit, scale in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if numbers >= 10 * scale or (numbers >= scale and unit != "k"):
            return f"{numbers / scale:.1f} {unit}"
    return f"{numbers:,}"


def _bytes(count: int) -> str:
    """`988.1 MB`: decimal units, as on the Hub."""
    for unit, scale in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def _plain(text: str) -> str:
    """Without what a terminal would obey: the text comes out of a checkpoint."""
    return "".join(sign if sign.isprintable() else "�" for sign in text)
