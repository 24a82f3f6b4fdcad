"""Algorithm 2 against plain autograd, in float64 with the same noise, and what it costs."""

import pytest
import torch
from torch import nn

from diffflow_edu import CNF, DDPM, DiffFlow, Schedule
from diffflow_edu.nets import MLP
from diffflow_edu.processes import adjoint, diffflow

STEPS = 6


def normals(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class ConvField(nn.Module):
    """A field on images (B, 2, h, w)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(2, 5, 3, padding=1), nn.SiLU(), nn.GroupNorm(1, 5), nn.Conv2d(5, 2, 3, 1, 1)
        )

    def forward(self, x, t):
        return self.net(x) * (1 + t)


class Scaled(nn.Module):
    """Another module's field times a number of its own."""

    def __init__(self, net):
        super().__init__()
        self.net, self.scale = net, nn.Parameter(torch.tensor(-0.7))

    def forward(self, x, t):
        return self.scale * self.net(x, t)


def mlp(schedule=None):
    model = DiffFlow.mlp(schedule or Schedule.log_snr(steps=STEPS), hidden=16)
    nn.init.normal_(model.drift.last.weight, std=0.2)
    return model, (2,)


def paper_chain():
    return mlp(Schedule.polynomial(steps=STEPS, T=0.5))


def images():
    return DiffFlow(ConvField(), ConvField(), Schedule.log_snr(steps=STEPS, r_min=0.1)), (2, 5, 4)


def tied():
    net = MLP(hidden=16)
    return DiffFlow(net, Scaled(net), Schedule.geometric(steps=STEPS, s_min=0.1)), (2,)


def one_module_twice():
    net = MLP(hidden=16)
    return DiffFlow(net, net, Schedule.geometric(steps=STEPS, s_min=0.1)), (2,)


def functions_with_parameters():
    net = MLP(hidden=16)
    flow = DiffFlow(lambda x, t: net(x, t).tanh(), Scaled(net), Schedule.log_snr(steps=STEPS))
    flow.net = net  # known to the model, though not part of its drift
    return flow, (2,)


def ddpm():
    return DDPM.mlp(Schedule.log_snr(steps=STEPS), hidden=16), (2,)


def one_step():
    return mlp(Schedule.log_snr(steps=1))


CASES = [mlp, paper_chain, images, tied, one_module_twice, functions_with_parameters, ddpm]
CASES += [one_step]


@pytest.fixture(params=CASES, ids=lambda case: case.__name__)
def case(request):
    """A float64 model that learns its backward std too, data (9, *shape) and a noise."""
    torch.manual_seed(0)
    model, shape = request.param()
    model.double()
    model.log_b_ratio.requires_grad_()
    with torch.no_grad():
        model.log_b_ratio += 0.1 * normals(model.schedule.steps)
    return model, normals(9, *shape), normals(model.schedule.steps, 9, *shape, seed=1)


def gradients(model, value, *others):
    """The gradient by every parameter and others, as one vector; zero where there is none."""
    inputs = [*model.parameters(), *others]
    found = torch.autograd.grad(value, inputs, allow_unused=True)
    both = zip(found, inputs, strict=True)
    return torch.cat([(torch.zeros_like(i) if g is None else g).flatten() for g, i in both])


def relative_error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


# The same gradient ------------------------------------------------------------------------------


def test_the_adjoint_has_autograd_s_gradient_for_unequal_cotangents_and_for_x(case):
    model, x, noise = case
    x.requires_grad_()
    weight = normals(9, seed=2)
    adjoint, autograd = (model.bound(x, noise, how) for how in ("adjoint", "autograd"))
    torch.testing.assert_close(adjoint, autograd, rtol=1e-12, atol=1e-11)
    found = gradients(model, (weight * adjoint).sum(), x)
    expected = gradients(model, (weight * autograd).sum(), x)
    assert relative_error(found, expected) < 1e-10
    assert expected[-x.numel() :].norm() > 0


def test_the_loss_has_the_value_and_gradient_of_the_mean_bound(case):
    model, x, noise = case
    x.requires_grad_()
    # DDPM's own loss visits single steps; with a noise it is the mean of the bound.
    loss = model.loss(x, noise)
    expected = model.bound(x, noise, "autograd").mean()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-11)
    error = relative_error(gradients(model, 3 * loss, x), gradients(model, 3 * expected, x))
    assert error < 1e-10


def test_each_parameter_alone_has_the_right_gradient(case):
    """No large gradient hides a small one."""
    model, x, noise = case
    for how in ("bound", "loss"):
        value = model.bound(x, noise).mean() if how == "bound" else model.loss(x, noise)
        found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
        value = model.bound(x, noise, "autograd").mean()
        expected = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
        for (name, _), a, b in zip(model.named_parameters(), found, expected, strict=True):
            assert (a is None) == (b is None), name
            assert a is None or (a - b).norm() <= 1e-10 * b.norm() + 1e-13, name


def test_the_backward_std_has_the_gradient_of_the_paper(case):
    """∂L/∂log b_i = d − ‖δB_i‖², one number a step and particle."""
    model, x, noise = case
    for value in (model.bound(x, noise).mean(), model.loss(x, noise)):
        (found,) = torch.autograd.grad(value, [model.log_b_ratio])
        state, expected = x, []
        with torch.no_grad():
            for i in range(model.schedule.steps):
                after = model.forward_step(state, i, noise[i])
                square = model.backward_noise(state, after, i).flatten(1).square().sum(1)
                expected.append(x[0].numel() - square.mean())
                state = after
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)


def test_the_gradient_agrees_with_finite_differences():
    """An oracle beside autograd: central differences of the loss along one direction."""
    torch.manual_seed(0)
    model, _ = mlp()
    model.double()
    x, noise = normals(9, 2), normals(STEPS, 9, 2, seed=1)
    parameters = [p for p in model.parameters() if p.requires_grad]
    slope = torch.autograd.grad(model.loss(x, noise), parameters)
    directions = [normals(*p.shape, seed=n) for n, p in enumerate(parameters)]
    expected = sum((g * d).sum() for g, d in zip(slope, directions, strict=True)).item()

    def moved(by):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p += by * d
        return model.loss(x, noise).item()

    # ± 1e-6, taken back by − 2e-6; the error of a central difference is of order 1e-12/1e-6.
    assert (moved(1e-6) - moved(-2e-6)) / 2e-6 == pytest.approx(expected, rel=1e-5)


# Functions, frozen parts and other circumstances -------------------------------------------------


def test_functions_without_parameters_pass_the_gradient_to_x():
    model = DiffFlow(lambda x, t: x.sin(), lambda x, t: -x, Schedule.log_snr(steps=STEPS)).double()
    x, noise = normals(9, 2).requires_grad_(), normals(STEPS, 9, 2)
    for value in (model.bound(x, noise).mean(), model.loss(x, noise)):
        (expected,) = torch.autograd.grad(model.bound(x, noise, "autograd").mean(), [x])
        assert relative_error(torch.autograd.grad(value, [x])[0], expected) < 1e-10


def test_with_nothing_to_learn_the_bound_has_no_gradient():
    model = DiffFlow(lambda x, t: x.sin(), lambda x, t: -x, Schedule.log_snr(steps=STEPS))
    x = normals(9, 2).float()
    assert not model.bound(x).requires_grad and not model.loss(x).requires_grad


@pytest.mark.parametrize("frozen", ["drift", "score"])
def test_frozen_networks_get_no_gradient_and_the_others_the_right_one(frozen):
    torch.manual_seed(0)
    model, _ = mlp()
    model.double()
    getattr(model, frozen).requires_grad_(False)
    x, noise = normals(9, 2), normals(STEPS, 9, 2)
    learned = [p for p in model.parameters() if p.requires_grad]
    for value in (model.bound(x, noise).mean(), model.loss(x, noise)):
        value.backward()
        assert all(p.grad is None for p in getattr(model, frozen).parameters())
        found = torch.cat([p.grad.flatten() for p in learned])
        expected = torch.autograd.grad(model.bound(x, noise, "autograd").mean(), learned)
        assert relative_error(found, torch.cat([g.flatten() for g in expected])) < 1e-10
        model.zero_grad()


def test_under_no_grad_the_value_is_the_same_and_no_graph_is_left():
    torch.manual_seed(0)
    model, _ = mlp()
    x, noise = normals(9, 2).float(), normals(STEPS, 9, 2).float()
    with torch.no_grad():
        bound, loss = model.bound(x, noise), model.loss(x, noise)
    assert not bound.requires_grad and not loss.requires_grad
    assert torch.equal(bound, model.bound(x, noise).detach())
    torch.testing.assert_close(loss, model.loss(x, noise).detach())
    with torch.inference_mode():
        assert torch.equal(model.bound(x, noise), bound)


def test_the_same_seed_draws_the_same_path_for_either_gradient():
    torch.manual_seed(0)
    model, _ = mlp()
    x, values = normals(9, 2).float(), []
    for run in (model.bound, model.loss, lambda x: model.bound(x, gradient="autograd")):
        torch.manual_seed(1)
        values.append(run(x).mean().item())
    assert values == pytest.approx([values[0]] * 3, rel=1e-5)


@pytest.mark.parametrize("how", ["bound", "loss"])
def test_under_autocast_the_gradient_is_near_that_of_float32(how):
    torch.manual_seed(0)
    model = DiffFlow.mlp(Schedule.log_snr(steps=STEPS, r_min=0.1), hidden=32)
    nn.init.normal_(model.drift.last.weight, std=0.2)
    x, noise = normals(200, 2).float(), normals(STEPS, 200, 2).float()
    seen = []
    model.drift.last.register_forward_hook(lambda m, i, out: seen.append(out.dtype))

    def gradient(autocast):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = model.bound(x, noise).mean() if how == "bound" else model.loss(x, noise)
        assert value.dtype == torch.float32
        value.backward()  # outside autocast, as is the custom
        learned = [p.grad for p in model.parameters() if p.requires_grad]
        assert all(g.dtype == torch.float32 and g.isfinite().all() for g in learned)
        return torch.cat([g.flatten() for g in learned])

    expected = gradient(False)
    assert set(seen) == {torch.float32}
    seen.clear()
    found = gradient(True)
    assert set(seen) == {torch.bfloat16}
    # bfloat16 has 8 bits, so single products are off by .4 %, and the noise amplifies.
    assert relative_error(found, expected) < 0.05


def test_hooks_on_parameters_and_modules_run():
    torch.manual_seed(0)
    model, _ = mlp()
    x, calls = normals(9, 2).float(), []
    weight = model.drift.last.weight
    weight.register_hook(lambda grad: calls.append("parameter") or 2 * grad)
    weight.register_post_accumulate_grad_hook(lambda p: calls.append("accumulated"))
    model.score.register_full_backward_hook(lambda m, i, o: calls.append("module"))
    noise = normals(STEPS, 9, 2).float()
    (expected,) = torch.autograd.grad(model.bound(x, noise, "autograd").mean(), [weight])
    calls.clear()
    for value in (lambda: model.bound(x, noise).mean(), lambda: model.loss(x, noise)):
        value().backward()
        assert calls.count("parameter") == calls.count("accumulated") == 1
        assert calls.count("module") == STEPS
        torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=1e-6)  # both doubled
        weight.grad = None
        calls.clear()


def test_a_second_backward_adds_to_the_first():
    torch.manual_seed(0)
    model, _ = mlp()
    x, noise = normals(9, 2).float(), normals(STEPS, 9, 2).float()
    model.loss(x, noise).backward()
    once = model.drift.last.weight.grad.clone()
    model.loss(x, noise).backward()
    torch.testing.assert_close(model.drift.last.weight.grad, 2 * once)
    bound = model.bound(x, noise).mean()
    model.zero_grad()
    bound.backward(retain_graph=True)
    bound.backward()
    torch.testing.assert_close(model.drift.last.weight.grad, 2 * once)


def test_training_goes_on_after_the_weights_have_moved():
    """Nothing of an earlier step is kept: a fresh copy of the moved model has the same gradient."""
    torch.manual_seed(0)
    model, _ = mlp()
    model.double()
    x, noise = normals(9, 2), normals(STEPS, 9, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        model.loss(x, noise).backward()
        optimizer.step()
    model.log_b_ratio.requires_grad_()
    found = gradients(model, model.loss(x, noise))
    expected = gradients(model, model.bound(x, noise, "autograd").mean())
    assert relative_error(found, expected) < 1e-10


def test_weights_changed_between_value_and_gradient_are_an_error_not_a_wrong_gradient():
    torch.manual_seed(0)
    model, _ = mlp()
    bound = model.bound(normals(9, 2).float()).mean()
    with torch.no_grad():
        model.drift.last.weight += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        bound.backward()


def test_a_second_derivative_is_refused():
    torch.manual_seed(0)
    model, _ = mlp()
    weight = model.drift.last.weight
    x = normals(9, 2).float()
    for value in (model.bound(x).mean(), model.loss(x)):
        with pytest.raises(RuntimeError, match="use bound\\(x, gradient='autograd'\\)"):
            torch.autograd.grad(value, [weight], create_graph=True)


# What it costs ----------------------------------------------------------------------------------


class Counted(nn.Module):
    """A network that counts its forward (1 unit) and backward passes (2 units)."""

    def __init__(self, net):
        super().__init__()
        self.net, self.units = net, 0

    def forward(self, x, t):
        self.units += 1
        out = self.net(x, t)
        if out.requires_grad:
            out.register_hook(self.count_backward)
        return out

    def count_backward(self, grad):
        self.units += 2


@pytest.mark.parametrize(("how", "units"), [("loss", 7), ("bound", 8)])
def test_a_gradient_costs_seven_network_units_a_step_for_the_loss_and_eight_for_the_bound(
    how, units
):
    """And three more at the ends: f is asked for at x_0 … x_N, one place more than s."""
    steps = 30
    drift, score = Counted(MLP(hidden=8)), Counted(MLP(hidden=8))
    model = DiffFlow(drift, score, Schedule.log_snr(steps=steps))
    x = normals(4, 2).float()
    (model.loss(x) if how == "loss" else model.bound(x).mean()).backward()
    assert 0 <= drift.units + score.units - units * steps <= 4


def peak_saved_bytes(run):
    """The most bytes of tensors that autograd keeps for backward at one time."""
    kept, now, peak = {}, 0, 0

    class Handle:
        def __init__(self, tensor):
            nonlocal now, peak
            self.tensor, self.key = tensor, tensor.untyped_storage().data_ptr()
            self.size = tensor.untyped_storage().nbytes()
            if kept.setdefault(self.key, 0) == 0:
                now += self.size
            kept[self.key] += 1
            peak = max(peak, now)

        def __del__(self):
            nonlocal now
            kept[self.key] -= 1
            if kept[self.key] == 0:
                now -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Handle, lambda handle: handle.tensor):
        run()
    return peak


@pytest.mark.parametrize("how", ["loss", "bound"])
def test_the_adjoint_keeps_at_most_a_tenth_of_what_autograd_keeps(how):
    """N = 30 and wide layers; the states x_0 … x_N, which custom functions save, are counted."""
    torch.manual_seed(0)
    model = DiffFlow.mlp(Schedule.log_snr(steps=30), hidden=128)
    x = normals(500, 2).float()
    states = 31 * x.numel() * x.element_size()

    def run():
        (model.loss(x) if how == "loss" else model.bound(x).mean()).backward()

    ours = peak_saved_bytes(run) + states
    theirs = peak_saved_bytes(lambda: model.bound(x, gradient="autograd").mean().backward())
    assert ours <= 0.1 * theirs, (ours, theirs)


def test_a_function_may_use_other_parameters_at_every_time_and_depend_on_the_batch():
    torch.manual_seed(0)
    nets = nn.ModuleList(nn.Linear(3, 2, dtype=torch.float64) for _ in range(6))
    labels = torch.randn(4, 1, dtype=torch.float64)

    def field(x, t):
        return nets[round(5 * float(t))](torch.cat([x, labels], 1))

    model = DiffFlow(field, field, Schedule.polynomial(5, T=1.0, beta=1.0)).double()
    x = torch.randn(4, 2, dtype=torch.float64)
    noise = torch.randn(5, 4, 2, dtype=torch.float64)
    grads = [
        torch.autograd.grad(model.bound(x, noise, gradient=way).sum(), list(nets.parameters()))
        for way in ("adjoint", "autograd")
    ]
    for ours, reference in zip(*grads, strict=True):
        assert torch.allclose(ours, reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("what", ["bound", "loss"])
def test_transforms_of_torch_func_are_refused_with_the_way_that_they_can_go(what):
    model = DiffFlow.mlp(Schedule.log_snr(3), hidden=16)
    x = torch.randn(4, 2)
    with pytest.raises(RuntimeError, match="torch.func .* gradient='autograd'"):
        torch.func.grad(lambda y: getattr(model, what)(y).mean())(x)
    value = torch.func.grad(lambda y: model.bound(y, gradient="autograd", seed=0).mean())(x)
    assert value.isfinite().all()


def gradient_of(model, x, noise, **options):
    model.zero_grad()
    loss = model.loss(x, noise, **options)
    loss.backward()
    learned = [p for p in model.parameters() if p.requires_grad]
    return loss.detach(), [p.grad.clone() for p in learned]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_losses_of_some_steps_of_a_path_have_the_mean_of_the_loss_of_all(n, monkeypatch):
    model, shape = mlp()
    model = model.double()
    model.log_b_ratio.requires_grad_(True)
    x, noise = normals(5, *shape), normals(STEPS, 5, *shape, seed=1)
    value, grads = gradient_of(model, x, noise)
    parts = []
    for start in range(STEPS // n):  # every set of steps that can be drawn
        drawn = list(range(start, STEPS, STEPS // n))
        monkeypatch.setattr(diffflow, "some_steps", lambda *_, drawn=drawn: drawn)
        parts.append(gradient_of(model, x, noise, path_steps=n))
    torch.testing.assert_close(torch.stack([v for v, _ in parts]).mean(), value)
    for i, grad in enumerate(grads):
        mean = torch.stack([g[i] for _, g in parts]).mean(0)
        torch.testing.assert_close(mean, grad, rtol=1e-9, atol=1e-11)


def test_steps_of_a_path_are_drawn_alike_and_none_twice():
    torch.manual_seed(0)
    counts = torch.zeros(7)
    for _ in range(3000):
        chosen = adjoint.some_steps(7, 3)
        assert len(set(chosen)) == 3
        counts[chosen] += 1
    assert (counts / 3000 - 3 / 7).abs().max() < 0.04


def test_the_score_is_asked_only_where_a_step_counts():
    model, shape = mlp()
    calls = []
    model.score.register_forward_hook(lambda *_: calls.append(1))
    model.loss(torch.randn(4, *shape), path_steps=2).backward()
    assert len(calls) == 2


@pytest.mark.parametrize("n", [0, STEPS + 1, 1.5, True])
def test_path_steps_that_a_path_does_not_have_are_refused(n):
    model, shape = mlp()
    with pytest.raises(ValueError, match="path_steps must be"):
        model.loss(torch.randn(4, *shape), path_steps=n)


@pytest.mark.parametrize("which", ["drift", "score", "both"])
def test_a_network_that_a_module_hides_is_refused_and_not_left_without_gradient(which):
    class Hides(nn.Module):
        def __init__(self):
            super().__init__()
            self.nets = [MLP(hidden=8)]

        def forward(self, x, t):
            return self.nets[0](x, t)

    x, schedule = torch.randn(8, 2), Schedule.log_snr(3)
    hidden = Hides()
    drift = hidden if which != "score" else MLP(hidden=8)
    score = hidden if which != "drift" else MLP(hidden=8)
    model = DiffFlow(drift, score, schedule)
    message = "is a Hides that depends on .* learnable numbers .*nn.ModuleList"
    for use in (model.bound, model.loss, CNF(hidden).bound):
        with pytest.raises(ValueError, match=message):
            use(x).mean().backward()
    model.bound(x, gradient="autograd").mean().backward()
    assert hidden.nets[0](x, torch.tensor(0.1)).requires_grad
    hidden.nets[0].requires_grad_(False)
    model.bound(x)
    CNF(hidden).bound(x)
