import sys
hooks = [f for f in sys.meta_path if type(f).__module__.startswith("jaxtyping")]
print(hooks)
sys.meta_path[:] = [f for f in sys.meta_path if f not in hooks]
import deleatur.cli
sys.meta_path[:0] = hooks
