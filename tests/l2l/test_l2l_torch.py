"""l2l.torch: the updates of tinymeta's LSTMOptimizer on torch parameters, and a good torch optimizer besides."""

import copy

import numpy as np
import pytest
from hypothesis import given
from l2l import adapters, settings

torch = pytest.importorskip("torch", reason="the adapter for PyTorch runs where it is installed")

from tinymeta import l2l  # noqa: E402
from tinymeta.l2l import torch as adapter  # noqa: E402

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
LEARNED = settings.optimizer(np.random.default_rng(0), dtype=np.float32)


def parameters(gradients, device="cpu"):
    return [torch.zeros(g.shape, dtype=torch.tensor(g).dtype, device=device) for g in gradients.values()]


def set_gradients(params, gradients):
    for p, g in zip(params, gradients.values(), strict=True):
        p.grad = None if g is None else torch.tensor(g, device=p.device)


def updates_of(optimizer, params, steps):
    """What each step adds to parameters that are zero before it."""
    found = []
    for g in steps:
        for p in params:
            p.zero_()
        set_gradients(params, g)
        optimizer.step()
        found.append({name: p.cpu().numpy().copy() for name, p in zip(g, params, strict=True)})
    return found


def steps_of(optimizer, params, steps):
    for g in steps:
        set_gradients(params, g)
        optimizer.step()


def everything(optimizer):
    """Parameters and state, to see whether they changed."""
    return copy.deepcopy([(p, optimizer.state.get(p)) for group in optimizer.param_groups for p in group["params"]])


def assert_identical(a, b):
    """Bit for bit."""
    for (p, state), (q, other) in zip(a, b, strict=True):
        assert torch.equal(p, q)
        assert (state is None) == (other is None)
        for key in state or {}:
            assert torch.equal(state[key], other[key]), key


def started(gradients=None, **options):
    """(optimizer, parameters, gradients) after one step."""
    g = gradients or adapters.gradients(np.random.default_rng(1))
    params = parameters(g)
    optimizer = adapter.LSTMOptimizer(params, LEARNED, **options)
    steps_of(optimizer, params, [g])
    return optimizer, params, g


# ---- the same numbers ----


@pytest.mark.parametrize("device", DEVICES)
@given(case=adapters.cases())
def test_the_updates_are_those_of_tinymeta(device, case):
    for learned, gradients in (case, adapters.widened(case)):
        params = parameters(gradients[0], device)
        found = updates_of(adapter.LSTMOptimizer(params, learned), params, gradients)
        adapters.assert_same(found, adapters.expected(learned, gradients), learned)


def test_a_saved_file_gives_the_same_updates(tmp_path):
    LEARNED.save(tmp_path / "o.npz")
    steps = [adapters.gradients(np.random.default_rng(seed)) for seed in range(3)]
    params = parameters(steps[0])
    found = updates_of(adapter.LSTMOptimizer(params, str(tmp_path / "o.npz")), params, steps)
    adapters.assert_same(found, adapters.expected(LEARNED, steps), LEARNED)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_tiles_of_any_size_give_the_same_updates(monkeypatch, rows):
    case = adapters.widened(adapters.Case(LEARNED, [adapters.gradients(np.random.default_rng(s)) for s in range(2)]))
    monkeypatch.setattr(adapter, "CPU_ROWS", rows)
    params = parameters(case.gradients[0])
    found = updates_of(adapter.LSTMOptimizer(params, case.learned), params, case.gradients)
    adapters.assert_same(found, adapters.expected(*case), case.learned)


def test_strides_do_not_matter():
    g = np.arange(6, dtype=np.float32).reshape(2, 3) - 2
    p, strided = torch.zeros(2, 3), torch.zeros(3, 2).T
    p.grad, strided.grad = torch.tensor(g), torch.tensor(g.T.copy()).T
    adapter.LSTMOptimizer([p, strided], LEARNED).step()
    assert strided.stride() == (1, 2)
    torch.testing.assert_close(strided, p, rtol=0, atol=0)


def test_a_group_has_its_own_scale():
    p, q = torch.zeros(3), torch.zeros(3)
    p.grad = q.grad = torch.tensor([1.0, -0.1, 0.0])
    adapter.LSTMOptimizer([{"params": [p]}, {"params": [q], "scale": 10 * LEARNED.scale}], LEARNED).step()
    torch.testing.assert_close(q, 10 * p, rtol=1e-6, atol=0)


# ---- the ways of torch ----


def test_a_parameter_without_gradient_is_left_alone():
    optimizer, params, g = started()
    before, unseen = everything(optimizer), torch.ones(2)
    optimizer.add_param_group({"params": [unseen]})
    set_gradients(params, dict.fromkeys(g))
    optimizer.step()
    assert_identical(everything(optimizer), [*before, (torch.ones(2), None)])


def test_a_closure_is_called_with_gradients_enabled_and_its_loss_returned():
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    optimizer = adapter.LSTMOptimizer([x], LEARNED)

    def closure():
        optimizer.zero_grad()
        loss = (x**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 5
    assert optimizer.step() is None
    assert x.requires_grad
    assert not any(s.requires_grad for s in optimizer.state[x].values())


def test_a_resumed_run_continues_bit_for_bit(tmp_path):
    steps = [adapters.gradients(np.random.default_rng(seed)) for seed in range(6)]
    params = parameters(steps[0])
    optimizer = adapter.LSTMOptimizer(params, LEARNED)
    optimizer.param_groups[0]["scale"] = 0.05
    steps_of(optimizer, params, steps[:3])
    torch.save({"params": params, "optimizer": optimizer.state_dict()}, tmp_path / "run.pt")
    steps_of(optimizer, params, steps[3:])

    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    resumed = adapter.LSTMOptimizer(saved["params"], LEARNED)
    resumed.load_state_dict(saved["optimizer"])
    assert resumed.param_groups[0]["scale"] == 0.05
    steps_of(resumed, saved["params"], steps[3:])
    assert_identical(everything(resumed), everything(optimizer))


def test_a_deep_copy_goes_on_by_itself():
    _, _, g = started()
    optimizer, params, _ = started(g)
    copied_params, copied = copy.deepcopy((params, optimizer))
    before = everything(optimizer)
    steps_of(copied, copied_params, [g])
    assert_identical(everything(optimizer), before)
    steps_of(optimizer, params, [g])
    assert_identical(everything(optimizer), everything(copied))


def test_a_linear_optimizer_is_gradient_descent():
    torch.manual_seed(0)
    model, x = torch.nn.Linear(3, 1), torch.randn(64, 3)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    linear = l2l.LSTMOptimizer(settings.linear_optimizer().weights, scale=0.05, p=None)
    linear = linear.with_weights(linear.weights._replace(W_out=-np.ones(1)))
    optimizer = adapter.LSTMOptimizer(model.parameters(), linear)
    twin = copy.deepcopy(model)
    sgd = torch.optim.SGD(twin.parameters(), lr=0.05)
    for net, rule in ((model, optimizer), (twin, sgd)):
        for _ in range(5):
            rule.zero_grad()
            torch.nn.functional.mse_loss(net(x), y).backward()
            rule.step()
    torch.testing.assert_close(model.weight, twin.weight)
    torch.testing.assert_close(model.bias, twin.bias)


# ---- NaN and inf ----


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_refused_before_anything_changes(bad):
    optimizer, params, g = started()
    g["leaf2"][1, 1:] = bad
    before = everything(optimizer)
    set_gradients(params, g)
    sentence = "2 of the 6 entries of the gradient of parameter 2 of group 0 are NaN or infinite; nothing was changed"
    with pytest.raises(FloatingPointError, match=sentence):
        optimizer.step()
    assert_identical(everything(optimizer), before)


def test_such_entries_count_as_zero_if_one_says_so():
    _, _, g = started()
    bad, zero = copy.deepcopy(g), copy.deepcopy(g)
    bad["leaf2"][0], zero["leaf2"][0] = [np.nan, np.inf, -np.inf], 0
    first, second = (started(g, nonfinite="zero") for _ in range(2))
    steps_of(*first[:2], [bad])
    steps_of(*second[:2], [zero])
    assert_identical(everything(first[0]), everything(second[0]))


# ---- refusals ----


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "complex64", "int32"])
def test_a_parameter_of_another_dtype_is_refused_by_name(dtype):
    p = torch.zeros(2, 3, dtype=getattr(torch, dtype))
    sentence = rf"parameter 1 of group 0 is {dtype}\[2,3\], expected float32 or float64"
    with pytest.raises(TypeError, match=sentence):
        adapter.LSTMOptimizer([torch.zeros(1), p], LEARNED)
    optimizer = adapter.LSTMOptimizer([torch.zeros(1)], LEARNED)
    with pytest.raises(TypeError, match="parameter 0 of group 1"):
        optimizer.add_param_group({"params": [p]})
    assert len(optimizer.param_groups) == 1


def test_a_named_parameter_is_called_by_its_name():
    model = torch.nn.Linear(2, 1)
    optimizer = adapter.LSTMOptimizer(model.named_parameters(), LEARNED)
    model.weight.grad = torch.full((1, 2), np.nan)
    with pytest.raises(FloatingPointError, match="2 of the 2 entries of the gradient of parameter 'weight'"):
        optimizer.step()


def test_a_sparse_gradient_is_refused_by_name():
    p = torch.nn.Parameter(torch.zeros(3, 2))
    torch.nn.functional.embedding(torch.tensor([1]), p, sparse=True).sum().backward()
    with pytest.raises(TypeError, match="the gradient of parameter 0 of group 0 is sparse"):
        adapter.LSTMOptimizer([p], LEARNED).step()


def test_a_model_converted_after_its_first_step_is_refused():
    model = torch.nn.Linear(2, 1)
    optimizer = adapter.LSTMOptimizer(model.parameters(), LEARNED)
    for dtype in (torch.float32, torch.float64):
        model.to(dtype)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        if dtype is torch.float32:
            optimizer.step()
    with pytest.raises(
        ValueError, match=r"is float64\[1,2\] on cpu, its state float32\[1,2,4\] on cpu; convert the model"
    ):
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())  # as the sentence says
    optimizer.step()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"nonfinite": "ignore"}, "nonfinite is 'ignore'"), ({"scale": np.nan}, "scale is nan, expected a finite number")],
    ids=["nonfinite", "scale"],
)
def test_a_setting_that_makes_no_sense_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        adapter.LSTMOptimizer([{"params": [torch.zeros(1)], **options}], LEARNED)


def of_other_weights(params):
    return adapter.LSTMOptimizer(params, settings.optimizer(np.random.default_rng(9), dtype=np.float32))


def of_changed(change):
    return lambda params: adapter.LSTMOptimizer(change(params), LEARNED)


of_parts = of_changed(lambda params: [p[:1] for p in params])
of_transposed = of_changed(lambda params: [p.T if p.ndim == 2 else p for p in params])
of_flat = of_changed(lambda params: [p.reshape(-1) for p in params])
of_reversed = of_changed(lambda params: params[::-1])


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (of_other_weights, "the state is that of an optimizer with other weights, or of another kind"),
        (torch.optim.Adam, "the state is that of an optimizer with other weights, or of another kind"),
        (of_parts, r"parameter 0 of group 0 is float32\[2,3\], its state is for one of shape \[1, 3\]; expected"),
        (of_transposed, r"is float32\[2,3\], its state is for one of shape \[3, 2\]; expected the state of an"),
        (of_flat, r"parameter 0 of group 0 is float32\[2,3\], its state is for one of shape \[6\]; expected"),
        (of_reversed, r"parameter 0 of group 0 is float32\[2,3\], its state is for one of shape \[2\]; expected"),
        (lambda params: adapter.LSTMOptimizer(params[:2], LEARNED), "doesn't match the size of optimizer's group"),
    ],
    ids=["weights", "Adam", "sizes", "transposed", "flat", "another order", "fewer parameters"],
)
def test_the_state_of_another_optimizer_is_refused_and_nothing_changes(other, sentence):
    g = {"a": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32), "c": np.ones(2, np.float32)}
    optimizer, _, _ = started(g)
    another = other([torch.zeros(x.shape) for x in g.values()])
    for p in another.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    another.step()
    before = everything(optimizer)
    with pytest.raises(ValueError, match=sentence):
        optimizer.load_state_dict(another.state_dict())
    assert_identical(everything(optimizer), before)
