import pytest
import torch

from fakd.errors import InputError
from fakd.models.state import network_state

STATE = {"conv.weight": torch.ones(1), "model.x": torch.ones(1), "module.y": torch.ones(1)}


def below(prefix, state=STATE):
    return {prefix + key: tensor for key, tensor in state.items()}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": {"state_dict": STATE}},
        {"state_dict": below("old."), "state_dict_ema": STATE},
        below("module."),
        below("_orig_mod.module."),
        below("model."),
        {"state_dict": below("net.") | {"criterion.weight": torch.zeros(2)}},
        below("architecture.") | below("teacher.") | {"distiller.x": torch.zeros(1)},
        below("student.module.") | below("teacher."),
        STATE | {"ema_conv_weight": torch.zeros(1), "data_preprocessor.mean": torch.zeros(1)},
    ],
)
def test_what_trainers_put_around_the_names_is_taken_off(content, capsys):
    assert network_state(content, "a.pth").keys() == STATE.keys()
    said = capsys.readouterr().err
    assert ("note: of a.pth, " in said) == (content is not STATE and "epoch" not in content)


def test_a_part_is_taken_alone_where_there_is_one():
    whole = below("backbone.") | {"decode_head.conv.weight": torch.zeros(1)}
    assert network_state(below("module.", whole), "a", "backbone.").keys() == STATE.keys()
    assert network_state(STATE, "a", "backbone.").keys() == STATE.keys()


@pytest.mark.parametrize("content", [None, [], {}, {"state_dict": {}}, {"a": 1}, {1: STATE}])
def test_what_holds_no_tensors_by_name_is_refused(content):
    with pytest.raises(InputError, match=r"a.pth must hold a state dictionary"):
        network_state(content, "a.pth")
