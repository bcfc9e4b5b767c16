"""What holds for every test."""

import logging
import os
import signal
import tempfile

import pytest
from hypothesis import HealthCheck, settings

from tvm_sparse.errors import PLEASE_REPORT
from tvm_sparse.files import CACHE_VARIABLE

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests may import ONNX Runtime before the package

# Tests are right or wrong, however busy the machine is.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Tests share compiled kernels, also those that compile in other processes, and no user's.
_kernels = tempfile.TemporaryDirectory(prefix="tvm_sparse-test-kernels-")
os.environ[CACHE_VARIABLE] = _kernels.name

# A shell that starts the tests in the background lets them ignore some signals, and the programs
# that they start, too. Tests of how programs end send these signals.
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        is_interrupt = _number == signal.SIGINT
        signal.signal(_number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)


class _Reports(logging.Handler):
    """Keeps the warnings that ask users for a report."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.found = []

    def emit(self, record):
        if PLEASE_REPORT in record.getMessage():
            self.found.append(record.getMessage())


@pytest.fixture(autouse=True)
def no_hidden_errors(request):
    """Fail a test in which ONNX Runtime ran a node because our own code fails or is wrong."""
    reports = _Reports()
    logger = logging.getLogger("tvm_sparse")
    logger.addHandler(reports)
    yield
    logger.removeHandler(reports)
    if reports.found and "expects_report" not in request.keywords:
        pytest.fail("\n".join(reports.found))
