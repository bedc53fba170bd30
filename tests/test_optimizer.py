"""AdamW in three sizes: the plain one is torch's, the others stay near it, none of them takes what is not finite."""
import pytest
import torch
from torch import nn

from command import read_state, write_state
from optimizer import AdamW, LeanAdamW, make_optimizer, round_as

MODES = ("plain", "thrifty", "lean")


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 24), nn.GELU(), nn.Linear(24, 24), nn.GELU(), nn.Linear(24, 2)).to(dtype)


def loss_of(net, step):
    """A task with numbers of its own at each step."""
    g = torch.Generator().manual_seed(step)
    x = torch.randn(64, 8, generator=g)
    y = torch.stack([x[:, 0] * x[:, 1], x.sum(1).sin()], dim=1)
    return ((net(x.to(next(net.parameters()).dtype)).float() - y) ** 2).mean()


def walk(mode, steps, dtype="float32", lr=3e-3, **how):
    """A network after so many steps, and its optimizer."""
    net = network(torch.bfloat16 if mode == "lean" else torch.float32)
    optimizer = make_optimizer(mode, net.parameters(), lr, dtype=dtype, **how)
    for step in range(steps):
        optimizer.backward(loss_of(net, step))
        optimizer.step()
    return net, optimizer


def flat(net):
    return torch.cat([p.detach().float().flatten() for p in net.parameters()])


def test_the_plain_one_is_torchs_with_clipped_gradients():
    ours, _ = walk("plain", 20, clip=0.1, weight_decay=0.02)
    theirs = network()
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=3e-3, weight_decay=0.02, fused=True)
    for step in range(20):
        loss_of(theirs, step).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(flat(ours), flat(theirs))


@pytest.mark.parametrize("mode, share", [("thrifty", 0.03), ("lean", 0.1)])
def test_the_lean_ones_go_nearly_the_same_way(mode, share):
    """The way of 100 steps ends within so much of its own length. (Another order of the same steps' pictures moves the
    end of the plain way by more than a third of it.)"""
    start, plain, lean = flat(network()), flat(walk("plain", 100)[0]), flat(walk(mode, 100)[0])
    assert (lean - plain).norm() < share * (plain - start).norm()


def test_a_gradient_is_gone_before_the_next_is_there():
    """At most one weight has a gradient at any moment of the backward pass, and none has after it."""
    net = network()
    optimizer, most = LeanAdamW(net.parameters(), 1e-3), []
    move = optimizer.move

    def watched(group, weight):
        most.append(sum(p.grad is not None for p in net.parameters()))
        move(group, weight)
    optimizer.move = watched
    optimizer.backward(loss_of(net, 0))
    optimizer.step()
    assert most == [1] * 6 and all(p.grad is None for p in net.parameters())
    loss_of(net, 0).backward()  # no hook is left behind
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("mode", MODES[:2])
def test_a_group_moves_at_its_own_rate(mode):
    """The first step of Adam is as long as the learning rate, whatever the gradient."""
    net = network()
    first, *others = net.parameters()
    before = flat(net)
    optimizer = make_optimizer(mode, [{"params": others}, {"params": [first], "lr": 0.1}], 1e-3, weight_decay=0.0)
    assert {id(weight) for weight in optimizer.weights} == {id(weight) for weight in net.parameters()}
    optimizer.backward(loss_of(net, 0))
    optimizer.step()
    moved = (flat(net) - before).abs()
    assert moved[:first.numel()].median() == pytest.approx(0.1, rel=0.02)
    assert moved[first.numel():].median() == pytest.approx(1e-3, rel=0.02)


@pytest.mark.parametrize("mode, width", [("plain", 4), ("thrifty", 2), ("lean", 2)])
def test_what_the_moments_take(mode, width):
    net, optimizer = walk(mode, 1)
    moments = [tensor for one in optimizer.state_dict()["state"].values() for tensor in one.values() if tensor.ndim]
    assert {tensor.element_size() for tensor in moments} == {width}
    assert sum(tensor.numel() for tensor in moments) == 2 * flat(net).numel()


# === rounding by chance ===============================================================================================

def test_rounding_by_chance_goes_to_a_neighbour_and_is_right_on_the_mean():
    torch.manual_seed(0)
    exact = torch.tensor([1.0, 1.002, -1.002, 3e-5, -700.3, 0.0])
    old = exact.bfloat16()
    rounded = torch.stack([round_as(old, exact) for _ in range(20_000)])
    for i, number in enumerate(exact):
        values = rounded[:, i].unique()
        assert len(values) <= 2 and values.min() <= number <= values.max()
        assert torch.equal(values, values.bfloat16().float())
        assert abs(rounded[:, i].mean() - number) < 2e-4 * abs(number) + 1e-30


def test_steps_too_small_for_bfloat16_are_made_on_the_mean():
    """Weights of 1 that should fall by 1e-4 a step: each rounded to the nearest would stay for ever."""
    weights = nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
    assert (weights - 1e-4).eq(1).all()
    optimizer = LeanAdamW([weights], 1e-4, weight_decay=0.0)
    for _ in range(200):
        optimizer.backward(weights.float().sum())
        optimizer.step()
    assert weights.float().mean().item() == pytest.approx(1 - 200 * 1e-4, abs=1e-3)


# === what is not finite ===============================================================================================

@pytest.mark.parametrize("mode", MODES)
def test_a_weight_whose_gradient_is_not_finite_stays(mode):
    net, optimizer = walk(mode, 2)
    before = flat(net)
    optimizer.backward(loss_of(net, 2) * float("nan"))
    assert not optimizer.step().isfinite()
    assert torch.equal(flat(net), before)
    optimizer.backward(loss_of(net, 3))
    assert optimizer.step().isfinite()
    assert flat(net).isfinite().all() and not torch.equal(flat(net), before)


@pytest.mark.parametrize("mode", ["plain", "thrifty"])
def test_in_float16_a_loss_scaled_too_far_is_scaled_less_the_next_time(mode):
    net, optimizer = walk(mode, 2, dtype="float16")
    assert optimizer.scaler.get_scale() == 65536
    before = flat(net)
    with torch.autocast("cpu", torch.float16):
        optimizer.backward(3e3 * loss_of(net, 2))  # float16 ends at 65,504
    assert not optimizer.step().isfinite()
    assert torch.equal(flat(net), before) and optimizer.scaler.get_scale() == 32768


@pytest.mark.parametrize("mode", ["plain", "thrifty"])
def test_in_float16_small_gradients_are_not_lost(mode):
    """A loss of about 1e-5 has gradients that are zero in float16; its steps are as long as a large one's."""
    def moved(scaled, by):
        net = network()
        optimizer = make_optimizer(mode, net.parameters(), 1e-3, 0.0, dtype="float16" if scaled else "float32")
        with torch.autocast("cpu", torch.float16):
            optimizer.backward(by * loss_of(net, 0))
        optimizer.step()
        return (flat(net) - flat(network())).abs().gt(1e-4).float().mean()
    large = moved(False, 1.0)
    assert moved(False, 1e-5) < 0.5 * large and moved(True, 1e-5) > 0.9 * large


# === interrupted ======================================================================================================

@pytest.mark.parametrize("mode, dtype", [("plain", "float32"), ("plain", "float16"), ("thrifty", "float32"),
                                         ("thrifty", "float16"), ("lean", "bfloat16")])
def test_a_state_goes_on_to_the_same_bits(mode, dtype, tmp_path):
    whole, _ = walk(mode, 6, dtype)
    net, optimizer = walk(mode, 3, dtype)
    optimizer.scaler.update(optimizer.scaler.get_scale() / 4)
    write_state(tmp_path / "state.safetensors", {}, list(net.parameters()), optimizer, step=3)
    other = network(torch.bfloat16 if mode == "lean" else torch.float32)
    resumed = make_optimizer(mode, other.parameters(), 3e-3, dtype=dtype)
    read_state(tmp_path / "state.safetensors", list(other.parameters()), resumed, 6)
    kinds = [{name: tensor.dtype for name, tensor in one.items()} for one in optimizer.state_dict()["state"].values()]
    assert kinds == [{name: tensor.dtype for name, tensor in one.items()}
                     for one in resumed.state_dict()["state"].values()]
    for step in range(3, 6):
        resumed.backward(loss_of(other, step))
        resumed.step()
    assert torch.equal(flat(whole), flat(other))
    assert resumed.scaler.get_scale() == optimizer.scaler.get_scale()


def test_both_are_asked_in_the_same_way():
    net = network()
    assert isinstance(make_optimizer("plain", net.parameters(), 1e-3), AdamW)
    for mode in ("thrifty", "lean"):
        assert isinstance(make_optimizer(mode, net.parameters(), 1e-3), LeanAdamW)
