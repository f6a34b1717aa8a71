"""Documents that build on each other."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from optimizer.errors import CheckpointError, PoolError, RecipeError, TemperError
from optimizer.merging.merge import write_plan
from optimizer.merging.mergekit.parse import read_mergekit
from optimizer.merging.mergekit.schema import MergekitRecipe
from optimizer.merging.mergekit.stages import merge_stages, order_stages, rehearse
from optimizer.merging.plan import Plan
from tests.optimizer.merging.mergekit.marked import make_marked


def document(name: str | None, *models: str, method: str = "linear", rest: str = "") -> str:
    head = "" if name is None else f"name: {name}\n"
    listed = "".join(f"- {{model: {model}, parameters: {{weight: 1}}}}\n" for model in models)
    return f"{head}merge_method: {method}\n{rest}models:\n{listed}"


def read(*documents: str) -> tuple[MergekitRecipe, ...]:
    return read_mergekit("---\n".join(documents), "r.yml")


def write(recipe: MergekitRecipe, plan: Plan, folder: Path) -> str | None:
    write_plan(plan, folder, {}, shard_size=1 << 30)
    return recipe.name


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a, b and c hold 1, 10 and 100."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"a": 1.0, "b": 10.0, "c": 100.0}.items():
        make_marked(tmp_path / name, value)
    return tmp_path


def test_each_comes_after_those_it_builds_on() -> None:
    recipes = read(
        document(None, "second", "c"),
        document("second", "first", "b"),
        document("first", "x/a", "x/b", rest="tokenizer_source: third\n"),
        document("third", "x/a"),
    )
    assert [recipe.name for recipe in order_stages(recipes)] == ["third", "first", "second", None]


@pytest.mark.parametrize(
    ("documents", "words"),
    [
        ([document("one", "two"), document("two", "one")], ["in a circle", "one", "two"]),
        ([document("one", "one")], ["in a circle: one → one"]),
        ([document("one", "x/a"), document("two", "x/a")], ["2 documents", "'one', 'two'", "one, the result"]),
        ([document("one", "x/a"), document(None, "x/a")], ["2 documents", "the one without a name"]),
        ([document("first", "x/a"), document(None, "frst")], ["r.yml, line 6", "'frst'", "did you mean 'first'"]),
        ([document("first", "x/a"), document(None, "x/a+frst")], ["'frst'", "did you mean 'first'"]),
    ],
)
def test_what_cannot_be_ordered(documents: list[str], words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        order_stages(read(*documents))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_results_are_merged_on(here: Path) -> None:
    recipes = read(
        document("mean", "a", "b"),
        "merge_method: task_arithmetic\nbase_model: a\nmodels: [{model: mean, parameters: {weight: 2}}]\n",
    )
    assert merge_stages(recipes, here / "out", write) is None
    found = load_file(here / "out" / "model.safetensors")
    assert found["model.embed_tokens.weight"].unique().tolist() == [1 + 2 * (5.5 - 1)]
    assert sorted(path.name for path in here.iterdir()) == ["a", "b", "c", "out"]


def test_one_document_needs_no_stages(here: Path) -> None:
    assert merge_stages(read(document("mean", "a", "b")), here / "out", write) == "mean"


def test_everything_is_planned_before_anything_is_merged(here: Path) -> None:
    """The second document asks for a layer that the first one's result will not have."""
    last = "merge_method: passthrough\nslices:\n- sources: [{model: cut, layer_range: [0, 3]}]\n"
    cut = "name: cut\nmerge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0, 2]}]\n"
    written: list[str | None] = []

    def note(recipe: MergekitRecipe, plan: Plan, folder: Path) -> None:
        written.append(recipe.name)

    with pytest.raises(RecipeError, match=r"line 8: layers \[0, 3\] of cut found, it has 2"):
        merge_stages(read(cut, last), here / "out", note)
    make_marked(here / "wide", 1.0, words=9)
    with pytest.raises(PoolError, match="vocabularies differ"):
        merge_stages(read(document("mean", "a", "b"), document(None, "mean", "wide")), here / "out", note)
    assert written == []
    assert not (here / ".out.stages").exists()


def test_stand_ins_have_no_data(here: Path) -> None:
    plans = rehearse(order_stages(read(document("mean", "a", "b"), document(None, "mean", "c"))))
    assert [plan.nbytes for plan in plans] == [plans[0].nbytes] * 2
    assert list(plans[1].models) == ["mean", "c"]


def test_a_failure_leaves_nothing_behind(here: Path) -> None:
    def fail(recipe: MergekitRecipe, plan: Plan, folder: Path) -> None:
        if recipe.name is None:
            raise CheckpointError("stopped")
        write(recipe, plan, folder)

    recipes = read(document("mean", "a", "b"), document(None, "mean", "c"))
    with pytest.raises(TemperError, match="stopped"):
        merge_stages(recipes, here / "out", fail)
    assert sorted(path.name for path in here.iterdir()) == ["a", "b", "c"]


def test_leftovers_of_a_killed_process_are_taken_over(here: Path) -> None:
    (here / ".out.stages" / "0").mkdir(parents=True)
    (here / ".out.stages" / "0" / "config.json").write_text("{")
    merge_stages(read(document("mean", "a", "b"), document(None, "mean", "c")), here / "out", write)
    assert sorted(path.name for path in here.iterdir()) == ["a", "b", "c", "out"]


def test_an_existing_result_is_found_before_the_work(here: Path) -> None:
    make_marked(here / "out", 1.0)
    with pytest.raises(CheckpointError, match="exists already"):
        merge_stages(read(document("mean", "a", "b"), document(None, "mean", "c")), here / "out", write)
