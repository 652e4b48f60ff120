"""The benchmark of the engine's settings: one change at a time, of what the engine runs with here."""

from lab.engine_settings import base, child, variants

BASE = base(threads=4, keys="bf16")


def test_each_variant_changes_one_setting_and_what_it_takes_along() -> None:
    (first, same), *rest = variants(BASE)

    assert (first, same) == ("base", BASE)
    for name, settings in rest:
        changed = {setting for setting in BASE if settings[setting] != BASE[setting]}
        assert set(settings) == set(BASE)
        assert name.rpartition(" ")[0] in changed, name
        along = {"batch": {"step_tokens"}, "flash_attention": {"keys"}}.get(name.rpartition(" ")[0], set())
        assert changed - {name.rpartition(" ")[0]} == along, name


def test_threads_are_tried_by_halves_and_no_variant_is_the_base_again() -> None:
    names = [name for name, _ in variants(BASE)]

    assert [name for name in names if name.startswith("threads")] == ["threads 2", "threads 1"]
    assert "keys bf16" not in names
    assert [name for name, _ in variants(base(threads=1, keys="f16")) if name.startswith(("threads", "keys"))] == [
        "keys bf16",
        "keys q8_0",
    ]


def test_a_thread_count_does_not_touch_what_was_chosen_for_the_engine() -> None:
    """Each variant once tuned the weights for its own threads and wrote that down for production."""
    assert all(settings["keys"] == "bf16" for name, settings in variants(BASE) if name.startswith("threads"))


def test_a_child_gets_its_arguments_and_answers() -> None:
    assert child("base", threads=3, keys="q8_0") == base(threads=3, keys="q8_0")
