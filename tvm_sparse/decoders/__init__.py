"""Language models of Llama's family as ONNX files, in the form of onnxruntime-genai's builder.

The zoo, and the readers of GGUF files and of Hugging Face folders, give sizes and weights;
`write_decoder` writes the file.
"""

from tvm_sparse.decoders.config import DecoderConfig, check_size
from tvm_sparse.decoders.graph import decoder_model
from tvm_sparse.decoders.parameters import Parameter, parameter_names, parameter_shapes
from tvm_sparse.decoders.quantized_rows import QuantizedRows, quantize_rows
from tvm_sparse.decoders.writing import write_decoder

__all__ = [
    "DecoderConfig",
    "Parameter",
    "QuantizedRows",
    "check_size",
    "decoder_model",
    "parameter_names",
    "parameter_shapes",
    "quantize_rows",
    "write_decoder",
]
