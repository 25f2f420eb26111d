"""ZeRO over two processes, without Ray: like one process, and going on like not interrupted."""

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from tests.unit.ray_jobs.waltzrl import policy_rig as rig

pytestmark = [
    pytest.mark.ray,
    # DeepSpeed uses what PyTorch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
]
STAGES = (2, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave, a folder for each ZeRO stage."""
    folder = tmp_path_factory.mktemp("zero")
    options = {f"{folder}/{stage}": rig.options(stage) for stage in STAGES}
    mp.spawn(rig.worker, args=(2, options, str(folder / "rendezvous")), nprocs=2)
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_train_and_go_on_like_one(stage: int, folder: Path):
    mine = folder / str(stage)
    whole, resumed = (rig.loaded(mine / name) for name in ("whole", "resumed"))
    assert rig.same_bits(whole, resumed) and whole["norms"] == resumed["norms"]
    rig.close(whole["weights"], rig.plain_training(4), atol=1e-5)
    # What two wrote, one goes on from.
    rig.resume(mine, rig.options(stage), "alone")
    rig.close(rig.loaded(mine / "alone")["weights"], whole["weights"], atol=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_both_processes_wrote_their_parts_in_pieces(stage: int, folder: Path):
    (saved,) = (folder / str(stage) / "saved").iterdir()
    assert saved.name == "step-00000002-w2-a"
    tensors = torch.cat([p.flatten() for p in rig.tiny_llama().parameters()]).nbytes
    sizes = [path.stat().st_size for path in saved.glob("*.pt")]
    assert 3 * tensors < sum(sizes) and max(sizes) < 3 * tensors / 4
    for rank in range(2):
        assert len(list(saved.glob(f"rank-0000{rank}*.pt"))) > 3
