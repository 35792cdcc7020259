"""Settings refuse what cannot be meant."""

import pytest

import fakd
from fakd.runs.recipe import recipe_of
from fakd.settings import Task


@pytest.mark.parametrize(
    "make",
    [
        lambda: fakd.Schedule(shape="Poly"),
        lambda: fakd.data.Augmentation(mix="mixup"),
        lambda: fakd.Hardware(precision="bf16"),
        lambda: fakd.Hardware(devices=0),
        lambda: Task(average="mean"),
        lambda: fakd.Schedule(power=-1.0),
    ],
)
def test_python_refuses_what_the_command_line_refuses(make):
    with pytest.raises(Exception, match=r"expected|violates|Type-check"):
        make()


def test_a_recipe_does_not_remember_what_to_do_with_a_finished_run():
    def command(run: str, existing: str = "refuse") -> None: ...

    assert recipe_of(command, {"run": "r", "existing": "overwrite"}) == {"run": "r"}
