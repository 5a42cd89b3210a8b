"""Adam with a bound on rare large gradients, as plain numbers. Shape letters: V variables."""

import numpy as np

from methods.base import FloatArray


class Adam:
    """Steps against the gradient, each variable in its own scale.

    A gradient whose norm is above `clip` times the root mean square of those before is shortened to that.
    Source: arXiv:1412.6980 algorithm 1.
    Differs: the clipping; a gradient of zero or not finite moves nothing and counts as none.
    """

    def __init__(
        self, n_variables: int, *, betas: tuple[float, float] = (0.9, 0.99), epsilon: float = 1e-8, clip: float = 5.0
    ) -> None:
        self._betas, self._epsilon, self._clip = betas, epsilon, clip
        self._first_V: FloatArray = np.zeros(n_variables)
        self._second_V: FloatArray = np.zeros(n_variables)
        self.n_steps = 0

    def step_V(self, gradient_V: FloatArray, learning_rate: float) -> FloatArray:
        """What to add to the variables."""
        if not np.isfinite(gradient_V).all() or not gradient_V.any():
            return np.zeros_like(self._first_V)
        gradient_V = self._clipped_V(gradient_V)
        self.n_steps += 1
        beta1, beta2 = self._betas
        self._first_V = beta1 * self._first_V + (1 - beta1) * gradient_V
        self._second_V = beta2 * self._second_V + (1 - beta2) * gradient_V**2
        mean_V = self._first_V / (1 - beta1**self.n_steps)
        square_V = self._second_V / (1 - beta2**self.n_steps)
        return -learning_rate * mean_V / (np.sqrt(square_V) + self._epsilon)

    def _clipped_V(self, gradient_V: FloatArray) -> FloatArray:
        if self.n_steps == 0:
            return gradient_V
        usual = float(np.sqrt(self._second_V.sum() / (1 - self._betas[1] ** self.n_steps)))
        norm = float(np.linalg.norm(gradient_V))
        return gradient_V * min(1.0, self._clip * usual / norm)
