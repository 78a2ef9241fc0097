"""LoRA files against diffusers on the same files, and flavours it cannot read against their formulas."""

import functools

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

import jax  # noqa: E402 - after the skips
import jax.numpy as jnp  # noqa: E402
from flax import traverse_util  # noqa: E402

import sample  # noqa: E402
from diffjax import pretrained  # noqa: E402
from diffjax.adapters import LoRA  # noqa: E402

UNET = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "conv1", "conv_shortcut", "proj_in", "conv"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1"]


@pytest.fixture(scope="module")
def opened(both):
  """By kind: the folder that their pipeline was saved in, and ours read from it."""
  return functools.cache(lambda kind: (both(kind)[1], pretrained.load_pipeline(both(kind)[1])))


def adapted(network, targets, alpha=8, **more):
  """Adds a random peft adapter of rank 4 to one of their networks, and returns its state and settings."""
  config = peft.LoraConfig(r=4, lora_alpha=alpha, target_modules=targets, init_lora_weights=False, **more)
  network.add_adapter(config, adapter_name="default")
  for name, parameter in network.named_parameters():
    if "lora_" in name:
      parameter.data = (
        (1 + 0.3 * torch.randn_like(parameter)) if "magnitude" in name else 0.3 * torch.randn_like(parameter)
      )
  state = peft.get_peft_model_state_dict(network, adapter_name="default")
  return state, network.peft_config["default"]


def theirs_of(folder):
  kind = diffusers.DiffusionPipeline.from_pretrained(folder)
  kind.set_progress_bar_config(disable=True)
  return kind


def outputs(theirs, ours):
  """(their, our) U-Net outputs and hidden states of a prompt on the same inputs."""
  large = ours.denoiser.network.module.size_dim > 0
  x = np.random.default_rng(0).normal(size=(1, 8, 8, 4)).astype(np.float32)
  conds = ours.conditioner.conds(1, (16, 16), prompt="a red three")[0]
  encoded = theirs.encode_prompt(
    "a red three", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
  )
  context = encoded[0].numpy()
  torch_of = lambda a: torch.from_numpy(np.array(a))
  more = {}
  if large:
    more = {"added_cond_kwargs": {"text_embeds": encoded[2], "time_ids": torch_of(conds["sizes"])}}
  with torch.no_grad():
    expected = theirs.unet(torch_of(x.transpose(0, 3, 1, 2)), 500, torch_of(context), **more).sample
  network = ours.denoiser.network
  found = network.module.apply(network.params, jnp.asarray(x), jnp.full(1, 500.0), jax.tree.map(jnp.asarray, conds))
  return (expected.numpy().transpose(0, 2, 3, 1), context), (found, conds["context"])


def check(theirs, ours):
  expected, found = outputs(theirs, ours)
  for a, b in zip(found, expected):
    np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


def saved(folder, theirs, tmp_path, dora=False):
  """Adapters on U-Net and text encoders, in diffusers' own file."""
  torch.manual_seed(1)
  states, configs = {}, {}
  for name, targets in (("unet", UNET), ("text_encoder", TEXT), ("text_encoder_2", TEXT)):
    if getattr(theirs, name, None) is not None:
      states[name], configs[name] = adapted(getattr(theirs, name), targets, use_dora=dora)
  theirs.save_lora_weights(
    tmp_path,
    **{f"{name}_lora_layers": state for name, state in states.items()},
    **{f"{name}_lora_adapter_metadata": config.to_dict() for name, config in configs.items()},
  )
  return tmp_path / "pytorch_lora_weights.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "dora"), [("1", False), ("1", True), ("xl", False)])
def test_as_diffusers_writes_it(opened, tmp_path, kind, dora):
  folder, base = opened(kind)
  theirs = theirs_of(folder)
  path = saved(folder, theirs, tmp_path, dora)
  lora = pretrained.load_lora(base, path)
  check(theirs, pretrained.with_lora(base, lora))
  unchanged = pretrained.with_lora(base, lora, 0.0)
  for a, b in zip(
    jax.tree.leaves((unchanged.denoiser, unchanged.conditioner)), jax.tree.leaves((base.denoiser, base.conditioner))
  ):
    np.testing.assert_array_equal(a, b)


def as_kohya(path):
  """The same file in kohya's names."""
  renamed = {}
  for name, array in load_file(path).items():
    component, rest = name.split(".", 1)
    module, part = rest.rsplit(".lora_", 1)
    prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}[component]
    stem = prefix + module.replace(".", "_")
    renamed[f"{stem}.lora_{'down' if part.startswith('A') else 'up'}.weight"] = array
    renamed[f"{stem}.alpha"] = np.array(8, np.float32)
  return renamed


@pytest.mark.slow
def test_kohyas_names_mean_the_same(opened, tmp_path):
  folder, base = opened("1")
  theirs = theirs_of(folder)
  path = saved(folder, theirs, tmp_path)
  save_file(as_kohya(path), tmp_path / "kohya.safetensors")
  again = theirs_of(folder)
  again.load_lora_weights(tmp_path, weight_name="kohya.safetensors")
  ours = pretrained.with_lora(base, pretrained.load_lora(base, tmp_path / "kohya.safetensors"))
  check(again, ours)
  check(theirs, ours)


ATTENTION = "down_1_transformer_0/block_0/attention_0/q/kernel"
CONV = "down_1_block_0/conv_1/kernel"
NORM = "down_1_block_0/norm_0"
ATTENTION_NAMES = (
  "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
  "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q",
  "diffusion_model.input_blocks.3.1.transformer_blocks.0.attn1.to_q",
  "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q",
)
CONV_NAME, NORM_NAME = "lora_unet_down_blocks_1_resnets_0_conv2", "lora_unet_down_blocks_1_resnets_0_norm1"


def arrays(**shapes):
  generator = np.random.default_rng(2)
  return {name.replace("__", "."): generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def difference(base, tmp_path, stem, tensors, path, strength=1.0):
  """What a file of one module's tensors adds to a parameter of the U-Net, in PyTorch's layout."""
  save_file({f"{stem}.{name}": array for name, array in tensors.items()}, tmp_path / "one.safetensors")
  made = pretrained.with_lora(base, pretrained.load_lora(base, tmp_path / "one.safetensors"), strength)
  leaf = lambda pipeline: np.asarray(flat(pipeline)[path])
  changed = [name for name in flat(made) if (flat(made)[name] != flat(base)[name]).any()]
  assert changed == [path]
  return in_torch(leaf(made) - leaf(base))


def flat(pipeline):
  return traverse_util.flatten_dict(pipeline.denoiser.network.params["params"], sep="/")


def in_torch(array):
  return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def agree(found, expected):
  np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_every_spelling(opened, tmp_path):
  _, base = opened("1")
  a = arrays(down=(2, 64), up=(64, 2))
  forms = [("lora_down.weight", "lora_up.weight")] * 3 + [("_lora.down.weight", "_lora.up.weight")]
  for name, (down, up) in zip(ATTENTION_NAMES, forms):
    file = {f"{name}{'' if down[0] == '_' else '.'}{part}": a[own] for part, own in ((down, "down"), (up, "up"))}
    save_file(file, tmp_path / "one.safetensors")
    lora = pretrained.load_lora(base, tmp_path / "one.safetensors")
    assert list(lora.network) == [ATTENTION], name


@pytest.mark.slow
def test_flavours_by_their_formulas(opened, tmp_path):
  """Yeh et al. 2024's formulas, in PyTorch's layout; alpha 3 everywhere, ranks of 2."""
  _, base = opened("1")
  alpha = {"alpha": np.array(3, np.float32)}
  added = lambda path, stem, tensors: difference(base, tmp_path, stem, tensors | alpha, path)

  t = arrays(hada_w1_a=(64, 2), hada_w1_b=(2, 64), hada_w2_a=(64, 2), hada_w2_b=(2, 64))
  expected = 1.5 * (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"])
  agree(added(ATTENTION, ATTENTION_NAMES[0], t), expected)

  t = arrays(hada_w1_a=(64, 2), hada_w1_b=(2, 576), hada_w2_a=(64, 2), hada_w2_b=(2, 576))
  expected = 1.5 * (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"])
  agree(added(CONV, CONV_NAME, t), expected.reshape(64, 64, 3, 3))

  shapes = {"w1_a": (2, 64), "w1_b": (2, 64), "t1": (2, 2, 3, 3), "w2_a": (2, 64), "w2_b": (2, 64), "t2": (2, 2, 3, 3)}
  t = arrays(**{f"hada_{name}": shape for name, shape in shapes.items()})
  sides = [np.einsum("ijkl,jr,ip->prkl", t[f"hada_t{i}"], t[f"hada_w{i}_b"], t[f"hada_w{i}_a"]) for i in "12"]
  agree(added(CONV, CONV_NAME, t), 1.5 * sides[0] * sides[1])

  t = arrays(lokr_w1=(8, 4), lokr_w2_a=(8, 2), lokr_w2_b=(2, 16))
  agree(added(ATTENTION, ATTENTION_NAMES[0], t), 1.5 * np.kron(t["lokr_w1"], t["lokr_w2_a"] @ t["lokr_w2_b"]))

  t = arrays(lokr_w1=(8, 4), lokr_w2=(8, 16))  # no factor is factorised, so that alpha means nothing
  agree(added(ATTENTION, ATTENTION_NAMES[0], t), np.kron(t["lokr_w1"], t["lokr_w2"]))

  t = arrays(lokr_w1_a=(8, 2), lokr_w1_b=(2, 4), lokr_w2=(8, 16, 3, 3))
  left = (t["lokr_w1_a"] @ t["lokr_w1_b"])[:, :, None, None]
  agree(added(CONV, CONV_NAME, t), 1.5 * np.kron(left, t["lokr_w2"]))

  t = arrays(lora_down__weight=(2, 64, 1, 1), lora_mid__weight=(2, 2, 3, 3), lora_up__weight=(64, 2, 1, 1))
  up, down = t["lora_up.weight"][:, :, 0, 0], t["lora_down.weight"][:, :, 0, 0]
  expected = np.einsum("or,rshw,si->oihw", up, t["lora_mid.weight"], down)
  agree(added(CONV, CONV_NAME, t), 1.5 * expected)

  t = arrays(diff=(64, 64, 3, 3))
  agree(added(CONV, CONV_NAME, t), t["diff"])
  t = arrays(w_norm=(32,))
  agree(added(f"{NORM}/scale", NORM_NAME, t), t["w_norm"])
  t = arrays(b_norm=(32,))
  agree(added(f"{NORM}/bias", NORM_NAME, t), t["b_norm"])
  agree(difference(base, tmp_path, NORM_NAME, t, f"{NORM}/bias", strength=-0.5), -0.5 * t["b_norm"])


@pytest.mark.slow
@pytest.mark.parametrize("by_input", [False, True])
def test_dora_of_other_trainers(opened, tmp_path, by_input):
  _, base = opened("1")
  t = arrays(
    lora_down__weight=(2, 32, 3, 3),
    lora_up__weight=(64, 2, 1, 1),
    dora_scale=(1, 32, 1, 1) if by_input else (64, 1, 1, 1),
  )
  path = "down_1_block_0/conv_0/kernel"
  weight = in_torch(np.asarray(flat(base)[path]))
  change = np.einsum("or,rihw->oihw", t["lora_up.weight"][:, :, 0, 0], t["lora_down.weight"])
  direction = weight + change
  norm = np.sqrt((direction**2).sum((0, 2, 3) if by_input else (1, 2, 3), keepdims=True))
  expected = t["dora_scale"] * direction / norm - weight
  agree(difference(base, tmp_path, "lora_unet_down_blocks_1_resnets_0_conv1", t, path), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("tensors", "said"),
  [
    ({"lora_unet_nowhere.lora_down.weight": (2, 64)}, "which this model does not have"),
    ({"conv_in.weight": (4, 4)}, "no part of a LoRA"),
    ({f"{ATTENTION_NAMES[0]}.lora_down.weight": (2, 64)}, "make up no change"),
    (
      {f"{ATTENTION_NAMES[0]}.lora_down.weight": (2, 320), f"{ATTENTION_NAMES[0]}.lora_up.weight": (320, 2)},
      "changes a weight of shape",
    ),
    (
      {
        f"{name}.{part}.weight": (64, 2) if part[-1] == "p" else (2, 64)
        for name in ATTENTION_NAMES[:2]
        for part in ("lora_down", "lora_up")
      },
      "twice",
    ),
  ],
)
def test_what_does_not_fit_is_named(opened, tmp_path, tensors, said):
  _, base = opened("1")
  save_file({name: np.zeros(shape, np.float32) for name, shape in tensors.items()}, tmp_path / "odd.safetensors")
  with pytest.raises(ValueError, match=said) as error:
    pretrained.load_lora(base, tmp_path / "odd.safetensors")
  assert str(error.value).count(". ") <= 1 and "use " in str(error.value)


@pytest.mark.slow
def test_damaged_and_foreign_files(opened, tmp_path):
  _, base = opened("1")
  save_file({f"{CONV_NAME}.diff": np.full((64, 64, 3, 3), np.nan, np.float32)}, tmp_path / "nan.safetensors")
  (tmp_path / "old.pt").write_bytes(b"PK")
  (tmp_path / "cut.safetensors").write_bytes(b"123")
  for name, said in (("nan.safetensors", "not finite"), ("old.pt", "pickle"), ("cut.safetensors", "not a valid")):
    with pytest.raises(ValueError, match=said):
      pretrained.load_lora(base, tmp_path / name)
  with pytest.raises(FileNotFoundError, match="no file"):
    pretrained.load_lora(base, tmp_path / "missing.safetensors")


@pytest.mark.slow
def test_another_strength_compiles_nothing(opened, tmp_path, compilations):
  _, base = opened("1")
  save_file({f"{CONV_NAME}.diff": np.ones((64, 64, 3, 3), np.float32)}, tmp_path / "one.safetensors")
  lora = pretrained.load_lora(base, tmp_path / "one.safetensors")
  jax.clear_caches()
  pretrained.with_lora(base, lora, 0.5)
  before = compilations()
  pretrained.with_lora(base, lora, 0.8)
  assert compilations() == before > 0


@pytest.mark.slow
def test_one_of_the_network_alone_leaves_the_text_encoders(opened):
  _, base = opened("1")
  made = pretrained.with_lora(base, LoRA({}))
  ours, theirs = made.conditioner.towers, base.conditioner.towers
  assert len(ours) == len(theirs) and all(a.params is b.params for a, b in zip(ours, theirs))


@pytest.mark.slow
def test_sample_draws_with_it(opened, tmp_path):
  folder, _ = opened("1")
  save_file({f"{CONV_NAME}.diff": arrays(a=(64, 64, 3, 3))["a"]}, tmp_path / "one.safetensors")
  drawn = lambda **more: sample.draw(folder, tmp_path / "out", prompt="a red three", num=1, steps=2, **more)
  plain = drawn()
  np.testing.assert_array_equal(drawn(lora=f"{tmp_path / 'one.safetensors'}::0"), plain)
  assert (drawn(lora=str(tmp_path / "one.safetensors")) != plain).any()
  for wrong, said in (
    ("", "empty part"),
    ("one.safetensors::much", "is not a number"),
    ("none.safetensors", "no file"),
  ):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
      drawn(lora=wrong)
