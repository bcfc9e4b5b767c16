"""Runs a library over a data set, on all machines of a Ray cluster.

    pip install "ray[data]"
    tvm-sparse compile classifier.onnx -o classifier.so --threads 1
    python examples/ray/data_set.py classifier.so images.parquet results/ --workers 8

Each input of the model is a column of the data set, and each output becomes one. The rows of a
batch run together, so the first dimension of the model is open (`--shape x=batch,3,224,224`).

Ray stores the library once a machine, and each worker loads it once, on one core. Ray starts
workers that are killed again, and repeats what they had not finished.
"""

from __future__ import annotations

import argparse

import numpy as np
import ray

import tvm_sparse

Batch = dict[str, np.ndarray]
"""Columns of some rows."""


class Infer:
    """A worker: it has the engine, and adds the outputs of the model to the rows that it gets."""

    def __init__(self, stored: list[ray.ObjectRef]) -> None:
        (self.engine,) = ray.get(stored)

    def __call__(self, batch: Batch) -> Batch:
        """Return the columns of the batch, and those of the outputs."""
        inputs = {
            spec.name: np.ascontiguousarray(batch[spec.name], spec.dtype)
            for spec in self.engine.inputs
        }
        return batch | self.engine.run(inputs)


def infer(
    rows: ray.data.Dataset,
    engine: tvm_sparse.Engine,
    *,
    workers: int,
    batch: int = 32,
    worker: type[Infer] = Infer,
) -> ray.data.Dataset:
    """Return the rows with the outputs of the model, which up to `workers` workers compute."""
    return rows.map_batches(
        worker,
        batch_size=batch,
        # The first worker leaves cores to the tasks that read the rows; the others follow them.
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
        num_cpus=engine.threads,
        # Ray would drop a bare reference when the workers have started, and could not start them
        # again (https://github.com/ray-project/ray/issues/53727).
        fn_constructor_args=([ray.put(engine)],),
    )


def main() -> None:
    """Parse the command line, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("library")
    parser.add_argument("rows", help="a Parquet file, or a folder of them")
    parser.add_argument("results", help="the folder to write")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32, help="rows that run together")
    given = parser.parse_args()
    engine = tvm_sparse.load(given.library, threads=1)
    results = infer(
        ray.data.read_parquet(given.rows), engine, workers=given.workers, batch=given.batch
    )
    results.write_parquet(given.results)


if __name__ == "__main__":
    main()
