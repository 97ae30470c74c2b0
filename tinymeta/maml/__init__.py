"""Model-agnostic meta-learning (Finn, Abbeel, Levine 2017, arXiv 1703.03400): parameters from which a few steps learn a task.

A loss is a function `loss(params, data)`. Data of one task gives a scalar. For many tasks at once every array of the data has a
leading task axis, and the loss gives one value per task; a loss that reduces over trailing axes alone serves both:

    def loss(params, data):                                                   # x, y: (K, 1) or (T, K, 1)
        x, y = data
        return ops.mean(ops.square(nets.mlp(params, x) - y), axis=(-2, -1))   # () or (T,)

There every parameter has a task axis in front, too: a layer of your own adds its bias as b[..., None, :], as nets.mlp does. (A loss
of one task that is wrapped in tm.vmap need not know of tasks.)

    value, gradient = tm.value_and_grad(lambda params: maml.meta_loss(loss, params, support, query, lr=0.01, steps=1))(params)

A method is three pure functions: what is meta-learned, its meta-gradient, and the path of adaptation (see Method).

    method = maml.meta_sgd(lr=0.01, steps=1)             # or maml, anil, maml_plus_plus, reptile, implicit
    meta = method.init(params)
    value, gradient = method.meta_gradient(loss, meta, support, query)
"""

from .implicit import implicit
from .inner import adapt, adaptation_path
from .methods import Method, Part, WithRates, anil, maml, maml_plus_plus, meta_sgd, step_weights
from .outer import meta_loss
from .reptile import reptile

__all__ = [
    "Method", "Part", "WithRates", "adapt", "adaptation_path", "anil", "implicit", "maml", "maml_plus_plus", "meta_loss",
    "meta_sgd", "reptile", "step_weights",
]  # fmt: skip
