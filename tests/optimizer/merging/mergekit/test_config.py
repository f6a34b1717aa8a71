"""What becomes of a config when layers move."""

from typing import Any

from optimizer.merging.mergekit.config import merged_config


def config(**more: Any) -> dict[str, Any]:
    return {"num_hidden_layers": 4, "vocab_size": 8, "tie_word_embeddings": True, "_name_or_path": "x", **more}


def test_a_merge_of_whole_models_changes_nothing() -> None:
    own = config(layer_types=["a", "b", "c", "d"], mlp_only_layers=[1])
    kept = merged_config(own, [(own, i) for i in range(4)], 4, untied=False)
    assert kept == {key: value for key, value in own.items() if key != "_name_or_path"}


def test_settings_by_layer_follow_their_layers() -> None:
    own = config(layer_types=["a", "b", "c", "d"], mlp_only_layers=[0, 3], eos_token_id=[1, 2, 3, 4])
    other = config(layer_types=["e", "f", "g", "h"], mlp_only_layers=[2])
    made = merged_config(own, [(own, 0), (own, 1), (other, 1), (other, 2), (own, 3)], 4, untied=False)
    assert made["num_hidden_layers"] == 5
    assert made["layer_types"] == ["a", "b", "f", "g", "d"]
    assert made["mlp_only_layers"] == [0, 3, 4]
    assert made["eos_token_id"] == [1, 2, 3, 4]
    assert own["layer_types"] == ["a", "b", "c", "d"]


def test_a_model_that_says_nothing_of_its_layers_takes_the_donors_word() -> None:
    own = config(layer_types=["a", "b", "c", "d"])
    assert merged_config(own, [({}, 5)], 4, untied=False)["layer_types"] == ["d"]


def test_old_names_of_the_number_of_layers() -> None:
    own = {"n_layer": 4, "n_head": 4}
    assert merged_config(own, [(own, 0)], 4, untied=False)["n_layer"] == 1
    assert merged_config(own, [(own, 0)], 4, untied=False)["n_head"] == 4


def test_models_that_see_keep_the_language_models_settings_apart() -> None:
    own = {"model_type": "x", "text_config": config(layer_types=["a", "b", "c", "d"]), "vision_config": {"depth": 4}}
    made = merged_config(own, [(own, 3)], 4, untied=True)
    assert made["text_config"]["num_hidden_layers"] == 1
    assert made["text_config"]["layer_types"] == ["d"]
    assert made["text_config"]["tie_word_embeddings"] is False
    assert "num_hidden_layers" not in made
    assert made["vision_config"] == {"depth": 4}
