"""Processes of one node that read the same experts hold one copy of them between them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_pairs import open_experts

READER = """
import json, sys
import psutil
from raydd.store import Record, Store
record = Record(Store({store!r}), "experts", {fingerprint!r}, {{}}, {{}})
before = psutil.Process().memory_full_info().pss
held = [record.{read}(name) for name in {names!r}]
for tensors in held:
    for tensor in tensors.values():
        tensor.view(-1)[::1024].sum()  # touches every page
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps(psutil.Process().memory_full_info().pss - before), flush=True)
sys.stdin.readline()
"""


def pss_of_readers(store: Path, fingerprint: str, names: list[str], read: str, readers: int) -> int:
    """Memory that some processes which hold these files take together, shared pages counted once."""
    code = READER.format(store=str(store), fingerprint=fingerprint, names=names, read=read)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(readers)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    sizes = [json.loads(process.stdout.readline()) for process in processes]
    for process in processes:
        process.communicate("\n")
    return sum(sizes)


@pytest.mark.slow
def test_four_trials_share_twenty_experts_of_published_size(tmp_path: Path):
    experts = open_experts(tmp_path / "store", count=20)
    image, text = 2304 * (2304 + 2304 + 4), 2304 * (768 + 2304 + 4)
    snapshot = {"image": torch.randn(image).half(), "text": torch.randn(text).half()}
    names = [experts.name(expert, 1) for expert in range(20)]
    for name in names:
        experts.record.write_tensors(name, snapshot)
    size = 20 * 2 * (image + text)
    of_one = (tmp_path / "store", experts.record.fingerprint, names)
    shared = pss_of_readers(*of_one, "map_tensors", readers=4)
    copied = pss_of_readers(*of_one, "read_tensors", readers=4)
    print(
        f"20 experts are {size / 1e9:.2f} GB; 4 readers hold {shared / 1e9:.2f} GB mapped, {copied / 1e9:.2f} GB copied"
    )
    assert shared < 1.2 * size
    assert copied > 3.8 * size
