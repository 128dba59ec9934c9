"""How the suite measures: what may be compared, on which inputs, whether results are right, what
the machine can do at best, and how results are kept.

    case        what is measured, and what it costs at least in bytes and operations
    workload    modules and inputs: forward, backward, both; inputs rotate beyond the cache
    functions   plain functions of tensors: raw kernels
    step        whole training steps
    peers       what ours is compared with, and why a peer cannot run here
    parity      whether an implementation's results count
    memory      bytes saved for backward, peak memory
    clock       the host's clock, CUDA events, graph replay, clocks and throttling of a GPU
    measure     all of it for one case
    kinks       what activations leave open in a gradient
    breakdown   where the time of a call goes
    machine     what this machine is, and its ceilings: copy bandwidth, matrix rates
    results     JSON lines
    session     a run: its cases, on disk as soon as they are measured
    table       the table that a run prints
    plots       pictures of results
    page        the tables and pictures of docs/benchmarks.md
"""
