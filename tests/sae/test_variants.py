"""What every dictionary keeps to, whatever decides which latents are active."""

import math

import pytest
import torch
import torch.nn.functional as F

from diffdict.errors import UserError
from diffdict.sae.relu import Gated, JumpRelu, Relu
from diffdict.sae.topk import BatchTopK, Matryoshka, TopK

D, LATENTS = 16, 64
MAKERS = {
    "relu": lambda **o: Relu(D, latents=LATENTS, **o),
    "gated": lambda **o: Gated(D, latents=LATENTS, **o),
    "jumprelu": lambda **o: JumpRelu(D, latents=LATENTS, **o),
    "topk": lambda **o: TopK(D, k=4, latents=LATENTS, **o),
    "batch_topk": lambda **o: BatchTopK(D, k=4, latents=LATENTS, **o),
    "matryoshka": lambda **o: Matryoshka(D, k=4, latents=LATENTS, groups=[0.25, 0.75], **o),
}
every = pytest.mark.parametrize("name", MAKERS)


@pytest.fixture
def x():
    return 5 + 3 * torch.randn(96, D, generator=torch.Generator().manual_seed(1))


def trained(sae, x, steps=30):
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    for _ in range(steps):
        out = sae(x)
        optimizer.zero_grad()
        out.loss.backward()
        sae.remove_parallel_gradient()
        optimizer.step()
        sae.unit_norm()
        sae.count(out.active > 0, len(x))
    return sae.eval()


@every
def test_learning_lowers_the_error_and_keeps_rows_of_length_one(name, x):
    sae = MAKERS[name](mean=x.mean(0), token_scale=1 / 3)
    before = sae(x).parts["mse"]
    trained(sae, x)
    assert sae(x).parts["mse"] < 0.7 * before
    lengths = torch.linalg.vector_norm(sae.dictionary, dim=1)
    assert torch.allclose(lengths, torch.ones(LATENTS), atol=1e-5)


@every
def test_what_inference_says_is_what_forward_says(name, x):
    sae = trained(MAKERS[name](mean=x.mean(0), token_scale=1 / 3), x)
    codes, sparse, out = sae.encode(x), sae.encode_sparse(x), sae(x)
    assert torch.allclose(sparse.dense(LATENTS), codes, atol=1e-5)
    assert torch.equal((codes > 0).sum(0), out.active)
    assert torch.allclose(sae.decode(codes), out.reconstruction, atol=1e-4)
    assert torch.allclose(sae.decode(sparse), sae.decode(codes), atol=1e-4)


@every
def test_entries_and_matrix_are_one_mathematics(name, x):
    if not hasattr(sae := trained(MAKERS[name](mean=x.mean(0)), x), "density"):
        return
    sae.density.fill_(1.0)
    dense = sae(x)
    sae.density.fill_(0.0)
    sparse = sae(x)
    assert torch.allclose(dense.loss, sparse.loss, rtol=1e-5)
    assert torch.allclose(dense.codes, sparse.codes.dense(LATENTS), atol=1e-5)
    assert torch.equal(dense.active, sparse.active)


@every
def test_an_encoder_may_see_tokens_as_they_are(name, x):
    """Told by the formula before any step, and by a twin whose biases take off b_dec after some."""
    plain = MAKERS[name](mean=x.mean(0), token_scale=1 / 3, apply_b_dec_to_input=False)
    plain.b_dec.data.fill_(0.7)
    pre = (x - x.mean(0)) / 3 @ plain.W_enc.T + plain.b_enc
    assert torch.allclose(plain.pre(x), pre, atol=1e-5)
    assert torch.allclose(plain.eval()(x).reconstruction, plain.decode(plain.encode(x)), atol=1e-4)
    plain = trained(plain.train(), x)
    twin = MAKERS[name](mean=x.mean(0), token_scale=1 / 3).eval()
    twin.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for key, stretch in (
            ("b_enc", 1),
            ("b_mag", torch.exp(getattr(plain, "r_mag", plain.b_enc))),
        ):
            if hasattr(twin, key):
                getattr(twin, key).add_(twin.W_enc @ twin.b_dec * stretch)
    assert plain.b_dec.abs().min() > 0.1
    assert torch.allclose(plain.encode(x), twin.encode(x), atol=1e-5)


@every
def test_a_tokens_codes_do_not_depend_on_its_batch(name, x):
    sae = trained(MAKERS[name](mean=x.mean(0), token_scale=1 / 3), x)
    one_by_one = torch.cat([sae.encode(x[i : i + 1]) for i in range(len(x))])
    assert torch.allclose(one_by_one, sae.encode(x), atol=1e-5)


@every
def test_latents_can_be_taken_in_parts(name, x):
    sae = trained(MAKERS[name](mean=x.mean(0), token_scale=1 / 3), x)
    part = slice(10, 30)
    assert torch.allclose(sae.pre(x, part), sae.pre(x)[:, part], atol=1e-5)
    if name != "topk":  # whose choice needs all of them
        codes = sae.activate(sae.pre(x, part), part)
        assert torch.allclose(codes, sae.encode(x)[:, part], atol=1e-5)
    else:
        with pytest.raises(ValueError, match="among all latents"):
            sae.activate(sae.pre(x, part), part)


@every
def test_the_standard_form_is_only_a_change_of_units(name, x):
    """Learned on raw tokens in standard form = learned on tokens brought there beforehand."""
    raw = trained(MAKERS[name](mean=x.mean(0), token_scale=0.25), x)
    standard = trained(MAKERS[name](), (x - x.mean(0)) * 0.25)
    assert torch.allclose(raw.W_dec, standard.W_dec, atol=1e-4)
    back = standard.decode(standard.encode((x - x.mean(0)) * 0.25)) / 0.25 + x.mean(0)
    assert torch.allclose(raw.decode(raw.encode(x)), back, atol=1e-2)


@every
def test_the_same_seed_makes_the_same_dictionary(name):
    one, two, other = (MAKERS[name](seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["W_dec"], other["W_dec"])


@every
def test_half_precision_is_close(name, x):
    sae = trained(MAKERS[name](mean=x.mean(0), token_scale=1 / 3), x)
    full = sae(x).parts["mse"]
    with torch.autocast("cpu", torch.bfloat16):
        out = sae(x)
        out.loss.backward()
    assert abs(out.parts["mse"] - full) < 0.1 * full + 0.02
    assert sae.W_enc.grad.isfinite().all()


@every
@pytest.mark.parametrize("batch", [16, 32, 96])
def test_dead_is_a_matter_of_tokens_not_of_batches(name, batch, x):
    sae = MAKERS[name](dead_after=96)
    sae.b_enc.data[:8] = -1e4
    for part in x.split(batch):
        sae.count(sae(part).active > 0, len(part))
    assert sae.dead[:8].all()
    assert sae.silent.max() == 96
    assert not sae.dead[(sae(x).active > 0)].any() or batch < 96


def test_the_gradient_left_does_not_change_lengths(x):
    sae = MAKERS["topk"]()
    sae(x).loss.backward()
    sae.remove_parallel_gradient()
    assert torch.linalg.vecdot(sae.W_dec.grad, sae.W_dec).abs().max() < 1e-6


def test_auxk_brings_dead_latents_back(x):
    sae = TopK(D, x.mean(0), 1 / 3, k=2, latents=LATENTS, aux_k=8, dead_after=200)
    with torch.no_grad():
        sae.b_enc[:32] = -2.0  # too low to ever be among the largest
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    dead = []
    for _ in range(300):
        out = sae(x)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        sae.unit_norm()
        sae.count(out.active > 0, len(x))
        dead.append(int(sae.dead.sum()))
    assert max(dead) >= 30
    assert dead[-1] < 20


def test_revived_latents_point_at_the_tokens_given(x):
    sae = MAKERS["relu"](dead_after=10)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    sae(x).loss.backward()
    optimizer.step()
    which = torch.tensor([3, 7])
    sae.silent[which] = 10
    sae.revive(which, x[:2], optimizer)
    expected = F.normalize(x[:2] - sae.b_dec, dim=1)
    assert torch.allclose(sae.W_dec[which], expected)
    assert torch.allclose(F.normalize(sae.W_enc[which], dim=1), expected, atol=1e-5)
    assert not sae.dead.any()
    for parameter in (sae.W_dec, sae.W_enc, sae.b_enc):
        state = optimizer.state[parameter]
        assert not state["exp_avg"][which].any()
        assert state["exp_avg"].any()


@pytest.mark.parametrize("name", ["relu", "gated", "jumprelu"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_revived_latent_is_active_again(name, inside, x):
    options = {"dead_after": 10, "apply_b_dec_to_input": inside}
    sae = MAKERS[name](mean=x.mean(0), token_scale=1 / 3, **options)
    sae.b_dec.data.fill_(-9.0)
    with torch.no_grad():
        for parameter in sae.starts:
            parameter[5] = 50.0 if name == "jumprelu" and parameter is sae.threshold else -50.0
    assert not sae.encode(x)[:, 5].any()
    sae.revive(torch.tensor([5]), sae.standard(x[:1]))
    assert sae.encode(x)[0, 5] > 0
    assert sae.pre(sae.raw(sae.b_dec[None]))[0, 5].abs() < 1e-4  # nothing at the centre


def test_every_prefix_of_a_matryoshka_dictionary_reconstructs(x):
    sae = trained(MAKERS["matryoshka"](mean=x.mean(0), token_scale=1 / 3), x, steps=200)
    codes = sae.encode(x)
    errors = []
    for group in range(2):
        part = torch.where(sae.group <= group, codes, 0)
        errors.append((sae.decode(part) - x).square().mean())
    assert errors[1] < errors[0] < 0.8 * x.var(0).mean()


def test_the_batchs_threshold_stands_for_the_batch(x):
    sae = MAKERS["batch_topk"](mean=x.mean(0), token_scale=1 / 3)
    trained(sae, x, steps=300)
    assert sae.encode_sparse(x).l0 == pytest.approx(4, rel=0.25)


def test_centre_at_the_geometric_median():
    x = torch.cat([torch.randn(200, D), 1000 + torch.randn(20, D)])  # a tenth far away
    sae = Relu(D, latents=LATENTS, standardise=False, centre="median")
    sae.set_centre(x)
    assert torch.linalg.vector_norm(sae.b_dec) < 1  # the mean lies at 91 in every dimension


def test_without_standard_form_the_centre_starts_at_the_mean(x):
    sae = Relu(D, x.mean(0), 9.0, latents=LATENTS, standardise=False)
    assert torch.equal(sae.standard(x), x)
    assert torch.allclose(sae.b_dec, x.mean(0))


def test_orthogonal_start():
    columns = Relu(D, latents=LATENTS, decoder_init="orthogonal", tied=False).W_dec
    assert torch.allclose(columns.T @ columns, torch.eye(D), atol=1e-5)


def test_linear_biases_start_as_torch_starts_them():
    """From both ends of their ranges, by the width of what each layer takes in."""
    zero, sae = Relu(400, latents=900), Relu(400, latents=900, centre="linear")
    for bias, takes in ((sae.b_enc, 400), (sae.b_dec, 900)):
        assert takes**-0.5 * 0.97 < bias.max() <= takes**-0.5
        assert -(takes**-0.5) <= bias.min() < takes**-0.5 * -0.97
        assert bias.std().item() == pytest.approx((3 * takes) ** -0.5, rel=0.1)
    assert torch.equal(sae.W_enc, zero.W_enc)
    assert not zero.b_enc.any()


def test_scale_counts_latents_per_dimension():
    assert Relu(D, scale=1.5).latents == 24
    assert Relu(D, scale=20).latents == 20 * D
    assert Relu(D, scale=20, latents=7).latents == 7


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Relu(D, scale=0.01), r"at least 1 latent, got sae.scale=0.01 of 16"),
        (lambda: TopK(D, k=65, latents=64), r"sae.k must lie in 1..64, .* got 65: lower sae.k"),
        (lambda: TopK(D, k=0), "sae.k must lie in"),
        (lambda: Relu(D, normalise="always"), "sae.normalise is step or forward or none, got"),
        (lambda: Relu(D, centre="middle"), "sae.centre is mean or median"),
        (lambda: Relu(D, sparsity=-1), "must not be negative, got -1"),
        (lambda: Relu(D, dead_after=0), "counts tokens and is at least 1, got 0"),
        (lambda: JumpRelu(D, bandwidth=0), "must be positive, got 0"),
        (lambda: Matryoshka(D, groups=[0.5, 0.6]), "positive shares of sum 1"),
        (lambda: Matryoshka(D, latents=40, groups=[0.001, 0.999]), "leave a group of 40"),
        (lambda: Relu(D).encode(torch.zeros(3, 8)), r"got \[3, 8\]"),
    ],
)
def test_a_users_mistake_is_one_sentence(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


def test_a_token_that_is_not_a_number_makes_the_loss_say_so(x):
    x[3, 2] = math.nan
    for make in MAKERS.values():
        assert make()(x).loss.isnan()


def test_rows_of_concatenated_timesteps_start_alike_in_all_parts():
    for variant, tied in (
        (TopK(12, latents=7, k=2), True),
        (TopK(12, latents=7, k=2, tied=False), False),
    ):
        before = variant.W_enc.detach().clone()
        variant.repeat_rows(3)
        parts = variant.W_dec.unflatten(1, (3, 4))
        assert torch.equal(parts[:, 0], parts[:, 1])
        assert torch.equal(parts[:, 0], parts[:, 2])
        torch.testing.assert_close(variant.W_dec.norm(dim=1), torch.ones(7))
        assert torch.equal(variant.W_enc, variant.W_dec if tied else before)
