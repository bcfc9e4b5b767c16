#!/usr/bin/env bash
# Fetches TVM's runtime for boards with a 64-bit ARM: three libraries, 6 MB, out of its Python
# wheels, of the versions that this machine has.
#
#   ./fetch_runtime.sh FOLDER
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
python=${PYTHON:-python3}
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT

wanted=$("$python" -c 'from importlib.metadata import version as v
print(*(f"{name}=={v(name)}" for name in ("apache-tvm", "apache-tvm-ffi")))')
# shellcheck disable=SC2086  # two words
"$python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$wheels" \
    --python-version 3.11 --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux_2_24_aarch64 $wanted
"$python" - "$wheels" "$folder" <<'PYTHON'
import sys
import zipfile
from pathlib import Path

libraries = ("libtvm_runtime.so", "libtvm_runtime_extra.so", "libtvm_ffi.so")
wheels, folder = map(Path, sys.argv[1:])
for wheel in wheels.glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if Path(name).name in libraries:
                (folder / Path(name).name).write_bytes(archive.read(name))
PYTHON
ls "$folder"
