"""fastembed on tvm-sparse: two lines more.

python with_fastembed.py FOLDER        a folder with model.onnx and a tokenizer, for example of BERT
"""

import sys

import tvm_sparse.onnxruntime

tvm_sparse.onnxruntime.take_over()  # fastembed's sessions run compiled code from here on

import numpy as np  # noqa: E402
from fastembed import TextEmbedding  # noqa: E402
from fastembed.common.model_description import ModelSource, PoolingType  # noqa: E402

folder, width = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 384
TextEmbedding.add_custom_model(
    model="local/model",
    pooling=PoolingType.MEAN,
    normalization=True,
    sources=ModelSource(hf="local/model"),
    dim=width,
    model_file="model.onnx",
)
model = TextEmbedding("local/model", specific_model_path=folder)
vectors = np.stack(list(model.embed(["zero weights take no time", "a column of rows"] * 2)))
print(type(model.model.model).__module__, vectors.shape)
np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)
np.save(sys.argv[3], vectors) if len(sys.argv) > 3 else None
