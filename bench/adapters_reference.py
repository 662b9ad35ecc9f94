"""Do bakes agree with LyCORIS, where the formats come from?

Makes LoCon, LoHa and LoKr modules with random factors with the package lycoris-lora, in a virtual
environment of its own, for linear layers and convolutions, with and without cores; saves what the
package would save; and compares the differences that it computes with ours. See bench/README.md.

    python bench/adapters_reference.py --work /big/disk/bench
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from methods_reference import borrowing_python

from stockpot.adapters import find_modules
from stockpot.checkpoints import open_checkpoint

THEIRS = """
import sys, torch
from safetensors.torch import save_file
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
torch.manual_seed(0)
layers = {
    "line": lambda: torch.nn.Linear(24, 36),
    "wide": lambda: torch.nn.Conv2d(12, 16, 3),
    "thin": lambda: torch.nn.Conv2d(12, 16, 1),
}
kinds = {
    "locon": (LoConModule, {}),
    "locon with a core": (LoConModule, {"use_tucker": True}),
    "loha": (LohaModule, {}),
    "loha with cores": (LohaModule, {"use_tucker": True}),
    "lokr": (LokrModule, {}),
    "lokr, both factored": (LokrModule, {"decompose_both": True, "factor": 4}),
    "lokr with a core": (LokrModule, {"use_tucker": True, "decompose_both": True, "factor": 4}),
    "lokr, both whole": (LokrModule, {"full_matrix": True}),
}
stored, deltas = {}, {}
for number, (kind, (make, options)) in enumerate(kinds.items()):
    for layer in layers:
        org = layers[layer]()
        rank = 2 if "lokr" in kind else 4
        module = make("x", org, 1.0, rank, 3.0, **options).eval()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if not name.startswith("org"):
                    parameter.copy_(torch.randn_like(parameter))
        stem = f"lora_unet_{number}_{layer}"
        for name, value in module.state_dict().items():
            if not name.startswith("org"):
                stored[f"{stem}.{name}"] = value.detach().contiguous().clone()
        with torch.no_grad():
            # What the forward pass adds. (get_diff_weight of LoHa and LoKr in 4.1.3 multiplies by
            # alpha / rank once more.)
            if "locon" in kind:
                delta = module.get_diff_weight()[0]
            else:
                delta = module.get_weight(org.weight.shape)
        deltas[stem] = delta.reshape(len(org.weight), -1).contiguous().clone()
save_file(stored, sys.argv[1], {"kinds": "\\t".join(kinds)})
save_file(deltas, sys.argv[2])
"""


def main() -> None:
    """Compute both sides and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    packages = ("lycoris-lora==4.1.3", "einops==0.8.1", "toml==0.10.2")
    python = borrowing_python(args.work, "lycoris", packages)
    files = [args.work / f"lycoris-{name}.safetensors" for name in ("factors", "deltas")]
    subprocess.run([python, "-c", THEIRS, *files], check=True)
    worst: dict[str, float] = {}
    with open_checkpoint(files[0]) as source, open_checkpoint(files[1]) as made:
        kinds = source.metadata["kinds"].split("\t")
        for module in find_modules(source):
            change = module.read(source)
            expected = np.frombuffer(made.read_bytes(f"lora_unet_{module.name}"), np.float32)
            got = change.rows(0, change.n_rows).reshape(-1)
            off = float(np.abs(got - expected).max() / np.abs(expected).max())
            kind = kinds[int(module.name.partition("_")[0])]
            worst[kind] = max(worst.get(kind, 0.0), off)
    print(f"{'modules':24s}{'largest difference':>20s}  of the largest element")
    for kind, off in worst.items():
        print(f"{kind:24s}{off:20.2g}")
    good = len(worst) == len(kinds) and max(worst.values()) < 1e-5
    print("agreement to single precision:", "kept" if good else "NOT KEPT")
    sys.exit(not good)


if __name__ == "__main__":
    main()
