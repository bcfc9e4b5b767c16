"""Sends requests from several Python threads to the multi-stream scheduler.

python multi_stream.py model.onnx
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tvm_sparse.compat.deepsparse import Scheduler, compile_model  # was: from deepsparse import ...

STREAMS = 2
REQUESTS = 40

engine = compile_model(
    sys.argv[1], batch_size=1, num_streams=STREAMS, scheduler=Scheduler.multi_stream
)
inputs = engine.generate_random_inputs()
expected = engine.run(inputs)
start = time.perf_counter()
with ThreadPoolExecutor(STREAMS) as pool:
    results = list(pool.map(lambda _: engine.run(inputs), range(REQUESTS)))
print(f"{REQUESTS / (time.perf_counter() - start):.1f} requests/s on {engine.num_streams} streams")
for outputs in results:
    for output, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output, wanted, rtol=1e-3, atol=1e-5)
