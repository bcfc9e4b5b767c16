"""optimum on tvm-sparse: two lines more.

python with_optimum.py FOLDER          a folder with model.onnx, config.json and a tokenizer
"""

import sys

import tvm_sparse.onnxruntime

tvm_sparse.onnxruntime.take_over()  # before optimum takes the class out of onnxruntime

import numpy as np  # noqa: E402
from optimum.onnxruntime import ORTModelForFeatureExtraction  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = ORTModelForFeatureExtraction.from_pretrained(sys.argv[1], file_name="model.onnx")
texts = ["zero weights take no time", "a column of rows"] * 2
encoded = tokenizer(texts, padding="max_length", max_length=16, return_tensors="np")
hidden = model(**encoded).last_hidden_state
mask = encoded["attention_mask"][..., None]
vectors = (hidden * mask).sum(1) / mask.sum(1)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
print(type(model.session).__module__, vectors.shape)
np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)
np.save(sys.argv[3], vectors) if len(sys.argv) > 3 else None
