import pytest
import torch
from torch import Tensor

from raydd.distill.units import Units, positive

UNITS = {"image": torch.tensor([0.5, 2.0]), "text": torch.tensor([3.0])}


def values() -> dict[str, Tensor]:
    return {
        "image": torch.tensor([[1.0, -4.0], [0.25, 8.0]]),
        "text": torch.tensor([[6.0], [-1.5]]),
        "rates": torch.tensor([0.1, 0.2]),
        "similarity.diagonal": torch.tensor([0.9, 1.1]),
    }


@pytest.mark.parametrize("log_rates", [False, True])
def test_variables_are_values_in_units_and_go_back(log_rates: bool) -> None:
    units = Units(UNITS, log_rates)
    variables = units.variables(values())
    assert variables["image"].tolist() == [[2.0, -2.0], [0.5, 4.0]]
    assert variables["text"].tolist() == [[2.0], [-0.5]]
    torch.testing.assert_close(variables["rates"].exp() if log_rates else variables["rates"], values()["rates"])
    torch.testing.assert_close(units.values(variables), values())


@pytest.mark.parametrize("log_rates", [False, True])
def test_gradients_at_the_variables_follow_the_chain_rule(log_rates: bool) -> None:
    units = Units(UNITS, log_rates)
    variables = {name: value.requires_grad_() for name, value in units.variables(values()).items()}
    seen = units.values(variables)
    loss = torch.stack([value.pow(3).sum() for value in seen.values()]).sum()
    exact = dict(zip(variables, torch.autograd.grad(loss, list(variables.values())), strict=True))
    at_values = {name: 3 * value.detach() ** 2 for name, value in seen.items()}
    torch.testing.assert_close(units.at_variables(at_values, seen["rates"].detach()), exact)


def test_a_feature_that_never_varies_has_the_smallest_unit_of_the_others() -> None:
    assert positive(torch.tensor([0.0, 2.0, 0.5])).tolist() == [0.5, 2.0, 0.5]
    assert positive(torch.zeros(2)).tolist() == [1.0, 1.0]
