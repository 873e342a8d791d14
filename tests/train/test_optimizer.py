"""Muon: what it orthogonalises, its update, and runs with it that are stopped, resumed and shared."""

import copy
import shutil

import pytest
import torch
from forks import together
from small_latte import draw, text_model, warm
from small_runs import run, same, small, tensors

from latte.processes import processes
from latte.train import checkpoint
from latte.train import optimizer as module
from latte.train.optimizer import Muon, Rows, block_matrices, make_optimizer, newton_schulz, orthogonal


def named(network, per_head):
    rows = block_matrices(network, per_head)
    return {name: tuple(rows[p]) for name, p in network.named_parameters() if p in rows}


def test_block_matrices_and_their_fused_parts():
    latte, split, text = (named(network, False) for network in (warm(), warm(variant=4), text_model()))
    block = {"attns.0.qkv": (4, 3), "attns.0.proj": (1, 1), "modulation.linear": (1, 6)}
    block |= {"mlp.fc1": (1, 1), "mlp.fc2": (1, 1)}
    assert latte == {f"blocks.{i}.{name}.weight": rows for i in range(4) for name, rows in block.items()}
    assert split["blocks.0.attns.0.spatial.qkv.weight"] == split["blocks.0.attns.0.temporal.qkv.weight"] == (2, 3)
    assert text["blocks.0.cross.q.weight"] == (2, 1) and text["blocks.0.cross.kv.weight"] == (2, 2)
    assert not any(name.endswith(("bias", "table")) or not name.startswith("blocks.") for name in text)
    assert named(warm(), True) == latte | {f"blocks.{i}.attns.0.qkv.weight": (1, 12) for i in range(4)}


@pytest.mark.parametrize("shape", [(3, 12, 30), (2, 30, 12), (1, 16, 16)])
def test_newton_schulz_sets_singular_values_to_about_one(shape):
    """As if U S V' became U V', to the tolerance of five iterations; as torch.optim.Muon does in lower precision."""
    from torch.optim._muon import DEFAULT_NS_STEPS, _zeropower_via_newtonschulz

    matrices = draw(0, *shape)
    found = newton_schulz(matrices)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    core = u.mT @ found @ vh.mT
    singular = core.diagonal(dim1=1, dim2=2)
    assert singular.min() > 0.6 and singular.max() < 1.25
    assert (core - singular.diag_embed()).abs().max() < 1e-4
    assert not newton_schulz(torch.zeros(shape)).any()
    faster = newton_schulz(matrices, torch.bfloat16)
    assert faster.dtype == torch.float32 and 0 < (faster - found).abs().max() < 0.03
    for one, matrix in zip(found, matrices):
        theirs = _zeropower_via_newtonschulz(matrix, (3.4445, -4.7750, 2.0315), DEFAULT_NS_STEPS, 1e-7)
        assert (one - theirs.float()).abs().max() < 0.03  # theirs is in bfloat16


def test_fused_matrices_are_orthogonalised_separately():
    """The rows of AxialAttention are ordered (head, qkv, e): with 2 heads of width 3, q has rows 0-2 and 9-11."""
    fused = draw(1, 18, 8)
    fused[3:6] *= 100  # a part that would dominate
    together_, alone = orthogonal(fused, Rows(2, 3)), orthogonal(fused, Rows(1, 6))
    for part in range(3):
        rows = [3 * part + i for i in (0, 1, 2, 9, 10, 11)]
        assert torch.equal(together_[rows], 0.2 * 8**0.5 * newton_schulz(fused[None, rows])[0])
    for i in range(0, 18, 3):
        torch.testing.assert_close(alone[i : i + 3], 0.2 * 8**0.5 * newton_schulz(fused[None, i : i + 3])[0])
    whole = orthogonal(fused, Rows())
    assert together_.square().mean() ** 0.5 == pytest.approx(0.2, abs=0.05)  # the size of AdamW's
    assert whole[:3].norm() < 0.75 * together_[:3].norm()


def test_two_muon_steps_match_a_written_out_update():
    """Momentum with a Nesterov step, decoupled weight decay; the bias uses AdamW."""
    torch.manual_seed(0)
    network, twin = (torch.nn.Linear(4, 6) for _ in range(2))
    twin.load_state_dict(network.state_dict())
    options = {"lr": 0.1, "weight_decay": 0.5, "fused": True}
    muon = Muon([{"params": [*network.parameters()]}], {network.weight: Rows(2, 1)}, 0.9, **options)
    adamw = torch.optim.AdamW(twin.parameters(), **options)
    weight, momentum = network.weight.detach().clone(), torch.zeros(6, 4)
    for i in range(2):
        for linear in (network, twin):
            linear.weight.grad, linear.bias.grad = draw(i, 6, 4), draw(7 + i, 6)
        gradient = draw(i, 6, 4)
        momentum = 0.9 * momentum + 0.1 * gradient
        direction = newton_schulz((0.9 * momentum + 0.1 * gradient)[None])[0]
        weight = (1 - 0.1 * 0.5) * weight - 0.1 * 0.2 * 6**0.5 * direction
        muon.step(), adamw.step()
        torch.testing.assert_close(network.weight, weight)
        assert torch.equal(network.bias, twin.bias) and not torch.equal(network.weight, twin.weight)
    assert set(muon.state[network.weight]) == {"step", "momentum_buffer"}


def test_orthogonalisation_uses_the_requested_dtype():
    network = torch.nn.Linear(8, 6, bias=False)
    before, found = network.weight.detach().clone(), {}
    for products in (torch.float32, torch.bfloat16):
        network.weight.data.copy_(before)
        network.weight.grad = draw(3, 6, 8)
        groups = [{"params": [network.weight]}]
        Muon(groups, {network.weight: Rows()}, 0.9, products, lr=1.0, weight_decay=0.0).step()
        found[products] = before - network.weight.detach()
        momentum = (0.1 * 0.9 + 0.1) * draw(3, 6, 8)  # with Nesterov momentum, after one step
        expected = 0.2 * 8**0.5 * newton_schulz(momentum[None], products)[0].float()
        torch.testing.assert_close(found[products], expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(*found.values())


def test_settings_reach_the_optimiser(vae):
    network = warm()
    muon = ["optimizer=muon", "muon_momentum=0.5", "weight_decay=0.2", "muon_per_head=false"]
    plain, muon = (make_optimizer(small(vae, *words), network) for words in ([], muon))
    assert type(plain) is torch.optim.AdamW and len(plain.param_groups) == 1
    assert muon.momentum == 0.5 and muon.matrices == block_matrices(network, False)
    assert {group["weight_decay"] for group in muon.param_groups} == {0.2}
    bf16 = make_optimizer(small(vae, "optimizer=muon", "precision=bf16"), network)
    assert (muon.products, bf16.products) == (torch.float32, torch.bfloat16)
    for words in (["muon_momentum=0.9"], ["muon_per_head=false"]):
        with pytest.raises(ValueError, match="does nothing with optimizer=adamw: leave it at"):
            small(vae, *words)


def test_a_stopped_run_of_whole_matrices_resumes_bit_exactly(vae, tmp_path):
    """They are those of all heads together, which changes the run; by default, each head has its own."""
    words = ["clips=4", "steps=3", "schedule=constant", "optimizer=muon"]
    config = lambda *changes: small(vae, *words, "muon_per_head=false", *changes)
    run(config("steps=1"), tmp_path / "parts")
    run(config(), tmp_path / "parts")
    run(config(), tmp_path / "whole")
    run(small(vae, *words), tmp_path / "heads")
    parts, whole, heads = (tensors(checkpoint.latest(tmp_path / name)) for name in ("parts", "whole", "heads"))
    assert same(parts, whole) and not same(whole, heads)


def test_processes_share_the_work_and_match_one_process(tmp_path, monkeypatch):
    network, made = warm(), []
    matrices = block_matrices(network, False)
    for i, parameter in enumerate(network.parameters()):
        parameter.grad = draw(i, *parameter.shape)
    other = copy.deepcopy(network)
    for parameter, twin in zip(other.parameters(), network.parameters()):
        parameter.grad = twin.grad.clone()
    Muon([{"params": [*network.parameters()]}], matrices, 0.9, lr=0.1).step()
    monkeypatch.setattr(module, "orthogonal", lambda *args: made.append(1) or orthogonal(*args))

    def work():
        with processes(torch.device("cpu")):
            Muon([{"params": [*other.parameters()]}], block_matrices(other, False), 0.9, lr=0.1).step()
        assert len(made) in (len(matrices) // 2, (len(matrices) + 1) // 2)
        assert same(dict(network.named_parameters()), dict(other.named_parameters()))

    together(2, work, tmp_path / "log")


def test_sharded_weights_are_gathered(vae, tmp_path):
    """Two processes, each with a part of every weight, resume from the checkpoint of one process and match it."""
    words = ["steps=3", "micro_batch_size=2", "optimizer=muon", "schedule=constant"]
    run(small(vae, *words, "steps=2"), tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    run(small(vae, *words), tmp_path / "one")
    together(2, lambda: run(small(vae, *words, "shard=true"), tmp_path / "two"), tmp_path / "log")
    one, two = (tensors(checkpoint.latest(tmp_path / name)) for name in ("one", "two"))
    assert sum(name.endswith("momentum_buffer") for name in one) == 10 and one.keys() == two.keys()
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
