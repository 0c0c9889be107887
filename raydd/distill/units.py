"""Units of the learned variables: a distillation learns each value in a unit in which outer steps have a sensible size.

Under Adam every coordinate moves by about the learning rate in each step. So features are learned in standard
deviations of their dimension, and the students' learning rates as logarithms, which also keeps them positive. Under SGD
values are learned as they are, except that image variables choose their own unit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Units:
    """Translates between values, as students see them, and variables, as the outer step moves them.

    With K distillations side by side, values, variables and units have a leading axis.
    """

    by_name: Mapping[str, Tensor]
    """Unit of each dimension of the image features (or pixels) and of the text features; other values have none."""
    log_rates: bool
    """Whether the variable of the students' learning rates is their logarithm."""

    def variables(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the variables of these values."""
        variables = {
            name: value / self.by_name[name] if name in self.by_name else value for name, value in values.items()
        }
        return variables | {"rates": values["rates"].log()} if self.log_rates else variables

    def values(self, variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the values of these variables."""
        values = {
            name: value * self.by_name[name] if name in self.by_name else value for name, value in variables.items()
        }
        return values | {"rates": variables["rates"].exp()} if self.log_rates else values

    def at_variables(self, gradients: Mapping[str, Tensor], rates: Float[Tensor, "*K 2"]) -> dict[str, Tensor]:
        """Return the gradients at the variables, given those at the values (the chain rule).

        Args:
            gradients: gradients at the values.
            rates: the students' learning rates; the derivative of exp is exp itself.
        """
        slopes = {**self.by_name, "rates": rates} if self.log_rates else self.by_name
        return {name: gradient * slopes[name] if name in slopes else gradient for name, gradient in gradients.items()}


def positive(unit: Tensor) -> Tensor:
    """Return units to divide by. Zeros, of dimensions that never vary, are replaced by the smallest positive unit."""
    return torch.where(unit > 0, unit, unit[unit > 0].min()) if bool((unit > 0).any()) else torch.ones_like(unit)
