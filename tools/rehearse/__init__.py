"""A dry run of training steps on a GPU that is not there.

`python -m tools.rehearse` (`make rehearse`) makes the steps of every recipe, captured and eager, on
fake CUDA tensors: what chooses and launches kernels is the code that runs on a GPU. Every launch is
recorded, checked against the limits of that GPU and compiled for it; what launches Triton's kernels
is called again in its interpreter, with few images, and held against the reference. No GPU and no
CUDA build of torch is needed, only a C++ compiler.

    device.py    what the CPU build of torch lacks to run autograd over fake CUDA tensors
    gpus.py      the GPUs: their limits, and a stand-in for torch.cuda
    record.py    the launches of a step: Triton's, the C++ kernels', ATen's operators
    steps.py     the recipes' trainers, and which of their steps are recorded
    check.py     limits, alignment, waiting, compilation
    execute.py   calls in Triton's interpreter (`interpreter.py`), a process of its own; what
                 PyTorch's own composition errs by (`composition.py`)
    report.py    tables
"""
