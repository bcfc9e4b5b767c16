#!/bin/sh
# Creates one virtual environment for each peer of the benchmark, since their pins conflict.
#
#   benchmarks/peers.sh [FOLDER]      default: .peers, where `make benchmark` looks for them
#   PYTHON=python3.11 benchmarks/peers.sh
#
# DeepSparse 1.8.0 needs Python 3.11 or older, NumPy 1 and ONNX below 1.15. Its licence allows
# evaluation only.
set -eu

folder=${1:-.peers}
python=${PYTHON:-python3.11}

create() {
    name=$1
    shift
    "$python" -m venv "$folder/$name"
    NM_DISABLE_ANALYTICS=True "$folder/$name/bin/pip" install --quiet --upgrade "$@"
}

create deepsparse deepsparse==1.8.0 'numpy<2' 'onnx<1.15'
create openvino 'openvino>=2026.0'
echo "The benchmark finds them by: export TVM_SPARSE_PEERS=$(cd "$folder" && pwd)"
