"""sentence-transformers on tvm-sparse: two lines more.

python with_sentence_transformers.py FOLDER    it has model.onnx, config.json and a tokenizer
"""

import sys

import tvm_sparse.onnxruntime

tvm_sparse.onnxruntime.take_over()  # before optimum takes the class out of onnxruntime

import numpy as np  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402

model = SentenceTransformer(
    sys.argv[1], backend="onnx", model_kwargs={"file_name": "model.onnx", "export": False}
)
vectors = model.encode(
    ["zero weights take no time", "a column of rows"] * 2, normalize_embeddings=True
)
print(type(model[0].auto_model.session).__module__, vectors.shape)
np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)
np.save(sys.argv[3], vectors) if len(sys.argv) > 3 else None
