"""How the suite measures: what may be compared, on which inputs, whether results are right, what
the machine can do at best, and how results are kept.

    case        what is measured
    cost        what it costs at least in operations and bytes, and the time of those
    workload    a model and its inputs, or a plain function; inputs rotate beyond the cache
    peers       what ours is compared with, and why a peer cannot run here
    parity      whether an implementation's results count; kinks: what activations leave open
    measure     one case: checked, then timed in turns, with memory, on a clock
    machine     what this machine is, and its ceilings: copy bandwidth, matrix rates
    source      which code a result is of, where there is no repository to ask
    session     a run: its cases, on disk as JSON lines (results) as soon as they are measured;
                drafts: until they take the place of those that are committed
    page        the tables of docs/benchmarks.md
    compare     this tree against its history
"""
