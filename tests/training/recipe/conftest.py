from tests.training.conftest import _one_thread as _one_thread
from tests.training.conftest import make_trainer as make_trainer
from tests.training.conftest import text as text
from tests.training.conftest import weights as weights
