"""Rows a second of the training loop on one worker against a hand-written torch loop over the same rows in memory.

python -m benchmarks.training
"""

import argparse
import math

import ray
import torch
from torch.nn import functional

from benchmarks import flights, rounds
from raymlops.lifecycle.cluster import join_cluster
from raymlops.settings import Settings
from raymlops.training.learners.network import network_of
from raymlops.training.loop import train_network
from raymlops.training.rows import LABEL, ResidentRows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    join_cluster(Settings.from_env())
    prepared = flights.prepare_flights(f"training.epochs={options.epochs}")
    job = prepared.job
    arrays = {name: ray.get(getattr(job, name).arrays) for name in ("train", "validation")}
    spec = job.spec.training
    ray.shutdown()
    device = torch.device(options.device)
    rows = {name: ResidentRows(values, device) for name, values in arrays.items()}
    count = rows["train"].count
    tensors = {name: torch.from_numpy(values.copy()).to(device) for name, values in arrays["train"].items()}

    def ours() -> float:
        torch.manual_seed(0)
        network = network_of(job.spec.network, job.packing, job.target).to(device)
        speeds: list[float] = []

        def report(metrics: dict[str, float], snapshot: object) -> bool:
            speeds.append(metrics["rows_per_second"])
            return True

        train_network(
            network,
            rows["train"],
            rows["validation"],
            spec=spec,
            target=job.target,
            device=device,
            report=report,
        )
        return max(speeds)

    def by_hand() -> float:
        torch.manual_seed(0)
        network = network_of(job.spec.network, job.packing, job.target).to(device)
        network.train()
        optimiser = torch.optim.AdamW(network.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)
        steps = options.epochs * math.ceil(count / spec.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=spec.lr, total_steps=steps)
        numeric, category, label = tensors["numeric"], tensors["category"], tensors[LABEL].float()
        speeds = []
        for _ in range(options.epochs):

            def epoch() -> None:
                order = torch.randperm(count, device=device)
                for start in range(0, count, spec.batch_size):
                    chosen = order[start : start + spec.batch_size]
                    optimiser.zero_grad()
                    outputs = network(numeric=numeric[chosen], category=category[chosen])
                    loss = functional.binary_cross_entropy_with_logits(outputs.squeeze(1), label[chosen])
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(network.parameters(), spec.clip_norm)
                    optimiser.step()
                    schedule.step()
                if options.device == "cuda":
                    torch.cuda.synchronize()

            speeds.append(count / rounds.seconds(epoch))
        return max(speeds)

    print(f"{count:,} rows of {len(arrays['train'])} tensors, {options.epochs} epochs; rows a second:")
    medians = rounds.alternate({"raymlops": ours, "by hand": by_hand}, options.rounds)
    rounds.verdict("training loop to a hand-written one", medians["raymlops"] / medians["by hand"], 0.9)


if __name__ == "__main__":
    main()
