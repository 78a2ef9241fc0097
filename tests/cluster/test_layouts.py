"""A sharded state learns the same as a replicated one, and runs move between any layouts and numbers of devices."""

import jax
import numpy as np
import pytest
import several
from jax.sharding import PartitionSpec
from test_processes import CONFIG, examples_expected, examples_seen, leaves, losses

from diffjax import from_config, runs
from diffjax.cluster import layouts
from diffjax.runs.checkpoints import Checkpoints

WIDE = CONFIG | {"model.width": 32, "model.num_groups": 8}


@pytest.mark.parametrize(
  ("shape", "count", "axes"),
  [
    ((3, 3, 64, 128), 8, (None, None, "devices")),
    ((512, 10), 8, ("devices",)),
    ((3, 1025), 8, ()),
    ((1016,), 8, ()),
    ((), 8, ()),
    ((5, 1024), 1, ("devices",)),
  ],
)
def test_leaves_are_split_along_the_first_axis_that_the_devices_divide(shape, count, axes):
  assert layouts.spec(shape, count) == PartitionSpec(*axes)


@pytest.fixture(scope="module")
def eight(tiny_data, tmp_path_factory):
  """The same run on eight devices in both layouts: {layout: (folder, records of the processes)}."""
  outcomes = {}
  for name in ("pmap", "fsdp"):
    folder = tmp_path_factory.mktemp(name)
    seen, _ = several.run(folder, name, tiny_data, devices=8, config=WIDE | {"parallel": name}, draw=7)
    outcomes[name] = folder / "run", seen[0]
  return outcomes


@pytest.mark.slow
def test_fsdp_has_the_losses_of_pmap(eight):
  for ours, theirs in zip(*(losses(workdir) for workdir, _ in eight.values())):
    np.testing.assert_allclose(ours, theirs, rtol=5e-5)
  for a, b in zip(*(leaves(seen) for _, seen in eight.values()), strict=True):
    np.testing.assert_allclose(a, b, atol=5e-4)


@pytest.mark.slow
def test_fsdp_holds_an_eighth_on_each_device(eight):
  held = {name: int(seen["bytes"]) for name, (_, seen) in eight.items()}
  whole = sum(leaf.nbytes for leaf in leaves(eight["pmap"][1]))
  assert held["pmap"] == whole
  assert whole / 8 <= held["fsdp"] < 1.3 * whole / 8, held  # small leaves are whole everywhere
  assert eight["fsdp"][1]["returned_bytes"] == held["fsdp"]  # nor does a run that ends gather its state


@pytest.mark.slow
def test_fsdp_sees_every_example_once(eight, tiny_data):
  for _, seen in eight.values():
    examples = examples_seen([seen])
    assert len(examples) == 8 * 16
  assert examples_seen([eight["pmap"][1]]) == examples_seen([eight["fsdp"][1]])


def restored(workdir, step=None):
  """The state of a run as NumPy arrays, at a checkpoint, by default the newest."""
  config = runs.read_config(workdir)
  checkpoints = Checkpoints(workdir / runs.CHECKPOINTS, read_only=True)
  try:
    step = checkpoints.steps()[-1] if step is None else step
    return checkpoints.restore(step, jax.eval_shape(lambda: from_config.initial_state(config)))[0]
  finally:
    checkpoints.close()


@pytest.mark.slow
def test_a_shared_state_is_saved_whole(eight):
  workdir, seen = eight["fsdp"]
  for a, b in zip(jax.tree.leaves(restored(workdir)), leaves(seen), strict=True):
    assert isinstance(a, np.ndarray)
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_steps_that_follow_do_not_reach_what_is_being_saved(eight):
  """The arrays are written in the background while they are donated to the next step."""
  for step in (3, 6):
    ours, theirs = (restored(workdir, step) for workdir, _ in eight.values())
    assert ours.step == theirs.step == step
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-4), ours.params, theirs.params)


@pytest.mark.slow
def test_fsdp_draws_what_pmap_draws(eight):
  drawn = [seen["drawn"].astype(int) for _, seen in eight.values()]
  assert drawn[0].std() > 20 and np.abs(drawn[0] - drawn[1]).max() <= 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", [{"clip": True}, {"config": {"train.accumulate": 2}}], ids=["clip", "accumulate"])
def test_fsdp_of_whole_batches(tiny_data, tmp_path, kind):
  """A contrastive loss sees the whole batch, and accumulation processes parts of a batch one by one."""
  found = []
  for name in ("pmap", "fsdp"):
    (tmp_path / name).mkdir()
    config = {"train.log_every": 1, "train.sample_every": 8, "parallel": name} | kind.get("config", {})
    several.run(tmp_path / name, "run", tiny_data, devices=4, **(kind | {"config": config}))
    found.append(losses(tmp_path / name / "run"))
    assert (tmp_path / name / "run" / "samples" / "step_0000008.png").is_file()  # drawn of a state that is shared, too
  np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-4)
  np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-4)


MOVES = [
  dict(num_processes=1, devices=8, layout="pmap"),
  dict(num_processes=1, devices=2, layout="pmap"),
  dict(num_processes=1, devices=8, layout="pmap"),
  dict(num_processes=4, devices=2, layout="pmap"),
  dict(num_processes=1, devices=8, layout="fsdp"),
  dict(num_processes=2, devices=2, layout="fsdp"),
  dict(num_processes=1, devices=1, layout="pmap"),
]
SHORT = [MOVES[0], MOVES[5], MOVES[6]]


@pytest.mark.parametrize(
  "moves",
  [pytest.param(SHORT, marks=pytest.mark.slow, id="short"), pytest.param(MOVES, marks=pytest.mark.soak, id="all")],
)
def test_a_run_moves_between_any_devices(tiny_data, tmp_path, moves):
  """8 -> 2 -> 8 devices, 4 processes -> 1, pmap -> fsdp -> pmap: each resumes the exact state and the next ids."""
  steps = 4 + 2 * len(moves)
  changes = WIDE | {"train.steps": steps, "train.sample_every": 0, "train.steps_per_call": 1}
  examples, before, step = {}, None, 0
  for i, move in enumerate(moves):
    last = i == len(moves) - 1
    asked = {"config": changes | {"parallel": move["layout"]}} | ({} if last else {"stop_after": 2})
    seen, out = several.run(
      tmp_path, f"move{i}", tiny_data, num_processes=move["num_processes"], devices=move["devices"], **asked
    )
    assert f"resuming from step {step}" in out or not step
    for one in seen if before is not None else ():
      for a, b in zip(jax.tree.leaves(before), leaves(one, "start"), strict=True):
        np.testing.assert_array_equal(a, b)
    examples |= {(step + k, place): example for (k, place), example in examples_seen(seen).items()}
    before = restored(tmp_path / "run")
    former, step = step, int(before.step)
    print(f"{move}: runs to step {step}", flush=True)
    assert step == steps if last else step - former in (2, 3)  # several processes agree on a stop one call later
  config = runs.read_config(tmp_path / "run")
  assert examples == examples_expected(config, 0, steps)
  (tmp_path / "alone").mkdir()
  whole, _ = several.run(tmp_path / "alone", "whole", tiny_data, config=changes)
  for a, b in zip(jax.tree.leaves(before), leaves(whole[0]), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-3)
  print(f"{len(moves)} moves, {steps} steps, {len(examples)} examples, none repeated or skipped")


@pytest.mark.slow
def test_a_model_that_is_shared_draws_what_a_whole_one_draws(eight):
  """From a checkpoint, on the host, and during training, when no device ever holds the whole state."""
  workdir, seen = eight["fsdp"]
  config = runs.read_config(workdir)
  whole = runs.Run(config.copy_and_resolve_references(), restored(workdir).ema[0], 8)
  whole.config.parallel = "pmap"
  shared = runs.load_run(workdir)
  assert shared.config.parallel == "fsdp"
  held = {name: int(seen["model_bytes"]) for name, (_, seen) in eight.items()}
  assert held["pmap"] / 8 <= held["fsdp"] < 1.3 * held["pmap"] / 8, held
  labels = np.arange(7)
  for options in (dict(), dict(init_image=np.zeros((8, 8, 1), np.uint8), strength=0.6)):
    drawn, path = whole.draw(7, labels=labels, batch_size=8, trajectory=True, **options)
    again, same_path = shared.draw(7, labels=labels, batch_size=8, trajectory=True, **options)
    assert np.abs(again.astype(int) - drawn).max() <= 1 and np.abs(same_path.astype(int) - path).max() <= 1
  whole_again, _ = whole.draw(7, labels=labels, batch_size=8, trajectory=True)
  assert np.abs(seen["drawn"].astype(int) - whole_again).max() <= 1
