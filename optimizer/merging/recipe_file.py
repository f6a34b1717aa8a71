"""A recipe file, in Temper's format or mergekit's, from its text to a checkpoint folder."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from optimizer.errors import RecipeError
from optimizer.merging.card import merge_card
from optimizer.merging.checkpoint.compatibility import check_pool
from optimizer.merging.checkpoint.manifest import Manifest
from optimizer.merging.checkpoint.models import commit_of, pinned
from optimizer.merging.layout import Layout
from optimizer.merging.merge import CARD, MERGEKIT, RECIPE, Progress, write_plan
from optimizer.merging.mergekit.parse import is_mergekit, read_mergekit
from optimizer.merging.mergekit.plan import PlanOptions
from optimizer.merging.mergekit.schema import MergekitRecipe
from optimizer.merging.mergekit.stages import merge_stages, order_stages, rehearse
from optimizer.merging.mergekit.write import to_mergekit_yaml
from optimizer.merging.methods.registry import find_method
from optimizer.merging.plan import DTYPE_OF, Plan, check_count, make_plan, open_reader
from optimizer.merging.recipe import MAX_RECIPE, Recipe, check_parameters, recipe_from_yaml, recipe_to_yaml
from optimizer.merging.stream import Crew


@dataclass(frozen=True)
class MergeOptions:
    """What is said beside the recipe.

    Attributes:
        dtype: of the result ("float32", "bfloat16", "float16"); None: the recipe's.
        shard_size: most bytes of tensors in a file.
        seed: of random masks; None: the recipe's, 0 for mergekit's format, which has none.
        allow: keys of config.json in which the models of a Temper recipe may differ. Models of a mergekit recipe may
            differ in all that leaves names and shapes alone, as they may there.
    """

    dtype: str | None = None
    shard_size: int = 5 * 10**9
    seed: int | None = None
    allow: frozenset[str] = frozenset()
    crew: Crew = field(default_factory=Crew)


@dataclass(frozen=True)
class RecipeFile:
    """A recipe as it was written: in Temper's format, or in mergekit's, with one document or more, in order of work."""

    text: str
    recipe: Recipe | tuple[MergekitRecipe, ...]

    @classmethod
    def read(cls, file: Path) -> "RecipeFile":
        """The recipe in a file.

        Raises:
            RecipeError: the file cannot be read or is no recipe; with the line where that helps.
        """
        try:
            if file.stat().st_size > MAX_RECIPE:
                raise RecipeError(f"{file}: over {MAX_RECIPE:,} bytes")
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"{file} cannot be read: {error}", mend="give the path of a recipe, a YAML file"
            ) from None
        if is_mergekit(text, str(file)):
            return cls(text, order_stages(read_mergekit(text, str(file))))
        recipe = recipe_from_yaml(text, str(file))
        method = find_method(recipe.method)
        check_count(method, len(recipe.models))
        check_parameters(recipe, method)
        return cls(text, recipe)

    def plans(self, options: MergeOptions) -> tuple[Plan, ...]:
        """What happens to each tensor, document by document, from configs and headers alone. Plans of documents that
        build on others are for looking at, not for merging.

        Raises:
            RecipeError, PoolError, CheckpointError: see `make_plan`, `check_pool` and `plan_mergekit`.
        """
        if isinstance(self.recipe, Recipe):
            check_pool(self.recipe.base, self.recipe.models, options.allow)
            return (make_plan(_as_asked(self.recipe, options)),)
        return rehearse(_typed(self.recipe, options), PlanOptions(options.seed or 0))

    def carry_out(self, out: Path, options: MergeOptions, progress: Progress | None = None) -> Manifest:
        """Merge into the folder `out`, with the recipe and a model card beside the weights.

        Raises:
            RecipeError, PoolError, CheckpointError: see `plans` and `write_plan`.
        """

        def write(plan: Plan, to: Path, texts: Mapping[str, str]) -> Manifest:
            return write_plan(plan, to, texts, shard_size=options.shard_size, crew=options.crew, progress=progress)

        if isinstance(self.recipe, Recipe):
            (plan,) = self.plans(options)
            recipe = _as_asked(self.recipe, options)
            texts = {RECIPE: recipe_to_yaml(recipe)}
            with suppress(RecipeError):  # what only Temper can do
                texts[MERGEKIT] = mergekit_text(recipe)
            return write(plan, out, {**texts, CARD: _card(out, [plan], [recipe], texts[RECIPE])})
        recipes = _typed(self.recipe, options)
        plans: list[Plan] = []

        def stage(recipe: MergekitRecipe, plan: Plan, to: Path) -> Manifest:
            plans.append(plan)
            if to != out:
                return write(plan, to, {})
            text = f"# seed of random masks: {options.seed or 0}\n{self.text}"
            card = _card(out, plans, recipes, text)
            return write(plan, to, {MERGEKIT: text, CARD: card})

        return merge_stages(recipes, out, stage, PlanOptions(options.seed or 0))

    def in_mergekit_format(self) -> str:
        """The recipe for mergekit: its own text, or a Temper recipe translated.

        Raises:
            RecipeError, CheckpointError: see `mergekit_text`.
        """
        return mergekit_text(self.recipe) if isinstance(self.recipe, Recipe) else self.text


def _typed(recipes: Sequence[MergekitRecipe], options: MergeOptions) -> tuple[MergekitRecipe, ...]:
    """The recipes with the last one's dtype as asked for."""
    *before, last = recipes
    return (*before, last if options.dtype is None else replace(last, out_dtype=options.dtype))


def mergekit_text(recipe: Recipe) -> str:
    """A Temper recipe in mergekit's format.

    Raises:
        RecipeError: mergekit has no such method or parameter, or its filters cannot tell the groups of tensors apart.
        CheckpointError: the base cannot be read safely.
    """
    base = open_reader(recipe.base)
    stored = [info.dtype for info in base.infos.values()]
    own = next((name for name, short in DTYPE_OF.items() if short == max(stored, key=stored.count)), None)
    return to_mergekit_yaml(recipe, Layout.of(base.infos), own)


def _as_asked(recipe: Recipe, options: MergeOptions) -> Recipe:
    """The recipe with what is said beside it; repositories at the commit that they stand for now."""
    return replace(
        recipe,
        base=_pinned(recipe.base),
        models={name: _pinned(path) for name, path in recipe.models.items()},
        dtype=recipe.dtype if options.dtype is None else options.dtype,
        seed=recipe.seed if options.seed is None else options.seed,
    )


def _pinned(path: Path) -> Path:
    return path if path.is_dir() else Path(str(pinned(str(path))))


def _card(out: Path, plans: Sequence[Plan], recipes: Sequence[Recipe | MergekitRecipe], text: str) -> str:
    """Repositories are cited at their commit; what one document made for another is left out."""
    made = {recipe.name for recipe in recipes if isinstance(recipe, MergekitRecipe)}
    folders = {name: folder for plan in plans for name, folder in plan.models.items() if name not in made}
    commits = {name: commit_of(folder) for name, folder in folders.items()}
    cited = [name if commit is None else f"{name.partition('@')[0]}@{commit}" for name, commit in commits.items()]
    methods = [recipe.method if isinstance(recipe, Recipe) else recipe.merge_method for recipe in recipes]
    return merge_card(out.name, cited, methods, text)
