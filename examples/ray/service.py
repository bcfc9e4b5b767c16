"""Serves a library with Ray Serve, from all machines of a cluster.

    pip install "ray[serve]"
    tvm-sparse compile classifier.onnx -o classifier.so --threads 1
    python examples/ray/service.py classifier.so --replicas 8
    curl localhost:8000 -H 'Content-Type: application/json' -d '{"x": [0.5, 0.1, 0.7]}'

A request has the inputs of one row; its answer has the outputs. Rows that come within a few
milliseconds run together, so the first dimension of the model is open (`--shape x=batch,3`).

The other dimensions are fixed. Ray stores the library once a machine, and each replica loads it
once, on one core. Ray Serve replaces replicas that are killed; the requests that they had get
status 500, and the other replicas answer those that follow.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

import tvm_sparse

WAIT = 0.003  # seconds that a row waits for others


Row = dict[str, np.ndarray]
"""Inputs or outputs without their first dimension."""


@serve.deployment
class Service:
    """A replica: it has the engine, and answers requests."""

    def __init__(self, stored: ray.ObjectRef) -> None:
        self.engine = ray.get(stored)

    async def __call__(self, request: Request) -> JSONResponse:
        """Answer with the outputs of a row, or with what is wrong with its inputs."""
        try:
            row = self.row_of(await request.json())
        except ValueError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        outputs = await self.infer(row)
        return JSONResponse({name: output.tolist() for name, output in outputs.items()})

    def row_of(self, fields: Any) -> Row:
        """Return the inputs of a row; raise ValueError for fields that do not fit the model."""
        row = {}
        for spec in self.engine.inputs:
            if not isinstance(fields, dict) or spec.name not in fields:
                raise ValueError(f"a request is an object with {spec.name}")
            row[spec.name] = np.asarray(fields[spec.name], spec.dtype)
            if row[spec.name].shape != spec.shape[1:]:
                got, wanted = row[spec.name].shape, spec.shape[1:]
                raise ValueError(f"{spec.name} has shape {got}, not {wanted}")
        return row

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=WAIT)
    async def infer(self, rows: list[Row]) -> list[Row]:
        """Return the outputs of rows that run together."""
        inputs = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        outputs = self.engine.run(inputs)
        return [{name: outputs[name][i] for name in outputs} for i in range(len(rows))]


def service(engine: tvm_sparse.Engine, replicas: int) -> serve.Application:
    """Return what `serve.run` starts."""
    options = {"num_cpus": engine.threads}
    deployment = Service.options(num_replicas=replicas, ray_actor_options=options)
    return deployment.bind(ray.put(engine))


def main() -> None:
    """Parse the command line, and serve until Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("library")
    parser.add_argument("--replicas", type=int, default=2)
    given = parser.parse_args()
    ray.init()
    serve.run(service(tvm_sparse.load(given.library, threads=1), given.replicas), blocking=True)


if __name__ == "__main__":
    main()
