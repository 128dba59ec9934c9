"""Everything that needs a GPU, in stages: `make gpu`, or python3 -m tools.gpu [STAGE ...].

Runs in the Python that holds torch and triton, installs nothing and needs no network. Correctness
of what ships comes first, the C++ kernels before all; a stage that fails does not keep the next
from running, and each ends in time, keeping what it has: the table at the end tells how each went.

    environment   versions, GPU, driver, clocks
    build         the extension, in place, for this GPU
    test          every test marked `gpu` but those of the sweep
    memcheck      the CUDA kernels under compute-sanitizer
    racecheck     the same, for races in shared memory
    tune          the fastest form of each layer of DCGAN-64
    bench         the suite, its telling cases first
    sweep         every configuration of Triton's kernels, in samples that become the whole
    docs          the tables of docs/benchmarks.md

All results go to bench/results/GPU, or the folder that --results names: what the stages print under
logs/, each test's outcome in test.txt and sweep.txt. Where one call may not last as long as all
stages, `--seconds 570` ends it in time, and the same with --continue goes on in that folder:
stages and tests that passed on the same code are not run again.

More arguments for the tests or benchmarks follow `--`: python3 -m tools.gpu test -- -k norm_act.
"""
