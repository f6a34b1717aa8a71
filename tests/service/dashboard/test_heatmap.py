"""Coefficients as a grid."""

from service.dashboard.heatmap import SHADES, heat_map

LAYERED = {
    "chat": {
        "embedding": 0.0,
        "layers.0.attention": 0.5,
        "layers.0.mlp": 1.0,
        "layers.1.attention": -0.5,
        "layers.1.mlp": 0.25,
        "head": 0.1,
    },
    "botany": {
        "embedding": 1.0,
        "layers.0.attention": 0.0,
        "layers.0.mlp": 0.0,
        "layers.1.attention": 0.0,
        "layers.1.mlp": 0.0,
        "head": 0.0,
    },
}


def test_depth_runs_across_and_models_down() -> None:
    grid = heat_map(LAYERED)
    assert grid.columns == ("embedding", "0", "1", "head")
    assert [(row.model, row.component) for row in grid.rows] == [
        ("chat", "attention"),
        ("", "mlp"),
        ("botany", "attention"),
        ("", "mlp"),
    ]


def test_a_group_without_components_spans_them() -> None:
    first, second = heat_map(LAYERED).rows[:2]
    assert first.cells[0] is not None
    assert first.cells[0].span == 2
    assert second.cells[0] is None
    assert second.cells[1] is not None
    assert second.cells[1].label == "chat, layer 0 mlp: λ = 1.000"


def test_shades_follow_size_and_sign() -> None:
    grid = heat_map(LAYERED)
    attention, mlp = (row.cells for row in grid.rows[:2])
    assert mlp[1] is not None
    assert mlp[1].shade == SHADES
    assert attention[2] is not None
    assert attention[2].negative
    assert attention[2].shade == SHADES // 2
    assert grid.has_negative
    assert grid.top == 1.0


def test_one_coefficient_a_layer_and_all_zero_are_drawn_too() -> None:
    grid = heat_map({"chat": {"layers.0": 0.0, "layers.1": 0.0}})
    assert grid.columns == ("0", "1")
    assert len(grid.rows) == 1
    assert all(cell and cell.shade == 0 and cell.text == "0.00" for cell in grid.rows[0].cells)


def test_a_deep_model_leaves_the_figures_to_the_tooltips() -> None:
    assert heat_map({"chat": {f"layers.{layer}.mlp": 0.5 for layer in range(32)}}).dense
    assert not heat_map(LAYERED).dense
