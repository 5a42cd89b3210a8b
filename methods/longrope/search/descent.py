"""Gradient steps from one start. Shape letters: P rotary pairs, V = P + 1 variables."""

from methods.longrope.search.adam import Adam
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.evaluator import Measured
from methods.longrope.search.parametrisation import MonotoneCurve

_RECENT = 3  # the iterates' mean is over about the last third of the steps: eta of arXiv:1212.1824 section 4
_SMOOTHING = 0.15  # of the mean of the steps' losses
_FLOOR = 0.03  # nats: below, a document's answer is as good as known


class Descent:
    """Adam on the curve of a candidate, and the mean of its iterates.

    Steps follow the gradient of log(loss + floor): where most documents are answered, the rare failure would else be
    a hundred times the others and set the scale of all steps.
    The mean gives the t-th iterate a weight of 4 / (t + 3), so it forgets the first ones.
    A step whose loss is not finite is taken back and the steps halved. Source: arXiv:1212.1824 section 4.
    loss: the recent steps' mean, each on documents of its own; infinite before the first.
    """

    def __init__(self, start: Candidate, *, learning_rate: float, moves_attention: bool) -> None:
        self._curve = MonotoneCurve()
        self._rate, self._moves_attention = learning_rate, moves_attention
        self._z_V = self._curve.variables_V(start)
        self._before_V = self._mean_V = self._z_V
        self._adam = Adam(len(self._z_V))
        self.n_steps = 0
        self.loss = float("inf")

    @property
    def candidate(self) -> Candidate:
        """Where the next gradient is to be measured."""
        return self._curve.candidate(self._z_V, "gradient")

    @property
    def mean(self) -> Candidate:
        """The mean of the iterates."""
        return self._curve.candidate(self._mean_V, "gradient, mean")

    def tell(self, measured: Measured, share: float = 1.0) -> None:
        """The loss and gradient of `candidate`. share: of the learning rate, for this step."""
        if measured.failed or measured.gradient is None:
            self._z_V = self._before_V
            self._rate /= 2
            return
        self.n_steps += 1
        self.loss = measured.loss if self.n_steps == 1 else self.loss + _SMOOTHING * (measured.loss - self.loss)
        gradient_V = self._curve.pulled_back_V(self._z_V, measured.gradient) / (max(measured.loss, 0.0) + _FLOOR)
        if not self._moves_attention:
            gradient_V[-1] = 0.0
        self._before_V = self._z_V
        self._z_V = self._curve.within_V(self._z_V + self._adam.step_V(gradient_V, share * self._rate))
        weight = (_RECENT + 1) / (self.n_steps + _RECENT)
        self._mean_V = (1 - weight) * self._mean_V + weight * self._z_V
